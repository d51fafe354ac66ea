"""A run on disk: everything comes back, and damage is told."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from cellxlate.errors import ModelError, OutputError
from cellxlate.training.checkpoint import CHECKPOINT, RunState, read_notes, restore_checkpoint, save_checkpoint
from cellxlate.training.losses import HistoryPool


def state(seed: int, size: int = 3) -> RunState:
    torch.manual_seed(seed)
    network = nn.Linear(size, 2)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        network(torch.rand(4, size)).pow(2).sum().backward()
        optimiser.step()
    pool = HistoryPool(2)
    pool.exchange(torch.rand(2, 1, 3, 3), torch.rand(2, 1, 3, 3), torch.Generator())
    return RunState({"network": network}, {"network": optimiser}, {"target": pool, "empty": HistoryPool(4)})


def test_weights_optimisers_and_pools_come_back_to_the_bit(tmp_path):
    saved, other = state(0), state(1)
    save_checkpoint(tmp_path, saved, {"step": 3})
    restore_checkpoint(tmp_path, other)
    for key, value in saved.modules["network"].state_dict().items():
        assert torch.equal(other.modules["network"].state_dict()[key], value)
    one, two = (each.optimisers["network"].state_dict()["state"] for each in (saved, other))
    for place, moments in one.items():
        for name, value in moments.items():
            assert torch.equal(two[place][name], value)
    assert len(other.pools["target"].pairs) == 2
    for (image, mask), (image2, mask2) in zip(saved.pools["target"].pairs, other.pools["target"].pairs, strict=True):
        assert torch.equal(image, image2)
        assert torch.equal(mask, mask2)
    assert other.pools["empty"].pairs == []


def test_what_adam_keeps_comes_back_in_the_memory_order_of_the_weights(tmp_path):
    def layer() -> tuple[nn.Conv2d, torch.optim.Optimizer]:
        network = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        return network, torch.optim.Adam(network.parameters(), lr=0.1, fused=True)

    def move(network: nn.Conv2d, optimiser: torch.optim.Optimizer, seed: int) -> None:
        torch.manual_seed(seed)
        optimiser.zero_grad()
        network(torch.rand(2, 3, 8, 8)).square().sum().backward()
        optimiser.step()

    torch.manual_seed(0)
    network, optimiser = layer()
    move(network, optimiser, 1)
    save_checkpoint(tmp_path, RunState({"network": network}, {"network": optimiser}, {}), {})
    other, other_optimiser = layer()
    restore_checkpoint(tmp_path, RunState({"network": other}, {"network": other_optimiser}, {}))
    move(network, optimiser, 2)
    move(other, other_optimiser, 2)
    assert torch.equal(network.weight, other.weight)


def test_pairs_that_were_in_the_pool_before_are_forgotten(tmp_path):
    saved, other = state(0), state(1)
    saved.pools["target"].pairs.clear()
    save_checkpoint(tmp_path, saved, {})
    restore_checkpoint(tmp_path, other)
    assert other.pools["target"].pairs == []


def test_notes_are_read_without_the_weights(tmp_path):
    notes = {"step": 5, "settings": {"seed": 1, "load_px": None, "blur_px": [1.0, 2.0]}, "seconds": 0.1}
    save_checkpoint(tmp_path, state(0), notes)
    assert read_notes(tmp_path) == notes


def test_a_new_checkpoint_replaces_the_old_one_at_once(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, state(0), {"step": 1})
    before = (tmp_path / CHECKPOINT).read_bytes()

    def fail(*_arguments, **_options):
        raise OSError("disk full")

    monkeypatch.setattr("cellxlate.training.checkpoint.save_tensors", fail)
    with pytest.raises(OutputError, match="disk full"):
        save_checkpoint(tmp_path, state(1), {"step": 2})
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    monkeypatch.undo()
    save_checkpoint(tmp_path, state(1), {"step": 2})
    assert read_notes(tmp_path)["step"] == 2
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]


def test_damage_is_told_in_one_line(tmp_path):
    with pytest.raises(ModelError, match="holds no checkpoint"):
        read_notes(tmp_path)
    save_checkpoint(tmp_path, state(0), {"step": 1})
    with pytest.raises(ModelError, match="does not fit this run"):
        restore_checkpoint(tmp_path, state(0, size=5))
    whole = (tmp_path / CHECKPOINT).read_bytes()
    (tmp_path / CHECKPOINT).write_bytes(whole[:100])
    for read in (lambda: read_notes(tmp_path), lambda: restore_checkpoint(tmp_path, state(0))):
        with pytest.raises(ModelError) as caught:
            read()
        assert "\n" not in str(caught.value)


def test_weights_that_are_not_finite_are_noticed():
    good = state(0)
    assert good.finite
    with torch.no_grad():
        good.modules["network"].bias[0] = float("inf")
    assert not good.finite


def test_nothing_is_pickled(tmp_path):
    save_checkpoint(tmp_path, state(0), {"step": 1})
    assert set(load_file(tmp_path / CHECKPOINT)) >= {"module/network/weight", "optimiser/network/0/exp_avg"}
