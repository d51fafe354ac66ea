"""CUT: one direction, whose features at a place must tell that place of the input from others.

References
----------
T. Park, A. A. Efros, R. Zhang, J.-Y. Zhu, Contrastive learning for unpaired image-to-image translation, ECCV 2020,
arXiv 2007.15651: patchwise contrastive loss in five depths of the generator, with the identity of targets.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from cellxlate.model.networks import Discriminator, Generator, TranslatorNetworks, attend_everywhere
from cellxlate.settings import TrainSettings
from cellxlate.training import losses
from cellxlate.training.losses import HistoryPool
from cellxlate.training.steps import Draw, adam, move, placed, signed

TEMPERATURE, PLACES, HEAD_WIDTH = 0.07, 256, 256
INPUT, CONVOLUTIONS, FIRST_BLOCK = -1, (3, 6), 9
"""Where features are taken from a `resnet` generator: its input, the two convolutions of stride 2, and two blocks."""


def contrast(queries: Tensor, keys: Tensor) -> Tensor:
    """Return the mean cross-entropy of telling each query's own key from those of other places.

    Parameters
    ----------
    queries, keys : Tensor (places, channels)
        Of length 1. No gradient passes through the keys.
    """
    likeness = queries @ keys.detach().T / TEMPERATURE
    return functional.cross_entropy(likeness, torch.arange(len(queries), device=queries.device))


class Heads(nn.Module):
    """Two layers for each depth, which make features at some places comparable."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(width, HEAD_WIDTH), nn.ReLU(), nn.Linear(HEAD_WIDTH, HEAD_WIDTH))
            for width in widths
        )
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, features: list[Tensor], places: list[Tensor]) -> list[Tensor]:
        """Map features (1, C, Y, X) of each depth to vectors (places, HEAD_WIDTH) of length 1."""
        made = []
        for head, deep, at in zip(self.heads, features, places, strict=True):
            vectors = deep[0].flatten(1).T[at]  # (places, C)
            made.append(functional.normalize(head(vectors), dim=1))
        return made


class CutStep:
    """The generator fools a discriminator and keeps its input's content by contrast; targets should stay as they are.

    The generator and the discriminator are those of the other methods; there is no way back, no pool of older images,
    and no attention.
    """

    def __init__(self, settings: TrainSettings, device: torch.device, *, mixed: bool) -> None:
        networks = settings.networks
        self.mixed = mixed
        self.translator = placed(TranslatorNetworks(networks), device)
        self.judge_target = placed(Discriminator(networks.discriminator, networks.channels), device)
        width = networks.generator.width
        self.depths = (INPUT, *CONVOLUTIONS, FIRST_BLOCK, FIRST_BLOCK + min(4, networks.generator.blocks - 1))
        self.heads = Heads([networks.channels, 2 * width, 4 * width, 4 * width, 4 * width]).to(device)
        self.modules: dict[str, nn.Module] = {
            "translator": self.translator, "judge_target": self.judge_target, "heads": self.heads,
        }  # fmt: skip
        self.optimisers = {
            "generators": adam(self.translator.generator.parameters(), settings),
            "heads": adam(self.heads.parameters(), settings),
            "judges": adam(self.judge_target.parameters(), settings),
        }
        self.pools: dict[str, HistoryPool] = {}
        attend_everywhere(self.translator.attention)

    def prepare(self, source: Draw, target: Draw, rng: torch.Generator) -> tuple[Draw, Draw]:
        """Return the patches as they are."""
        return source, target

    def run(self, source: Draw, target: Draw, *, switched: bool, rng: torch.Generator) -> dict[str, Tensor]:
        """Move the generator with the heads, then the discriminator."""
        generator = self.translator.generator
        made, kept = (generator(one.images) for one in (source, target))
        self.judge_target.requires_grad_(False)
        terms = {
            "adversarial": losses.generated_as_real(self.judge_target(signed(made), normalised=True)),
            "contrast_source": self._contrast(generator, source.images, made, rng),
            "contrast_target": self._contrast(generator, target.images, kept, rng),
        }
        total = terms["adversarial"] + 0.5 * (terms["contrast_source"] + terms["contrast_target"])
        move([self.optimisers["generators"], self.optimisers["heads"]], total)
        self.judge_target.requires_grad_(True)
        judged = losses.real_from_generated(
            self.judge_target(signed(target.images), normalised=True),
            self.judge_target(signed(made.detach()), normalised=True),
        )
        move([self.optimisers["judges"]], judged)
        return terms | {"judge_target": judged, "total": total}

    def _contrast(self, generator: Generator, images: Tensor, made: Tensor, rng: torch.Generator) -> Tensor:
        """Return the mean over depths of the contrast between what was made and what it was made of."""
        with torch.no_grad():
            deep = features(generator, images, self.depths, mixed=self.mixed)
        places = [torch.randperm(one.shape[2] * one.shape[3], generator=rng)[:PLACES] for one in deep]
        keys = self.heads(deep, places)
        queries = self.heads(features(generator, made, self.depths, mixed=self.mixed), places)
        return torch.stack([contrast(ours, theirs) for ours, theirs in zip(queries, keys, strict=True)]).mean()


def features(generator: Generator, images: Tensor, depths: tuple[int, ...], *, mixed: bool) -> list[Tensor]:
    """Return what enters a generator and what leaves some of its layers, (B, C, Y, X) in float32."""
    current = signed(images).clamp(-1, 1)
    taken = [current]
    with torch.autocast(images.device.type, torch.bfloat16, enabled=mixed):
        for number, layer in enumerate(generator.layers):
            current = layer(current)
            if number in depths:
                taken.append(current.float())
            if number == depths[-1]:
                break
    return taken
