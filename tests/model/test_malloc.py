"""What a window has freed is there for the next one, instead of going back to the system and being cleared again."""

import os
import platform
import subprocess
import sys

import pytest

COUNT_FAULTS = """
import resource
from cellxlate.model.engines.malloc import keep_freed_memory
keep_freed_memory({leave})
for _ in range(3):
    bytearray(4_000_000), bytearray(6_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    bytearray(4_000_000), bytearray(6_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(*, leave: str, **environment: str) -> int:
    """Pages that the system has to bring while 20 pairs of arrays are taken and freed."""
    program = COUNT_FAULTS.format(leave=leave)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=inherited | environment, check=True, capture_output=True, text=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have other ways")
def test_freed_memory_is_kept_and_what_the_environment_sets_stays_unless_it_is_asked_for_all() -> None:
    dask = {"MALLOC_TRIM_THRESHOLD_": "65536"}
    assert page_faults(leave="") < 200
    assert page_faults(leave="", **dask) > 20_000
    assert page_faults(leave="()", **dask) < 200
