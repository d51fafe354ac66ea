"""The models that panels offer, and who is told of a new one."""

import gc
from pathlib import Path
from typing import Any

from cellxlate.plugin.models import Shelf


class Panel:
    """Stands for a panel; it can let go of another when it hears."""

    def __init__(self, other: "Panel | None" = None) -> None:
        self.heard, self.other, self.itself = 0, other, self  # a cycle, as in a panel: only the collector ends it

    def hear(self) -> None:
        self.heard += 1
        self.other = None
        gc.collect()


def test_a_panel_that_goes_while_others_are_told_is_no_fault(
    tiny_model: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    shelf, going = Shelf(), Panel()
    staying = Panel(going)
    shelf.tell(staying.hear)
    shelf.tell(going.hear)
    del going
    shelf.add(tiny_model)
    assert staying.heard == 1


def test_a_panel_hears_of_each_model_once_until_it_is_closed(
    tiny_model: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    shelf, panel = Shelf(), Panel()
    shelf.tell(panel.hear)
    shelf.add(tiny_model)
    shelf.add(tiny_model)
    assert panel.heard == 1, "it was there already the second time"
    shelf.tell_no_more(panel.hear)
    monkeypatch.setattr(shelf, "_added", [])
    shelf.add(tiny_model)
    assert panel.heard == 1
