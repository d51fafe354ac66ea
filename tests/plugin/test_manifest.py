"""The manifest: npe2 accepts it, every name in it exists, and the installed package carries this very file."""

import importlib
import inspect
from importlib.metadata import distribution
from pathlib import Path

import pytest

npe2 = pytest.importorskip("npe2")

TOP_LEVEL = Path(__file__).resolve().parents[2] / "napari.yaml"


@pytest.fixture(scope="module")
def manifest():
    return npe2.PluginManifest.from_distribution("cellxlate")


def installed_file() -> Path:
    """The manifest that the entry point of the installed package names."""
    (point,) = [point for point in distribution("cellxlate").entry_points if point.group == "napari.manifest"]
    package, _, file = point.value.partition(":")
    return Path(importlib.import_module(package).__file__).parent / file


def test_npe2_accepts_it():
    found = npe2.PluginManifest.from_file(TOP_LEVEL)
    found.validate_imports()
    assert found.name == "cellxlate"


def test_the_installed_package_carries_the_top_level_file(manifest):
    if not TOP_LEVEL.exists():
        pytest.skip("the tests run without the repository's top level")
    assert installed_file().read_bytes() == TOP_LEVEL.read_bytes()
    assert manifest.contributions == npe2.PluginManifest.from_file(TOP_LEVEL).contributions


def test_every_command_names_something_that_can_be_called(manifest):
    commands = manifest.contributions.commands
    assert commands
    for command in commands:
        module, _, name = command.python_name.partition(":")
        called = getattr(importlib.import_module(module), name)
        assert callable(called), command.python_name
        if inspect.isfunction(called):
            assert called.__doc__, command.python_name


def test_every_contribution_uses_a_command_of_its_own_package(manifest):
    commands = {command.id for command in manifest.contributions.commands}
    assert all(name.startswith("cellxlate.") for name in commands)
    contributions = manifest.contributions
    used = {
        item.command
        for group in (contributions.sample_data, contributions.widgets, contributions.readers, contributions.writers)
        for item in group or ()
    }
    assert used <= commands


def test_offers_samples_in_two_and_three_dimensions_and_time(manifest):
    samples = manifest.contributions.sample_data
    assert [sample.key for sample in samples] == ["nuclei", "nuclei_3d", "nuclei_time"]
    assert len({sample.display_name for sample in samples}) == 3
