"""A network as an ONNX graph: real-time networks, cosine classifiers, a network of one size, what is refused."""

import onnx
import pytest
import torch
from torch import nn

from foodseg.config.model import ModelConfig
from foodseg.errors import UserError
from foodseg.export import graph
from foodseg.export.graph import OPSET, onnx_graph
from foodseg.export.verify import ExportDiffers
from foodseg.models.build import Network, build_network
from foodseg.models.exported import ExportedNetwork, open_graph
from foodseg.models.pixel_text import FoldedHead
from foodseg.models.realtime import RealtimeNetwork

CLASSES = 7
TEXT = torch.randn(CLASSES, 24, generator=torch.Generator().manual_seed(3))


def network(**settings: object) -> Network:
    narrow = {} if settings.get("kind") == "realtime" else {"pyramid_channels": 8, "decoder_channels": 8}
    tree = {"backbone": "test_efficientnet", "weights": "none", **narrow, **settings}
    torch.manual_seed(0)
    text = TEXT if "text" in settings else None
    counts = [3] * CLASSES if settings.get("classifier") == "text_prior" else None
    return build_network(ModelConfig.model_validate(tree), CLASSES, text=text, class_images=counts).eval()


TABLE = {"kind": "table", "table": "t"}


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "realtime", "realtime": {"size": "S"}},
        {"kind": "realtime", "realtime": {"size": "M"}, "text": TABLE},
        {"classifier": "cosine"},
        {"classifier": "text_prior", "text": TABLE},
    ],
    ids=["realtime S", "realtime M with text", "cosine", "text prior"],
)
def test_a_graph_is_its_network(settings: dict[str, object]) -> None:
    model = network(**settings)
    made = onnx_graph(model, CLASSES, None)
    assert 0 <= made.folding < 1e-5
    if isinstance(model, RealtimeNetwork) and "text" in settings:
        assert model.trained_head is not None, "the network stays as it is"
    assert made.interface.canvas is None and made.interface.classes == CLASSES
    loaded = onnx.load_from_string(made.data)
    assert [each.version for each in loaded.opset_import] == [OPSET]
    exported = ExportedNetwork(made.interface, open_graph("onnx", {"model.onnx": made.data}))
    for shape in [(1, 3, 64, 64), (3, 3, 96, 160)]:
        image = torch.rand(shape)
        with torch.no_grad():
            expected = model(image).logits
        found = exported(image).logits
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(found.argmax(1), expected.argmax(1))


class _OneSize(nn.Module):
    """Adds positions of one size, as encoders do that take no other."""

    def __init__(self, inner: Network, side: int) -> None:
        super().__init__()
        self.inner, self.side = inner, side
        self.stride, self.size_multiple, self.fusion, self.mean = inner.stride, inner.size_multiple, None, inner.mean

    def forward(self, image: torch.Tensor) -> object:
        found = self.inner(image)
        height, width = (int(side) for side in found.logits.shape[2:])  # constants in a trace
        positions = torch.arange(height * width, dtype=torch.float32).view(height, width)
        return found._replace(logits=found.logits + positions)


def test_a_network_of_one_size_gets_a_canvas() -> None:
    model = _OneSize(network(), 64).eval()
    made = onnx_graph(model, CLASSES, (64, 64))  # type: ignore[arg-type]
    assert made.interface.canvas == (64, 64)
    exported = ExportedNetwork(made.interface, open_graph("onnx", {"model.onnx": made.data}))
    assert exported.size_multiple == 64  # so that the predictor pads every image to it
    image = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(exported(image).logits, model(image).logits, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="takes images of 64 x 64 pixels alone, and was shown one of 64 x 96"):
        exported(torch.rand(1, 3, 64, 96))
    with pytest.raises(UserError, match=r"eval\.longest_side = null names none"):
        onnx_graph(model, CLASSES, None)  # type: ignore[arg-type]


def test_too_large_for_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "LARGEST", 1000)
    with pytest.raises(UserError, match=r"one ONNX file holds .* choose a smaller model\.backbone"):
        onnx_graph(network(), CLASSES, None)


def test_folding_that_changes_logits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(FoldedHead):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return super().forward(features) * 1.0001

    monkeypatch.setattr("foodseg.models.realtime.FoldedHead", Wrong)
    with pytest.raises(ExportDiffers, match=r"folded into the classifier logits differ by .* 1e-05 are the bound"):
        onnx_graph(network(kind="realtime", realtime={"size": "S"}, text=TABLE), CLASSES, None)
