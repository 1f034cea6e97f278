"""An exported graph behind the interface of a network, so that the predictor shows images to both by the same code.

    run = open_graph("onnx", {"model.onnx": data})
    network = ExportedNetwork(interface, run)
    network(image).logits            # as of the network that was exported

onnxruntime and openvino compute on the CPU here, in float32 or in what the graph was quantised to, with as many threads
as torch has. Both are imported when a graph is opened: they belong to the extra `export`.

Shape letters: B images; K classes; H, W canvas; h, w grid of the logits.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import nn

from foodseg.errors import UserError

GraphFormat = Literal["onnx", "openvino"]
Precision = Literal["float32", "int8"]
Runtime = Literal["torch", "onnxruntime", "openvino"]
FILES: dict[GraphFormat, tuple[str, ...]] = {"onnx": ("model.onnx",), "openvino": ("model.xml", "model.bin")}
RUNTIMES: dict[GraphFormat, tuple[Runtime, ...]] = {"onnx": ("onnxruntime", "openvino"), "openvino": ("openvino",)}
LOGITS, PROBABILITIES = "logits", "ingredient_probabilities"

Run = Callable[[Mapping[str, np.ndarray], str], np.ndarray]
"""(inputs by name, name of an output) -> that output."""


@dataclass(frozen=True)
class GraphInterface:
    """What the predictor has to know of a graph.

    stride, size_multiple, classes: as of the network. mean: RGB in [0, 1], what images are padded with.
    conditioned: it has an input `ingredients`. predicts_ingredients: it has an output `ingredient_probabilities`.
    canvas: (height, width) of the only images that it takes; None = any multiples of `size_multiple`.
    """

    stride: int
    size_multiple: int
    classes: int
    mean: tuple[float, ...]
    conditioned: bool
    predicts_ingredients: bool
    canvas: tuple[int, int] | None


class ExportedOutput(NamedTuple):
    """logits: (B, K, h, w) float32."""

    logits: torch.Tensor


class ExportedNetwork(nn.Module):
    """A graph that is run by another library than torch. It is not trained, and computes on the CPU.

    Attributes:
        stride, size_multiple, classes: as of the network; with a fixed canvas its side is the multiple, so that every
            image is padded to it.
        fusion: "exported" where the graph can be conditioned on ingredients, else None.
        mean: (1, 3, 1, 1).
    """

    mean: torch.Tensor

    def __init__(self, interface: GraphInterface, run: Run) -> None:
        super().__init__()
        self.interface, self._run = interface, run
        self.stride, self.classes = interface.stride, interface.classes
        self.size_multiple = interface.size_multiple if interface.canvas is None else max(interface.canvas)
        self.fusion = "exported" if interface.conditioned else None
        self.register_buffer("mean", torch.tensor(interface.mean).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: torch.Tensor, ingredients: torch.Tensor | None = None) -> ExportedOutput:
        """As `SegmenterNetwork.forward`: image (B, 3, H, W) float in [0, 1], ingredients (B, K) bool, None = all.

        Raises:
            UserError: the graph has a fixed canvas, and the image another size.
        """
        return ExportedOutput(self._computed(image, ingredients, LOGITS))

    def predict_ingredients(self, image: torch.Tensor) -> torch.Tensor:
        """As `SegmenterNetwork.predict_ingredients`: (B, K) probabilities.

        Raises:
            UserError: the exported model has no ingredient head; as `forward`.
        """
        if not self.interface.predicts_ingredients:
            raise UserError(
                "eval.ingredients = predicted needs a model with an ingredient head, and the exported one has none: "
                "set eval.ingredients=vocabulary"
            )
        return self._computed(image, None, PROBABILITIES)

    def _computed(self, image: torch.Tensor, ingredients: torch.Tensor | None, output: str) -> torch.Tensor:
        shown, canvas = tuple(image.shape[2:]), self.interface.canvas
        if canvas is not None and shown != canvas:
            raise UserError(
                f"the exported model takes images of {canvas[0]} x {canvas[1]} pixels alone, and was shown one of "
                f"{shown[0]} x {shown[1]}: keep eval.longest_side, eval.scales and eval.window as they were exported"
            )
        inputs = {"image": image.detach().float().contiguous().cpu().numpy()}
        if self.interface.conditioned:
            allowed = image.new_ones(image.shape[0], self.classes) if ingredients is None else ingredients
            inputs["ingredients"] = allowed.bool().cpu().numpy()
        return torch.from_numpy(self._run(inputs, output))


def open_graph(form: GraphFormat, files: Mapping[str, bytes], runtime: Runtime | None = None) -> Run:
    """Loads a graph into memory.

    Args:
        files: the content of each of `FILES[form]`. runtime: None = onnxruntime for ONNX, else openvino, which reads
            ONNX as well.

    Raises:
        UserError: the runtime does not read this format, is not installed, or cannot load the graph.
    """
    require_runtime(runtime, form)
    chosen = runtime or RUNTIMES[form][0]
    library = import_extra(chosen)
    try:
        return _onnxruntime(library, files) if chosen == "onnxruntime" else _openvino(library, form, files)
    except Exception as error:  # each library has kinds of its own
        detail = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{chosen} cannot load the exported model: {detail[:200]}; export it again") from None


def require_runtime(runtime: Runtime | None, form: GraphFormat | None) -> None:
    """Refuses a runtime that does not run a model.

    Args:
        runtime: None = the first of those that do. form: what the model was exported to; None = it is a checkpoint.

    Raises:
        UserError: it does not run it.
    """
    if form is None and runtime not in (None, "torch"):
        raise UserError(f"runtime {runtime} runs an exported model, and this is a checkpoint: use foodseg export first")
    if form is not None and runtime is not None and runtime not in RUNTIMES[form]:
        right = " or ".join(RUNTIMES[form])
        raise UserError(f"runtime {runtime} does not run a model that was exported to {form}: use {right}")


def parse_runtime(value: str | None, *, where: str) -> Runtime | None:
    """Returns one of the runtimes, or None; `where` is what errors call it. UserError: it is another one."""
    for runtime in get_args(Runtime):
        if value == runtime:
            return runtime
    if value is None:
        return None
    raise UserError(f"{where} {value!r}: use {', '.join(get_args(Runtime))}")


def import_extra(name: str) -> Any:
    """Returns a module of the extra `export`. UserError: it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"{name} is not installed: pip install 'foodseg[export]'") from None


def _onnxruntime(library: Any, files: Mapping[str, bytes]) -> Run:
    options = library.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = library.InferenceSession(files["model.onnx"], options, providers=["CPUExecutionProvider"])

    def run(inputs: Mapping[str, np.ndarray], output: str) -> np.ndarray:
        found: np.ndarray = session.run([output], dict(inputs))[0]
        return found

    return run


def _openvino(library: Any, form: GraphFormat, files: Mapping[str, bytes]) -> Run:
    core = library.Core()
    graph, *weights = (files[name] for name in FILES[form])
    model = core.read_model(graph, *weights)
    # on some processors the default is bfloat16
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = core.compile_model(model, "CPU", settings)

    def run(inputs: Mapping[str, np.ndarray], output: str) -> np.ndarray:
        return np.array(compiled(dict(inputs))[output])  # a copy: the next run writes to the same memory

    return run
