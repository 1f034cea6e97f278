"""A graph with weights and activations in 8 bits, by the runtimes' own tools: onnxruntime's static quantisation (QDQ),
or nncf for OpenVINO.

    quantised = quantised_onnx(data, inputs)
    quantised = quantised_openvino(model, inputs)

Both measure the range of each activation on calibration inputs, which are what the network was shown of training
images. Convolutions and matrix products are quantised, weights per output channel.

A ReLU or ReLU6 is quantised together with the convolution before it. Left out, the convolution's own output would be
quantised over its whole range, before what is below 0 and above 6 is cut off: a few of 256 levels would be left.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from foodseg.models.exported import ExportedNetwork, ExportedOutput, import_extra

Inputs = Mapping[str, np.ndarray]
"""What a graph is given, by name."""
QUANTISED = ["Conv", "MatMul", "Gemm", "Relu", "Clip"]


class RecordingNetwork(nn.Module):
    """Stands where the predictor expects a network, computes nothing, and keeps what it was shown.

    Attributes:
        stride, size_multiple, fusion: as of the graph's network. mean: (1, 3, 1, 1).
        inputs: what the graph is given in each forward pass.
    """

    mean: torch.Tensor

    def __init__(self, graph: ExportedNetwork) -> None:
        super().__init__()
        self.stride, self.size_multiple, self.fusion = graph.stride, graph.size_multiple, graph.fusion
        self._classes = graph.classes
        self.register_buffer("mean", graph.mean.clone())
        self.inputs: list[Inputs] = []

    def forward(self, image: torch.Tensor) -> ExportedOutput:
        """(B, 3, H, W) float in [0, 1] -> logits of 0."""
        seen = {"image": image.contiguous().numpy()}
        if self.fusion is not None:
            seen["ingredients"] = np.ones((len(image), self._classes), bool)
        self.inputs.append(seen)
        grid = (side // self.stride for side in image.shape[2:])
        return ExportedOutput(image.new_zeros(len(image), self._classes, *grid))


def quantised_onnx(data: bytes, inputs: Sequence[Inputs]) -> bytes:
    """Returns the ONNX file in 8 bits."""
    library = import_extra("onnxruntime.quantization")
    remaining = iter(inputs)

    class Reader(library.CalibrationDataReader):  # type: ignore[name-defined]
        def get_next(self) -> Inputs | None:
            return next(remaining, None)

    with tempfile.TemporaryDirectory(prefix="foodseg-int8-") as folder:
        source, prepared, target = (Path(folder, name) for name in ("a.onnx", "b.onnx", "c.onnx"))
        source.write_bytes(data)
        # shapes and fused nodes; symbolic sizes are not needed for what is quantised
        import_extra("onnxruntime.quantization.shape_inference").quant_pre_process(
            source, prepared, skip_symbolic_shape=True
        )
        library.quantize_static(
            prepared,
            target,
            Reader(),
            quant_format=library.QuantFormat.QDQ,
            op_types_to_quantize=QUANTISED,
            per_channel=True,
            activation_type=library.QuantType.QUInt8,
            weight_type=library.QuantType.QInt8,
            calibrate_method=library.CalibrationMethod.MinMax,
        )
        return target.read_bytes()


def quantised_openvino(model: Any, inputs: Sequence[Inputs]) -> Any:
    """Returns an OpenVINO model in 8 bits."""
    library = import_extra("nncf")
    return library.quantize(model, library.Dataset(list(inputs)), subset_size=len(inputs))
