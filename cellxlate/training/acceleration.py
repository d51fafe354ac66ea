"""What a CUDA device can do faster: networks in bfloat16, networks compiled. Elsewhere nothing changes."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from cellxlate.settings import TrainSettings


def accelerate(modules: Iterable[nn.Module], settings: TrainSettings, device: torch.device) -> None:
    """Make networks run as the settings ask for, in place; names and values of their weights stay as they are.

    Parameters
    ----------
    modules : iterable of Module
        Networks, or modules that hold networks.
    settings : TrainSettings
        `mixed_precision` and `compile_networks`, which count on CUDA alone.
    device : device
        Where the networks are.

    Notes
    -----
    Only networks run in bfloat16: losses, the imaging process and optimisers stay in float32. bfloat16 has the range of
    float32, so no scaling of the loss is needed. Results are no longer the same to the bit as on a CPU.
    """
    if device.type != "cuda":
        return
    for network in networks_in(modules):
        if settings.mixed_precision and torch.cuda.is_bf16_supported():
            run_in_bfloat16(network, "cuda")
        if settings.compile_networks:
            network.compile()


def networks_in(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Return the layers of each generator and attention network, and each discriminator."""
    found: list[nn.Module] = []
    for module in modules:
        inner = [child for name, child in module.named_modules() if name.split(".")[-1] == "layers"]
        found += inner or [module]
    return found


def run_in_bfloat16(network: nn.Module, device_type: str) -> None:
    """Let a network compute in bfloat16 where that is safe, and return float32."""
    plain = network.forward

    def forward(*inputs: Tensor, **options: bool) -> Tensor:
        with torch.autocast(device_type, dtype=torch.bfloat16):
            outputs: Tensor = plain(*inputs, **options)
        return outputs.float()

    network.forward = forward
