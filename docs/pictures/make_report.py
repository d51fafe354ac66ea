"""Take pictures of the report of a simulated stack in a browser: `python docs/pictures/make_report.py`."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import cellxlate
from cellxlate.stacks.samples.nuclei import SampleSettings, simulate
from cellxlate.stacks.write.copy import write_stacks

FOLDER = Path(__file__).parent
WINDOWS = {"report_desktop": (1100, 1500), "report_phone": (500, 1500)}
"""Width and height; a headless Chromium has no narrower window than 500."""


def main() -> None:
    """Simulate, enhance, and take both pictures."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("there is no chromium")
    folder = Path(tempfile.mkdtemp())
    sample = simulate(SampleSettings(shape=(1, 1, 1, 400, 500), seed=0))
    write_stacks([(sample.stack, folder / "cells.ome.tif")])
    cellxlate.enhance_file(folder / "cells.ome.tif")
    for name, (width, height) in WINDOWS.items():
        subprocess.run(
            [
                chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                f"--user-data-dir={folder / name}", f"--window-size={width},{height}",
                f"--screenshot={FOLDER / name}.png", (folder / "cells_report.html").as_uri(),
            ],
            check=True, capture_output=True, timeout=300,
        )  # fmt: skip


if __name__ == "__main__":
    main()
