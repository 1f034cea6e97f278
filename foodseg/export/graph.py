"""From a network to an ONNX graph: normalisation inside, text folded into constants, any batch and, where it can, any
size.

    graph = onnx_graph(network, 104, (512, 512))
    graph.data, graph.interface.canvas         # None: it takes any multiples of size_multiple

Exported with torch's TorchScript exporter, which traces the network: an EfficientNet-Lite0 takes it 3 s, and the newer
one, torch.export (dynamo), was not done after 4 minutes of CPU time. A trace may turn a size into a constant without a
word, so the graph is compared with the network at other sizes here; one that fails that is traced again for one size.

Shape letters: B images; K classes; H, W canvas; D width of a class embedding; h, w grid.
"""

import copy
import logging
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import conv2d, normalize

from foodseg.errors import UserError
from foodseg.export.resize import MatrixResize
from foodseg.export.verify import ExportDiffers
from foodseg.models.build import Network
from foodseg.models.classifier import CosineClassifier
from foodseg.models.exported import LOGITS, PROBABILITIES, ExportedNetwork, GraphInterface, import_extra, open_graph
from foodseg.models.open_vocabulary import OpenVocabularyNetwork
from foodseg.models.realtime import RealtimeNetwork

OPSET = 17  # what current runtimes and onnxruntime-web read, with LayerNormalization; the exporter's own limit is 20
LARGEST = 2 * 2**30  # bytes of one protobuf
FOLDED_NEAR = 1e-5  # share of the greatest logit that folding text may change: rounding in float32
NEAR = 1e-3  # share of the greatest logit that a graph of the right shape may differ by, on noise
_log = logging.getLogger(__name__)


class Graph(NamedTuple):
    """data: the ONNX file. folding: what folding the text changes at most, as a share of the greatest logit."""

    data: bytes
    interface: GraphInterface
    folding: float


def onnx_graph(network: Network, classes: int, canvas: tuple[int, int] | None) -> Graph:
    """Exports a network in evaluation mode, on the CPU, whose text is folded or not.

    Args:
        classes: K. canvas: (height, width), multiples of its `size_multiple`: the only size of a graph that cannot
            take others; None = such a graph is refused.

    Raises:
        UserError: a library is missing, the network is too large for ONNX, or has an operation that ONNX has not.
        ExportDiffers: folding the text changes the logits.
    """
    onnx = import_extra("onnx")
    import_extra("onnxruntime")
    weights = sum(tensor.nbytes for tensor in network.state_dict().values())
    if weights > LARGEST:
        raise UserError(
            f"the model has {weights / 2**30:.1f} GiB of weights, and one ONNX file holds {LARGEST / 2**30:.0f} GiB: "
            "choose a smaller model.backbone"
        )
    folded = folded_text(network)
    multiple = network.size_multiple
    folding = _folding(network, folded, canvas or (2 * multiple, 3 * multiple))
    any_size = GraphInterface(
        stride=network.stride,
        size_multiple=network.size_multiple,
        classes=classes,
        mean=tuple(network.mean.flatten().tolist()),
        conditioned=network.fusion is not None,
        predicts_ingredients=getattr(network, "ingredient_head", None) is not None,
        canvas=None,
    )
    graph = Graph(_traced(folded, any_size), any_size, folding)
    if not _same(network, graph, [(1, 2, 3), (2, 3, 2)]):
        if canvas is None:
            raise UserError(
                "the encoder takes one size alone when it is exported, and eval.longest_side = null names none: give "
                "--set eval.longest_side=512"
            )
        _log.warning("the encoder takes one size alone when it is exported: images are padded to %d x %d", *canvas)
        one_size = replace(any_size, canvas=canvas)
        graph = Graph(_traced(folded, one_size), one_size, folding)
        height, width = (side // network.size_multiple for side in canvas)
        if not _same(network, graph, [(1, height, width), (3, height, width)]):
            raise UserError("the model cannot be exported to ONNX: the graph computes something else than the network")
    onnx.checker.check_model(graph.data, full_check=True)
    return graph


class _FoldedCosine(nn.Module):
    """A cosine classifier whose directions are constants, whatever they were made of."""

    weight: torch.Tensor

    def __init__(self, classifier: CosineClassifier) -> None:
        super().__init__()
        self.out_channels = classifier.out_channels
        scaled = classifier.log_scale.exp() * classifier.weights()
        self.register_buffer("weight", scaled[:, :, None, None])

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) -> (B, K, h, w) float32 logits."""
        return conv2d(normalize(features.float(), dim=1), self.weight)


class _FoldedEmbeddings(nn.Module):
    """Class embeddings (K, D), or (K + 1, D) with the null token, that were computed before."""

    value: torch.Tensor

    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value)

    def forward(self, text: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """Returns them, whatever is given."""
        return self.value


@torch.no_grad()
def folded_text(network: Network) -> Network:
    """Returns a copy that has constants where the network computes something of class names alone."""
    # what was found while computing does not belong to the module, and can be copied
    folded: Any = copy.deepcopy(network)
    if isinstance(folded, OpenVocabularyNetwork):
        _ = folded.projection  # computed here, once: not in the trace
    if isinstance(folded, RealtimeNetwork):
        folded.fold()
    if isinstance(getattr(network, "classifier", None), CosineClassifier):
        folded.classifier = _FoldedCosine(folded.classifier)
    if network.fusion is not None:
        folded.class_embeddings = _FoldedEmbeddings(folded.class_embeddings(folded.text_table, folded.text_table))
    return folded.eval()


@torch.no_grad()
def _folding(network: Network, folded: Network, size: tuple[int, int]) -> float:
    """Returns the largest difference of logits on noise, as a share of the greatest.

    Raises:
        ExportDiffers: it is more than `FOLDED_NEAR`.
    """
    image = torch.rand(1, 3, *size)
    expected, found = network(image).logits.float(), folded(image).logits.float()
    difference = float((expected - found).abs().max() / expected.abs().max())
    if not difference <= FOLDED_NEAR:  # of NaN, too
        raise ExportDiffers(
            f"with the text folded into the classifier logits differ by {difference:.2g} of the greatest, and "
            f"{FOLDED_NEAR:g} are the bound, so nothing was written: use the checkpoint itself"
        )
    return difference


class _WithOutputs(nn.Module):
    """The network as the graph has it: tensors in, tensors out."""

    def __init__(self, network: Network, interface: GraphInterface) -> None:
        super().__init__()
        self.network, self.interface = network, interface

    def forward(self, image: torch.Tensor, ingredients: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        """Returns the logits and, with an ingredient head, the probabilities."""
        given = {} if ingredients is None else {"ingredients": ingredients}
        found = self.network(image, **given)
        outputs = [found.logits.float()]
        if self.interface.predicts_ingredients:
            probabilities = found.ingredient_logits.float().sigmoid()
            outputs.append(torch.cat([torch.ones_like(probabilities[:, :1]), probabilities[:, 1:]], 1))
        return tuple(outputs)


@torch.no_grad()
def _traced(network: Network, interface: GraphInterface) -> bytes:
    """Returns the ONNX file."""
    multiple = interface.size_multiple
    # no square and no size of pretraining, where a ViT would take a shortcut
    height, width = interface.canvas or (3 * multiple, 4 * multiple)
    images = [torch.rand(2, 3, height, width)]
    dynamic = {"image": {0: "batch"}, LOGITS: {0: "batch"}}
    if interface.canvas is None:
        dynamic["image"] |= {2: "height", 3: "width"}
        dynamic[LOGITS] |= {2: "rows", 3: "columns"}
    if interface.conditioned:
        images.append(torch.ones(2, interface.classes, dtype=torch.bool))
        dynamic["ingredients"] = {0: "batch"}
    outputs = [LOGITS]
    if interface.predicts_ingredients:
        outputs.append(PROBABILITIES)
        dynamic[PROBABILITIES] = {0: "batch"}
    model = _WithOutputs(network, interface).eval()
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one fused operation, which ONNX has not
    try:
        with MatrixResize(), warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="foodseg-export-") as folder:
            warnings.simplefilter("ignore")  # of each comparison of sizes in a trace, which `_same` looks after
            file = Path(folder, "model.onnx")
            torch.onnx.export(
                model, tuple(images), file, dynamo=False, opset_version=OPSET, dynamic_axes=dynamic,
                input_names=["image", "ingredients"][: len(images)], output_names=outputs,
            )  # fmt: skip
            return file.read_bytes()
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        detail = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"the model cannot be exported to ONNX: {detail[:200]}") from None
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@torch.no_grad()
def _same(network: Network, graph: Graph, shapes: Sequence[tuple[int, int, int]]) -> bool:
    """Whether a graph computes what the network does, for (batch, height, width) in multiples of its least size."""
    try:
        exported = ExportedNetwork(graph.interface, open_graph("onnx", {"model.onnx": graph.data}))
        for batch, tall, wide in shapes:
            multiple = network.size_multiple
            image = torch.rand(batch, 3, tall * multiple, wide * multiple)
            expected, found = network(image).logits.float(), exported(image).logits
            if expected.shape != found.shape or (expected - found).abs().max() > NEAR * expected.abs().max():
                return False
    except Exception:  # of a size that was traced as a constant; whatever else is wrong fails in the verification
        return False
    return True
