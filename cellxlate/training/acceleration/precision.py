"""What a device can do faster: networks in bfloat16 where that gains time, less work on a CPU, compiling on CUDA."""

import platform
import time
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from cellxlate.model.networks import Generator
from cellxlate.settings import Precision, TrainSettings
from cellxlate.training.acceleration.enlargement import without_enlarging

CLEARLY_FASTER = 1.3
"""How many times faster a CPU must be in bfloat16 for it to be taken."""

PROBE_ROUNDS = 3
LEAST_WORK = 1e8
"""Weights times pixels of a batch; below it little can be gained, and nothing is measured."""


def choose_precision(generator: Generator, settings: TrainSettings, device: torch.device) -> Precision:
    """Decide what the networks of a new run compute in: bfloat16 where the device has it and is clearly faster with it.

    On CUDA it is taken without a measurement; on a CPU the generator of the run, which stays as it is, is measured on a
    batch. A checkpoint keeps what was decided, since that decides the bits of the result.
    """
    if not settings.mixed_precision or not has_bfloat16(device):
        return "float32"
    if device.type == "cuda":
        return "bfloat16"
    side = settings.generalist.generator_px if settings.backward == "any-camera" else settings.patch_px
    weights = sum(weight.numel() for weight in generator.parameters())
    if weights * settings.batch * side**2 < LEAST_WORK:
        return "float32"
    images = torch.full((settings.batch, generator.inputs, side, side), 0.5, device=device)
    return "bfloat16" if gain_of_bfloat16(generator, images) > CLEARLY_FASTER else "float32"


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies in bfloat16 itself; CPUs without such instructions only imitate it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    if platform.machine().lower() in ("arm64", "aarch64"):
        return True
    instructions = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return any(ask is not None and bool(ask()) for ask in instructions)


def gain_of_bfloat16(network: nn.Module, images: Tensor) -> float:
    """Return how many times less time of the CPU a network and its gradients take in bfloat16: the best of some rounds.

    Time of the CPU, since on a busy computer the clock goes on while others compute. No random number is drawn and no
    gradient is left behind.
    """
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    best_s = {False: float("inf"), True: float("inf")}
    for round_number in range(1 + PROBE_ROUNDS):
        for mixed in best_s:
            started = time.process_time()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
                outputs = network(images)
            torch.autograd.grad(outputs.float().sum(), weights)
            if round_number:  # the first one makes ready
                best_s[mixed] = min(best_s[mixed], time.process_time() - started)
    return best_s[False] / best_s[True]


def accelerate(
    modules: Iterable[nn.Module], settings: TrainSettings, device: torch.device, precision: Precision
) -> None:
    """Make networks run in a precision, and faster where they can; names and values of their weights stay as they are.

    The modules, networks or what holds networks, are changed in place. They are compiled on CUDA alone.

    Notes
    -----
    Only networks run in bfloat16: weights, losses, the imaging process and optimisers stay in float32. bfloat16 has the
    range of float32, so no scaling of the loss is needed. Results differ from those of float32, within rounding.
    """
    for network in networks_in(modules):
        shorter = without_enlarging(network) if device.type == "cpu" else None
        if shorter:
            network.forward = shorter
        if precision == "bfloat16":
            run_in_bfloat16(network, device.type)
        if settings.compile_networks and device.type == "cuda":
            network.compile()


def networks_in(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Return the layers of each generator and attention network, and each discriminator."""
    networks: list[nn.Module] = []
    for module in modules:
        inner = [child for name, child in module.named_modules() if name.split(".")[-1] == "layers"]
        networks += inner or [module]
    return networks


def run_in_bfloat16(network: nn.Module, device_type: str) -> None:
    """Let a network compute in bfloat16 where that is safe, and return float32."""
    plain = network.forward

    def forward(*inputs: Tensor, **options: bool) -> Tensor:
        with torch.autocast(device_type, dtype=torch.bfloat16):
            outputs: Tensor = plain(*inputs, **options)
        return outputs.float()

    network.forward = forward
