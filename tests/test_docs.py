"""What the documentation says can be done: links lead somewhere, commands exist, examples run."""

import ast
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from zoo_packages import described as zoo_description
from zoo_packages import onnx_of, plain_network, write_package

from cellxlate.cli import main
from cellxlate.cli.parser import build_parser
from cellxlate.settings_file import load_settings
from cellxlate.stacks.samples.nuclei import SampleSettings, simulate
from cellxlate.stacks.write.copy import write_stacks

TOP = Path(__file__).resolve().parents[1]
PAGES = [TOP / "README.md", *sorted((TOP / "docs").rglob("*.md"))]
IDS = [str(page.relative_to(TOP)) for page in PAGES]


def blocks(page: Path, language: str) -> list[str]:
    """Return the code blocks of a language, without the indentation of a list."""
    found = re.findall(rf"^([ ]*)```{language}\n(.*?)^[ ]*```", page.read_text(encoding="utf-8"), re.M | re.S)
    return ["\n".join(line.removeprefix(indent) for line in text.splitlines()) for indent, text in found]


def commands(page: Path, language: str = "bash") -> list[list[str]]:
    """Return every command of this program in the blocks of a page, continued lines joined."""
    lines = "\n".join(blocks(page, language)).replace("\\\n", " ").splitlines()
    parts = [part for line in lines for part in re.split(r"&&", line)]
    words = [shlex.split(part, comments=True) for part in parts]
    return [one[1:] for one in words if one and one[0] == "cellxlate"]


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", head.strip().lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(linked), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_command_that_is_shown_exists(page: Path) -> None:
    for words in commands(page):
        build_parser().parse_args(words)  # leaves with SystemExit where an option is not known


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_panels_are_where_napari_puts_them(page: Path) -> None:
    """A plugin with several panels gets a menu of its own; that of ImageJ is another."""
    named = re.findall(r"Plugins > ([^*.,:\n]*)", page.read_text(encoding="utf-8"))
    assert [name for name in named if not re.match(r"cellxlate( > |$)|Enhance Cells$", name)] == []


def test_every_command_has_a_page() -> None:
    table = (TOP / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")
    (choices,) = (action.choices for action in build_parser()._actions if action.choices and action.dest != "help")
    assert [name for name in choices if f"cellxlate {name}" not in table] == []


def test_both_quick_starts_show_the_same() -> None:
    english, korean = (TOP / "docs" / name for name in ("quick-start.md", "quick-start.ko.md"))
    for language in ("bash", "console"):
        assert blocks(english, language) == blocks(korean, language) != []


ELSEWHERE = {
    "--device cuda": "a graphics card",
    "--scheduler": "a cluster that is set up",
    "://": "a bucket or a web server",
}
"""Signs of a command that needs what a test has not got: it is parsed, and not run."""
QUICKLY = {
    "train": ["--steps", "2", "--quiet"],
    "enhance": ["--overwrite", "--engine", "torch", "--quiet"],
    "demo": ["--overwrite", "--quiet"],
    "export": ["--overwrite"],
}
"""Added to a command, so that it takes seconds and may be shown on several pages."""
OWN_TESTS = ("tutorial/first-stack.md",)


ADAPT = ["--adapt", "1", "-m", "my-model"]
"""In place of --adapt with the seconds of a page: a small model, for as short as it goes."""


def shown(page: Path) -> list[list[str]]:
    """Return the commands of a page that run here."""
    return [words for words in commands(page) if not any(sign in " ".join(words) for sign in ELSEWHERE)]


def pages_with_commands() -> list[Path]:
    return [page for page in PAGES if shown(page) and not str(page).endswith((".ko.md", *OWN_TESTS))]


def put(path: Path, *, seed: int, what: str = "image", cells: float = 0.2) -> None:
    """Put a simulated plane of a field, of its truth, or of its mask where a page expects one."""
    path.parent.mkdir(exist_ok=True, parents=True)
    sample = simulate(SampleSettings(shape=(1, 1, 1, 128, 160), cell_fraction=cells, seed=seed))
    stack = {"image": sample.stack, "truth": sample.truth, "mask": sample.mask}[what]
    if path.suffix == ".zarr":
        write_stacks([(stack, path)])
    else:
        tifffile.imwrite(path, np.asarray(stack).squeeze())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages begin with: stacks, folders of images, a trained model, a result."""
    here = tmp_path_factory.mktemp("shown")
    for name in ("stack.tif", "slide.ome.zarr", "empty/blank.tif"):
        put(here / name, seed=0, cells=0.0 if "empty" in name else 0.2)
    (here / "plate").mkdir()
    two = np.stack([tifffile.imread(here / "stack.tif")] * 2)
    for name in ("a", "b"):
        channels = {"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP"]}}
        tifffile.imwrite(here / "plate" / f"{name}.ome.tif", two, metadata=channels, photometric="minisblack")
    for number, name in enumerate(("faint_stains", "clear_stains") * 2):
        put(here / name / "one.tif", seed=number, what="truth" if "clear" in name else "image")
        stain = tifffile.imread(here / name / "one.tif")
        (here / name / "one.tif").unlink()
        stains = np.stack([stain, stain[::-1]])
        tifffile.imwrite(here / name / f"{number}.ome.tif", stains, metadata=channels, photometric="minisblack")
    (here / "fixed_sample").mkdir()
    tifffile.imwrite(here / "fixed_sample" / "movie.ome.tif", two, metadata={"axes": "TYX"}, photometric="minisblack")
    for place in ("t0_z0_DAPI", "t1_z0_DAPI"):
        put(here / "scan" / f"img_{place}.tif", seed=1)
    for number in range(4):
        put(here / f"faint/{number}.tif", seed=number)
        put(here / f"clear/{number}.tif", seed=number + 10, what="truth")
        put(here / f"test/{number}.tif", seed=number + 20)
        put(here / f"phase/{number}.tif", seed=number + 20)  # `masks` are theirs too
        put(here / f"labelled/{number + 4}.tif", seed=number + 30, what="truth")
        for name, what in (("truth", "truth"), ("test_truth", "truth"), ("masks", "mask"), ("test_masks", "mask")):
            put(here / name / f"{number}.tif", seed=number + 20, what=what)
    few = "batch = 1\npatch_px = 32\n"
    network = onnx_of(plain_network(), (0, 1, 0, 0))
    write_package(here / "denoise.zip", network, zoo_description(network))
    (here / "quick.toml").write_text(few + "[networks.generator]\nwidth = 4\nblocks = 1\n")
    (here / "alone.toml").write_text(f'preset = "alone"\n{few}[alone]\nwindow_px = 96\nwindows = 2\nturns = 1\n')
    before = Path.cwd()
    os.chdir(here)
    try:
        for line in (
            "train --source faint/ --target clear/ -o my-model",
            "enhance test/ empty/ --output-dir out",
            "enhance stack.tif",
            "enhance stack.tif --output-dir results",
            "export my-model --format bioimageio --author A --licence CC0-1.0 -o my-model.zip",
        ):
            run(line.split())
        shutil.copytree("my-model", "adapted/stack_model")
    finally:
        os.chdir(before)
    return here


def run(words: list[str]) -> None:
    """Run a command of the pages, as quickly as it goes."""
    if words[0] == "train":
        shutil.rmtree(words[words.index("-o") + 1], ignore_errors=True)
        words = [*words, "--settings", "quick.toml" if "--target" in words else "alone.toml"]
    if "--adapt" in words:
        place = words.index("--adapt")
        words = [*words[:place], *words[place + (2 if words[place + 1 : place + 2] == ["60"] else 1) :], *ADAPT]
    workers = ["--workers", "1"] if "--workers" in words else []
    assert main([*words, *QUICKLY.get(words[0], []), *workers]) == 0, words


@pytest.mark.parametrize("page", pages_with_commands(), ids=lambda page: str(page.relative_to(TOP)))
def test_every_command_of_a_page_runs(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for words in shown(page):
        run(words)


def test_only_what_needs_another_machine_is_not_run() -> None:
    left = {tuple(words) for page in PAGES for words in commands(page)} - {
        tuple(words) for page in pages_with_commands() for words in shown(page)
    }  # fmt: skip
    left -= {tuple(words) for name in OWN_TESTS for words in commands(TOP / "docs" / name)}
    assert len(left) == 7, left
    assert all(any(sign in " ".join(words) for sign in ELSEWHERE) for words in left)


def test_every_block_that_holds_a_command_says_that_it_is_one() -> None:
    """Or no test would see it."""
    for page in PAGES:
        unnamed = [text for text in blocks(page, "") if re.search(r"^cellxlate ", text, re.M)]
        assert unnamed == [], page


def test_the_settings_that_are_shown_are_settings(tmp_path: Path) -> None:
    for page in ("reference/training.md", "how-to/train.md"):
        (text,) = blocks(TOP / "docs" / page, "toml")
        (tmp_path / "shown.toml").write_text(text, encoding="utf-8")
        assert load_settings(tmp_path / "shown.toml").patch_px == 128


def test_the_script_for_a_cluster_runs(folder: Path, tmp_path: Path) -> None:
    (script,) = blocks(TOP / "docs" / "how-to" / "cluster.md", "python")
    shutil.copy(folder / "stack.tif", tmp_path)
    (tmp_path / "script.py").write_text(script.replace("workers=4", "workers=1"), encoding="utf-8")
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "stack_enhanced.ome.tif").is_file()


def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    page = TOP / "docs" / "tutorial" / "first-stack.md"
    for words in commands(page):
        assert main(words) == 0, words
    (checked,) = blocks(page, "python")
    capsys.readouterr()
    exec(compile(checked, str(page), "exec"), {})
    assert capsys.readouterr().out.strip() == "0"


def test_the_python_of_the_readme_runs(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(folder / "stack.tif", tmp_path)
    monkeypatch.chdir(tmp_path)
    (example,) = blocks(TOP / "README.md", "python")
    names: dict[str, Any] = {}
    exec(compile(example, "README.md", "exec"), names)
    names["stack"].close()
    assert names["result"].image.shape == names["result"].attention.shape
    assert Path("out.ome.zarr").is_dir()


def templates() -> list[str]:
    """Return every text in the source of the program, `…` in the place of what is filled in."""
    found = []
    for path in sorted((TOP / "cellxlate").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
    return found


def test_the_messages_that_are_quoted_are_messages_of_the_program() -> None:
    """Each piece between what is filled in, options and where a remedy begins stands in the source as it is quoted."""
    page = (TOP / "docs" / "how-to" / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^\| \*\*`(.+?)`\*\* \|", page, re.M)
    assert len(quoted) > 30
    known = "\n".join(templates())
    for message in quoted:
        pieces = [piece.strip(" .,;:()") for piece in re.split(r"…|--?[a-z-]+|; ", message)]
        missing = [piece for piece in pieces if piece not in known]
        assert missing == [], message
        assert len("".join(pieces)) > 12, message


def test_the_page_of_options_is_what_the_program_has() -> None:
    made = runpy.run_path(str(TOP / "docs" / "reference" / "make_options.py"))["page"]()
    page = (TOP / "docs" / "reference" / "options.md").read_text(encoding="utf-8")
    assert page == made, "run: python docs/reference/make_options.py"
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) > 70
    assert [line for line in rows if line.endswith("|  |")] == [], "an option without a word of help"
