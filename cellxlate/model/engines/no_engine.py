"""In place of an engine where no network runs: attention is given, and something else than a generator proposes."""

from dataclasses import dataclass
from typing import NoReturn

from cellxlate.model.attention import Floats


@dataclass(frozen=True)
class NoEngine:
    """Has what `engine.EngineTranslator` has, and looks at nothing."""

    name: str = "no network"
    identity: str = "none cpu float32"
    warnings: tuple[str, ...] = ()
    stride: int = 1
    generator_halo_px: int = 0
    attention_halo_px: int = 0
    activation_bytes_per_px: float = 0.0

    def attention(self, images: Floats, /) -> NoReturn:
        """Nobody asks."""
        raise RuntimeError(f"there is no network for images {images.shape}")

    proposal = attention


NO_ENGINE = NoEngine()
