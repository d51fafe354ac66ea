"""What several tests share: where the real images lie, and when their absence is a failure."""

import os
from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
REQUIRE_ALL = os.environ.get("CELLXLATE_REQUIRE_ALL") == "1"
"""Set where nothing may be skipped (.ci/run): a missing screen or missing images then fail."""


def skip_or_fail(reason: str) -> None:
    if REQUIRE_ALL:
        pytest.fail(f"CELLXLATE_REQUIRE_ALL is set, but {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def real_images() -> Path:
    """The folder of real microscope images; tests that need it are skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        skip_or_fail("the real microscope images are not beside the project (../shared/data)")
    return SHARED_DATA


@pytest.fixture(autouse=True)
def _screen(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("display") and not os.environ.get("DISPLAY"):
        skip_or_fail("there is no screen (start the tests with xvfb-run)")
