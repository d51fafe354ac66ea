"""The models that panels offer: shipped, in the current folder, and those chosen or trained in this session."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from weakref import WeakMethod

from cellxlate.errors import CellxlateError, ModelError
from cellxlate.model.cards import AUTO, SHIPPED, card_channels, is_model, list_models, locate, model_folders, read_card


class Shelf:
    """What one session has added; panels of every viewer share it."""

    def __init__(self) -> None:
        self._added: list[str] = []
        self._hearers: list[WeakMethod[Callable[[], None]]] = []

    def tell(self, method: Callable[[], None]) -> None:
        """Call a method of a panel after each addition, for as long as the panel is there.

        Not a signal: an object that goes while a signal of psygnal is emitted makes the emission fail.
        """
        self._hearers.append(WeakMethod(method))

    def tell_no_more(self, method: Callable[[], None]) -> None:
        """Call the method of a panel that is closed no more."""
        self._hearers = [hearer for hearer in self._hearers if hearer() not in (None, method)]

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
            for hearer in tuple(self._hearers):
                if (method := hearer()) is not None:
                    method()
        return path

    def choices(self) -> list[tuple[str, str]]:
        """Return (what is shown, path) of every model once; shipped ones first, with the folder where names recur."""
        listed = [(model["name"], str(Path(model["path"]).resolve())) for model in list_models(Path.cwd())]
        named: dict[str, str] = {}
        for name, path in [*listed, *((Path(path).name, path) for path in self._added)]:
            if path not in named.values() and Path(path).is_dir():
                named[f"{name} ({Path(path).parent})" if name in named else name] = path
        return list(named.items())

    def choices_and_auto(self) -> list[tuple[str, str]]:
        """Return the choices after "auto", which takes the shipped model that suits the image."""
        return [(AUTO, AUTO), *self.choices()]


def knows_neighbours(model: str) -> bool:
    """Return whether a model was trained to see the planes beside each; of "auto", whether one of the shipped was."""
    try:
        folders = list(model_folders(SHIPPED)) if model == AUTO else [locate(model)]
        return any(_states_context(folder, folder.stat().st_mtime_ns) for folder in folders)
    except (CellxlateError, OSError):  # is said where it is used
        return False


@lru_cache(maxsize=64)
def _states_context(folder: Path, _changed_ns: int) -> bool:
    return isinstance(read_card(folder).get("context"), dict)


def channels_beside(model: str) -> tuple[str | None, tuple[str, ...]]:
    """Return what a model changes and what it sees beside that, by the names in its card; none for most models."""
    try:
        folder = None if model == AUTO else locate(model)
        return _stated_channels(folder, folder.stat().st_mtime_ns) if folder else (None, ())
    except (CellxlateError, OSError):  # is said where it is used
        return None, ()


@lru_cache(maxsize=64)
def _stated_channels(folder: Path, _changed_ns: int) -> tuple[str | None, tuple[str, ...]]:
    own, beside = card_channels(read_card(folder))
    return (own if isinstance(own, str) else None), tuple(one for one in beside if isinstance(one, str))


SHELF = Shelf()
