"""Kill a run at 20 random moments, fill its disk, and compare what --resume gives with an unbroken run.

    python tests/bench/crash.py [--kills 20] [--planes 6] [--seed 0]

Every kill is a kill -9 of the command itself after a random part of the time that an unbroken run takes; one and the
same run is killed and resumed until it finishes, then the next begins. The full disk is a tmpfs that holds half the
result, which needs the right to mount; without it that part says so.
"""

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from cellxlate.stacks.read.open import open_stack

FINAL = ("enhanced", "attention")


def command(stack: Path, output: Path, *options: str) -> list[str]:
    """The command that enhances a stack."""
    return [sys.executable, "-m", "cellxlate", "enhance", str(stack), "-o", str(output), "--engine", "torch", "--quiet",
            *options]  # fmt: skip


def pixels(output: Path) -> list[np.ndarray]:
    """Image and attention of a finished run; reading them shows that both are whole."""
    found = []
    for name in FINAL:
        with open_stack(output.with_name(output.name.replace("enhanced", name))) as stack:
            found.append(np.asarray(stack).copy())
    return found


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    """Whether two runs gave the same pixels."""
    return all(np.array_equal(here, there) for here, there in zip(one, other, strict=True))


def kills_part(
    stack: Path, folder: Path, expected: list[np.ndarray], options: argparse.Namespace, whole_s: float
) -> bool:
    """Kill runs until there have been as many kills as asked for."""
    random.seed(options.seed)
    output, killed, resumed, right = folder / "killed_enhanced.ome.tif", 0, 0, True
    while killed < options.kills:
        for path in folder.glob("killed_*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        while True:
            process = subprocess.Popen(command(stack, output, "--resume"), stderr=subprocess.DEVNULL)
            try:
                process.wait(random.uniform(0.2, 1.0) * whole_s if killed < options.kills else None)
                break
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                killed += 1
                for path in folder.glob("killed_*.ome.tif"):
                    with open_stack(path) as opened:  # whatever has a final name is whole
                        np.asarray(opened)
        resumed += 1
        right &= process.returncode == 0 and same(pixels(output), expected)
        print(f"{killed} kills, {resumed} runs finished, pixels {'equal' if right else 'DIFFER'}", flush=True)
    return right


def full_disk_part(stack: Path, expected: list[np.ndarray]) -> bool | None:
    """Fill a small disk, free it, and resume."""
    place = Path(tempfile.mkdtemp())
    size = f"size={int(0.55 * expected[0].nbytes / 1024)}k"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", place], check=False, capture_output=True)
    if mounted.returncode:
        print(f"no full disk: {mounted.stderr.decode().strip()}")
        return None
    try:
        output = place / "full_enhanced.ome.tif"
        first = subprocess.run(command(stack, output), check=False, capture_output=True, text=True)
        print(f"full disk: exit code {first.returncode}: {first.stderr.strip()}")
        incomplete = output.exists()
        subprocess.run(["mount", "-o", "remount,size=200m", place], check=True)
        again = subprocess.run(command(stack, output, "--resume"), check=False, capture_output=True, text=True)
        right = first.returncode == 2 and not incomplete and again.returncode == 0 and same(pixels(output), expected)
        print(f"full disk: resumed, pixels {'equal' if right else 'DIFFER'} {again.stderr.strip()}")
        return right
    finally:
        subprocess.run(["umount", place], check=False)


def main() -> None:
    """Kill, fill, compare; exit code 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--planes", type=int, default=6)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stack = folder / "stack.ome.tif"
        shape = f"{options.planes},1,1,{options.side},{options.side}"
        subprocess.run([sys.executable, "-m", "cellxlate", "sample", stack, "--shape", shape, "--quiet"], check=True)
        started = time.perf_counter()
        subprocess.run(command(stack, folder / "whole_enhanced.ome.tif"), check=True)
        whole_s = time.perf_counter() - started
        print(f"an unbroken run takes {whole_s:.1f} s")
        expected = pixels(folder / "whole_enhanced.ome.tif")
        right = [full_disk_part(stack, expected), kills_part(stack, folder, expected, options, whole_s)]
    if False in right:
        sys.exit(1)


if __name__ == "__main__":
    main()
