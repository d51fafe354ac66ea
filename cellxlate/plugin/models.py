"""The models that panels offer: shipped, in the current folder, and those chosen or trained in this session."""

from collections.abc import Iterator
from pathlib import Path

from psygnal import Signal

from cellxlate.errors import ModelError
from cellxlate.model.cards import AUTO, is_model, list_models


class Shelf:
    """What one session has added; panels of every viewer share it.

    Attributes
    ----------
    changed : Signal
        Emitted with the path of a model that was added.
    """

    changed = Signal(str)

    def __init__(self) -> None:
        self._added: list[str] = []

    def add(self, folder: str | Path) -> str:
        """Add a model folder, and return it as it stands among the choices.

        Raises
        ------
        ModelError
            It is no model folder.
        """
        if not is_model(folder):
            raise ModelError(f"{folder} is no model folder (it holds no card.json); choose the folder of one model")
        path = str(Path(folder).resolve()) if Path(folder).is_dir() else str(folder)
        if path not in [known for _, known in self.choices()]:
            self._added.append(path)
            self.changed.emit(path)
        return path

    def choices(self) -> list[tuple[str, str]]:
        """Return (what is shown, path) of every model; the shipped ones come first."""
        return list(_distinct(_listed(), self._added))

    def choices_and_auto(self) -> list[tuple[str, str]]:
        """Return the choices after "auto", which takes the shipped model that suits the image."""
        return [(AUTO, AUTO), *self.choices()]


def _listed() -> Iterator[tuple[str, str]]:
    for model in list_models(Path.cwd()):
        yield model["name"], str(Path(model["path"]).resolve())


def _distinct(listed: Iterator[tuple[str, str]], added: list[str]) -> Iterator[tuple[str, str]]:
    """Yield all once; names that occur twice are shown with their folder."""
    named: dict[str, str] = {}
    for name, path in [*listed, *((Path(path).name, path) for path in added)]:
        if path in named.values() or not Path(path).is_dir():
            continue
        named[f"{name} ({Path(path).parent})" if name in named else name] = path
    yield from named.items()


SHELF = Shelf()
