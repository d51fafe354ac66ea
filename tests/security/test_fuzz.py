"""Random damage to headers of models and of TIFF files: an answer or one line, soon, and in bounded memory.

CELLXLATE_FUZZ sets the number of headers of each kind; 10000 were run for the numbers in docs/security.md.
"""

import hashlib
import json
import os
import shutil
import time
from pathlib import Path
from random import Random

import numpy as np
import tifffile

from cellxlate.errors import InputError, ModelError
from cellxlate.model.bundle import load_model
from cellxlate.stacks.read.open import open_stack

CASES = int(os.environ.get("CELLXLATE_FUZZ", "400"))
LONGEST_S = 5.0
NUMBERS = (0, 1, 2, 7, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)


def damaged(content: bytes, random: Random, within: int) -> bytes:
    """Return content with one to four places of its first `within` bytes changed, cut or repeated."""
    changed = bytearray(content)
    for _ in range(random.randint(1, 4)):
        at, kind = random.randrange(min(within, len(changed))), random.randrange(5)
        if kind == 0:
            changed[at] = random.randrange(256)
        elif kind == 1:
            width = random.choice((2, 4, 8))
            changed[at : at + width] = (random.choice(NUMBERS) & (256**width - 1)).to_bytes(width, "little")
        elif kind == 2:
            changed[at] ^= 1 << random.randrange(8)
        elif kind == 3:
            changed[at : at + random.randint(1, 16)] = random.randbytes(random.randint(0, 16))
        elif random.random() < 0.1:
            del changed[at:]
    return bytes(changed) or b"\0"


def one_line(fault: Exception) -> None:
    assert "\n" not in str(fault)
    assert len(str(fault)) < 3000


def test_headers_of_models(tmp_path, tiny_model, bounded):
    random = Random(1)
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    weights, card = (folder / "weights.safetensors").read_bytes(), json.loads((folder / "card.json").read_text())
    header_bytes = 8 + int.from_bytes(weights[:8], "little")
    loaded = 0
    for number in range(CASES):
        stored, text = weights, card
        if number % 2:
            stored = damaged(weights, random, header_bytes)
        content = json.dumps(text | {"weights_sha256": hashlib.sha256(stored).hexdigest()}).encode()
        if not number % 2:
            content = damaged(content, random, len(content))
        (folder / "weights.safetensors").write_bytes(stored)
        (folder / "card.json").write_bytes(content)
        started = time.perf_counter()
        try:
            load_model(folder)
            loaded += 1
        except ModelError as fault:
            one_line(fault)
        assert time.perf_counter() - started < LONGEST_S
    assert 0 < loaded < CASES


def seeds(folder: Path) -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 200, (3, 40, 50)).astype(np.uint16)
    kinds: list[dict[str, object]] = [
        {}, {"bigtiff": True}, {"byteorder": ">"}, {"imagej": True}, {"ome": True}, {"tile": (16, 16)},
        {"compression": "lzw"}, {"compression": "zstd", "predictor": 2}, {"compression": "zlib", "rowsperstrip": 7},
    ]  # fmt: skip
    found = []
    for kind in kinds:
        tifffile.imwrite(folder / "seed.tif", pixels, photometric="minisblack", **kind)
        found.append((folder / "seed.tif").read_bytes())
    return found


def test_headers_of_tiff_files(tmp_path, bounded):
    random, path = Random(2), tmp_path / "a.tif"
    originals, opened = seeds(tmp_path), 0
    for number in range(CASES):
        content = originals[number % len(originals)]
        at = 0 if number % 3 else len(content) - 400  # directories lie at the start, or behind the pixels
        content = content[:at] + damaged(content[at:], random, 600)
        path.write_bytes(content)
        started = time.perf_counter()
        try:
            with open_stack(path) as stack:
                corner = stack.read((0,) * len(stack.plane_axes), slice(0, 8), slice(0, 8))
                assert corner.nbytes <= 64 * 8
                opened += 1
        except InputError as fault:
            one_line(fault)
        assert time.perf_counter() - started < LONGEST_S
    assert 0 < opened < CASES
