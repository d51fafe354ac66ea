"""Train the comparison of unpaired methods, one run after another; start, kill and start again as often as you like.

    export PYTHONPATH=CHECKOUT:CHECKOUT/tests/bench          # of a copy of the code that nobody edits meanwhile
    python -m paper.run next --shared ../shared/data --work WORK    # the next run that is not finished, to its end
    sh tests/bench/paper/queue.sh ../shared/data WORK 2             # all of them, two at a time, in the background
    python -m paper.run list --work WORK                            # what is finished, and how far the others are

All methods see the same images in the same order, with the same networks, for the same number of steps
(`methods.py`). Some of the target images are held out and degraded for validation (`data.py`); test images are read by
the scorer alone. WORK/runs/NAME holds a checkpoint every 256 steps, `outcome.json` when the run is finished, the
weights that validated best and the last. A run goes on from its checkpoint to the bit, on one thread of the same kind
of processor; several workers share WORK, each claims one run at a time.
"""

import json
import sys
import traceback
from pathlib import Path

import torch

from paper.data import parser_of
from paper.methods import QUEUE, Planned
from paper.train import OUTCOME, claimed, train
from paper.translate import merit

NOTHING_LEFT, MOST_FAULTS = 3, 3


def take_next(shared: Path, work: Path) -> int:
    """Train the first run that is neither finished nor claimed; return 3 where there is none.

    A run that has failed three times is left alone, so that those after it get their turn.
    """
    for planned in QUEUE:
        folder = work / "runs" / planned.name
        if (folder / OUTCOME).exists() or faults_of(folder) >= MOST_FAULTS:
            continue
        with claimed(folder) as is_ours:
            if is_ours and not (folder / OUTCOME).exists():
                print(f"== {planned.name}", flush=True)
                try:
                    train(planned, shared, work)
                except Exception:  # noqa: BLE001 - whatever it was is kept, and the next run begins
                    fault = traceback.format_exc()
                    print(fault, flush=True)
                    (folder / f"fault-{faults_of(folder) + 1}.txt").write_text(fault)
                    return 1
                return 0
    return NOTHING_LEFT


def faults_of(folder: Path) -> int:
    """Return how many times a run has ended with a fault of the program; being killed is none."""
    return len(list(folder.glob("fault-*.txt")))


def state_of(planned: Planned, work: Path) -> str:
    """Return how far a run is, in a line."""
    folder = work / "runs" / planned.name
    for name, word in ((OUTCOME, "finished"), ("progress.json", "under way")):
        if (folder / name).exists():
            notes = json.loads((folder / name).read_text())
            best = max(map(merit, notes["validation"]), default=None)
            psnr = "" if best is None else f", best validation {best:.3f}"
            failed = f", {notes['failed']}" if "failed" in notes else ""
            return f"{word}: step {notes['step']}, {notes['cpu_s'] / 3600:.2f} h of a core{psnr}{failed}"
    return f"failed {faults_of(folder)} times" if faults_of(folder) else "to come"


def main() -> None:
    """Do what the command line says."""
    parser = parser_of(__doc__)
    parser.add_argument("what", choices=("next", "list"))
    options = parser.parse_args()
    if options.what == "list":
        for planned in QUEUE:
            print(f"{planned.name:24}{state_of(planned, options.work)}")
        return
    torch.set_num_threads(1)
    sys.exit(take_next(options.shared, options.work))


if __name__ == "__main__":
    main()
