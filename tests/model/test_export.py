"""ONNX models compute what the networks compute, for images of any size."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cellxlate.errors import OptionError
from cellxlate.model.export.onnx import onnx_model

from .test_inference import built, made_ready

pytest.importorskip("onnx", reason="ONNX export is optional")


@torch.inference_mode()
@pytest.mark.parametrize(("architecture", "room"), [("compact", 0), ("resnet", 0), ("resnet", 0.1), ("unet", 0)])
@pytest.mark.parametrize("part", ["generator", "attention"])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("ready", [False, True])
def test_the_reference_of_onnx_computes_what_torch_computes(
    architecture: Any, room: float, part: str, channels: int, ready: bool
) -> None:
    evaluator = pytest.importorskip("onnx.reference").ReferenceEvaluator
    network = getattr(built(architecture, channels, room=room), part)
    if ready:
        network = made_ready(network)
    model = onnx_model(network, name=part)
    assert [entry.name for entry in (*model.graph.input, *model.graph.output)] == ["images", part]
    least = 192 if architecture == "unet" and ready else 56
    for shape in ((1, channels, least + 8, least + 8), (2, channels, least, least + 16)):
        images = torch.rand(shape) * 1.6 - 0.2  # beyond the levels too
        (found,) = evaluator(model).run(None, {"images": images.numpy()})
        assert np.allclose(found, network(images).numpy(), rtol=0, atol=5e-6)


def test_a_layer_without_a_counterpart_is_named() -> None:
    network = built("compact").generator
    network.layers.append(nn.InstanceNorm2d(1))
    with pytest.raises(OptionError, match="InstanceNorm2d"):
        onnx_model(network, name="proposal")
