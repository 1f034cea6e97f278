"""Quantised graphs: what the 256 levels of an activation are spent on."""

import numpy as np
import pytest
import torch
from torch import nn

from foodseg.export.int8 import quantised_onnx
from foodseg.models.exported import open_graph

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
GAIN = 100.0


@pytest.mark.parametrize(("activation", "most"), [(nn.ReLU6(), 6.0), (nn.ReLU(), GAIN / 2)])
def test_levels_are_those_after_the_activation(activation: nn.Module, most: float, tmp_path) -> None:
    """The convolution gives -50 to 50, and 0 to 6 is left of it: one level of 256 is 6 / 255, not 100 / 255."""
    layer = nn.Conv2d(1, 1, 1)
    with torch.no_grad():
        layer.weight.fill_(GAIN)  # 127 in 8 bits, exactly
        layer.bias.fill_(-GAIN / 2)
    network = nn.Sequential(layer, activation, nn.Conv2d(1, 1, 1, bias=False)).eval()
    with torch.no_grad():
        network[2].weight.fill_(1.0)
    image = torch.arange(256).view(1, 1, 16, 16) / 255
    torch.onnx.export(
        network, (image,), tmp_path / "a.onnx", dynamo=False, opset_version=17, input_names=["image"],
        output_names=["logits"],
    )  # fmt: skip
    data = quantised_onnx((tmp_path / "a.onnx").read_bytes(), [{"image": image.numpy()}])
    assert b"QuantizeLinear" in data
    found = open_graph("onnx", {"model.onnx": data})({"image": image.numpy()}, "logits")
    with torch.no_grad():
        expected = network(image).numpy()
    # half a level; the last output has the same range, and so the same levels
    assert np.abs(found - expected).max() <= 0.6 * most / 255
    assert expected.max() == pytest.approx(most)
