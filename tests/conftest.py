"""What several tests share: where the real images lie, and when their absence is a failure."""

import logging
import os
import shutil
import signal
import uuid
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
REQUIRE_ALL = os.environ.get("CELLXLATE_REQUIRE_ALL") == "1"
"""Set where nothing may be skipped (.ci/run): a missing screen or missing images then fail."""

CARD = os.environ.get("CELLXLATE_CARD", "")
"""What tests marked `cuda` run on, as tests/bench/gpu.sh says: "cuda", which must be there, or "cpu", which stands in
for a card to try the tests. Where nobody says, they run on a card that is found and are skipped where none is: a card
cannot be installed, so REQUIRE_ALL asks for none."""


def skip_or_fail(reason: str) -> None:
    if REQUIRE_ALL:
        pytest.fail(f"CELLXLATE_REQUIRE_ALL is set, but {reason}")
    pytest.skip(reason)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return how many processes share the tests: one per core for whole rooms, none for files that are named.

    Each comes to hold up to 7 GB by the end: engines and what they have prepared for windows of many shapes.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 8e9
    return (
        max(1, min(4, cores, int(memory_bytes / 8e9)))
        if all(Path(argument).is_dir() for argument in config.args)
        else 0
    )


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_is_heard() -> None:
    """A job in the background of a shell is started with Ctrl-C ignored, and so are its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small networks on one thread: faster on a busy machine, and the same bits on every run."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def real_images() -> Path:
    """The folder of real microscope images; tests that need it are skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        skip_or_fail("the real microscope images are not beside the project (../shared/data)")
    return SHARED_DATA


@pytest.fixture(autouse=True)
def _screen(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("display") and not os.environ.get("DISPLAY"):
        skip_or_fail("there is no screen (start the tests with xvfb-run)")


@pytest.fixture(autouse=True)
def _card(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("cuda") and CARD != "cpu":
        import torch

        if not torch.cuda.is_available():
            if CARD:
                pytest.fail(f"CELLXLATE_CARD={CARD}, but torch {torch.__version__} finds no CUDA device")
            pytest.skip(f"there is no CUDA device that torch {torch.__version__} can use")


@pytest.fixture
def card() -> str:
    """The device that tests marked `cuda` run on."""
    return CARD or "cuda"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with small, seeded, untrained networks that select some pixels of a noisy ramp and keep others."""
    import torch

    from cellxlate.model.bundle import save_bundle
    from cellxlate.model.networks import TranslatorNetworks
    from cellxlate.settings import AttentionSettings, DiscriminatorSettings, GeneratorSettings, NetworkSettings

    networks = NetworkSettings(
        generator=GeneratorSettings(architecture="compact", width=6, blocks=1, normalisation="none"),
        attention=AttentionSettings(
            width=4, stem_kernel_px=5, blocks=1, last_width=4, last_kernel_px=3, normalisation="none"
        ),
        discriminator=DiscriminatorSettings(width=4, layers=1, normalisation="none"),
    )
    torch.manual_seed(3)
    translator = TranslatorNetworks(networks)
    with torch.no_grad():
        for parameter in translator.generator.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
        last = translator.attention.layers[-1]
        assert isinstance(last, torch.nn.Conv2d)
        ramp = torch.linspace(0, 1, 128).expand(1, 1, 128, 128)
        noise = 0.1 * torch.randn(ramp.shape, generator=torch.Generator().manual_seed(5))
        last.weight *= 8 / translator.attention.logits(ramp + noise).std()
        last.bias -= translator.attention.logits(ramp + noise).median()
    card = {
        "preset": "fast",
        "networks": asdict(networks),
        "statistics": {},
        "intensity": {"target": {"black_counts": 150.0, "span_counts": 800.0}},
        "training": {},
        "scores": {},
        "licence": "CC0-1.0",
    }
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_bundle(folder, translator.eval(), card, b"")
    return folder


@pytest.fixture(scope="session")
def models_in_context(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two models that have `tiny_model`'s networks, and a pair that sees two planes on either side of one.

    "blind" makes nothing of them, so it answers as without; "seeing" does.
    """
    import torch

    from cellxlate.model.bundle import load_model, save_bundle
    from cellxlate.model.networks import seeing_neighbours

    tiny, folder = load_model(tiny_model), tmp_path_factory.mktemp("in-context")
    for name, spread in (("blind", 0.0), ("seeing", 0.1)):
        torch.manual_seed(4)
        pair = seeing_neighbours(tiny.translator, 2)
        with torch.no_grad():
            for first in (next(pair.generator.parameters()), next(pair.attention.parameters())):
                first.add_(spread * torch.randn(first.shape))
        save_bundle(folder / name, tiny.translator, dict(tiny.card), b"", pair.eval())
    return {name: folder / name for name in ("blind", "seeing")}


@pytest.fixture(scope="session")
def models_beside(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two models with `tiny_model`'s networks that see DAPI beside GFP, which they change.

    "blind" makes nothing of it, so it answers as without; "seeing" does.
    """
    import torch

    from cellxlate.model.bundle import load_model, save_bundle
    from cellxlate.model.networks import seeing_neighbours

    tiny, folder = load_model(tiny_model), tmp_path_factory.mktemp("beside")
    for name, spread in (("blind", 0.0), ("seeing", 0.1)):
        torch.manual_seed(4)
        wider = seeing_neighbours(tiny.translator, 0, beside=1)
        with torch.no_grad():
            for first in (next(wider.generator.parameters()), next(wider.attention.parameters())):
                first.add_(spread * torch.randn(first.shape))
        card = {**tiny.card, "networks": asdict(wider.settings), "channels": {"own": "GFP", "beside": ["DAPI"]}}
        save_bundle(folder / name, wider.eval(), card, b"")
    return {name: folder / name for name in ("blind", "seeing")}


@pytest.fixture(scope="session")
def remote_packages() -> None:
    """What speaks to buckets and the web, and a store of objects to test against."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import aiohttp  # noqa: F401
            import moto.server  # noqa: F401
            import s3fs  # noqa: F401
    except ImportError as fault:
        skip_or_fail(f'a package is missing ({fault}; pip install "cellxlate[remote]" "moto[server]")')


@pytest.fixture(scope="session")
def h5py() -> Any:
    """What reads and writes Imaris files."""
    try:
        import h5py
    except ImportError as fault:
        skip_or_fail(f'a package is missing ({fault}; pip install "cellxlate[vendor]")')
    return h5py


@pytest.fixture(scope="session")
def imagej() -> Path:
    """ImageJ's program, a jar: Debian's, or the one that IMAGEJ_JAR names (as Fiji.app/jars/ij-1.54p.jar)."""
    jar = Path(os.environ.get("IMAGEJ_JAR", "/usr/share/java/ij.jar"))
    if not (jar.exists() and shutil.which("java")):
        skip = pytest.skip if os.environ.get("CELLXLATE_WITHOUT_IMAGEJ") else skip_or_fail  # no package index has it
        skip("ImageJ is not installed (apt-get install imagej)")
    return jar


@pytest.fixture(scope="session")
def _object_store(remote_packages: None) -> Iterator[str]:
    """The address of a store of objects on this machine."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(_object_store: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty bucket, whose key and endpoint stand in the environment."""
    import boto3

    name = f"lab-{uuid.uuid4().hex[:12]}"
    settings = {
        "AWS_ACCESS_KEY_ID": "KEYTHATNOBODYMAYSEE", "AWS_SECRET_ACCESS_KEY": "secretthatnobodymaysee",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": _object_store, "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }  # fmt: skip
    for variable, value in settings.items():
        monkeypatch.setenv(variable, value)
    boto3.client("s3", endpoint_url=_object_store).create_bucket(Bucket=name)
    return f"s3://{name}"
