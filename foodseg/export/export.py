"""`foodseg export`: a checkpoint as ONNX or OpenVINO, compared with PyTorch before anything is written.

    export_model("runs/a", "out/a")                        # model.onnx and model.json
    export_model("runs/a", "out/a8", int8=True, calibrate="prepared/meals")

The graph takes RGB in [0, 1] as float32 and normalises it: an image is resized in 8 bits, but padded with the exact
mean. It gives logits at the model's stride; windows, mirroring, label maps and confidences are foodseg's own code
(`predict/`), which runs an exported model as it runs a checkpoint.
"""

import importlib.metadata
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch

from foodseg import __version__, storage
from foodseg.checkpoint.checkpoint import Checkpoint, calibration_of, load_checkpoint, load_model
from foodseg.checkpoint.exported import ExportedModel
from foodseg.checkpoint.find import resolve_checkpoint
from foodseg.checkpoint.hub import local_checkpoint
from foodseg.checkpoint.index_file import EXPORTED as FILE
from foodseg.checkpoint.manifest import FILE as MANIFEST
from foodseg.checkpoint.manifest import FileEntry, sha256
from foodseg.config import ExperimentConfig
from foodseg.config.evaluation import EvalConfig
from foodseg.config.load import config_hash, with_eval_overrides
from foodseg.config.marks import without_locations
from foodseg.data.shards import read_manifest
from foodseg.errors import UserError
from foodseg.eval.evaluate import evaluate
from foodseg.export.graph import OPSET, Graph, onnx_graph
from foodseg.export.images import generated_images, given_images, split_images
from foodseg.export.int8 import Inputs, RecordingNetwork, quantised_onnx, quantised_openvino
from foodseg.export.verify import Comparison, compared, require_close
from foodseg.export.web import PAGE, require_web, web_page
from foodseg.export.web_runtime import web_runtime
from foodseg.models.build import Network
from foodseg.models.exported import FILES, ExportedNetwork, GraphFormat, Precision, import_extra, open_graph
from foodseg.predict.predictor import Predictor
from foodseg.storage.outputs import claim_outputs

CALIBRATION_INPUTS = 100  # of int8, from train
COMPARED_IMAGES = 8  # of the data set, from val
LIBRARIES = ("torch", "onnx", "onnxruntime", "openvino", "nncf")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Exported:
    """What was written, and how near it is to the checkpoint.

    out: folder or URI, redacted. files: names and bytes. canvas: the one size that it takes; None = any.
    compared_on: what the images of `comparison` are. miou_before, miou_after: of the checkpoint and of the int8 graph
    on val; None without int8.
    """

    out: str
    format: GraphFormat
    precision: Precision
    opset: int
    files: Mapping[str, int]
    canvas: tuple[int, int] | None
    compared_on: str
    comparison: Comparison
    miou_before: float | None
    miou_after: float | None


def export_model(
    checkpoint: str,
    out: str,
    *,
    form: GraphFormat = "onnx",
    int8: bool = False,
    web: bool = False,
    calibrate: str | None = None,
    images: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> Exported:
    """Exports a segmenter; `out` gets the graph and `model.json`, or, where something fails, nothing.

    Args:
        checkpoint: a run, a checkpoint directory or a URI of either. out: folder or URI.
        int8: weights and activations in 8 bits; needs `calibrate`. web: a page that runs the graph, too; of ONNX.
        calibrate: prepared data set: int8 is calibrated on its train, graphs are compared on its val, where the mIoU of
            int8 is measured, too.
        images: files to compare on instead; with neither, on synthetic meals.
        overrides: `eval.key=value`, instead of what the checkpoint was trained with.

    Raises:
        UserError: a library is missing, a model that cannot be exported, no such checkpoint, data or image.
        ExportDiffers: the graph computes something else than the checkpoint.
    """
    if int8 and calibrate is None:
        raise UserError("--int8 is calibrated on images: give --calibrate DATA, a prepared data set")
    if web and form != "onnx":
        raise UserError("--web runs an ONNX graph in the browser: leave out --format openvino")
    runtime = web_runtime() if web else None
    for library in ("onnx", "onnxruntime", *(["openvino"] if form == "openvino" else [])):
        import_extra(library)
    if int8 and form == "openvino":
        import_extra("nncf")
    uri = resolve_checkpoint(checkpoint)
    claimed = claim_outputs(out, [name for names in FILES.values() for name in names] + [FILE, PAGE], by="export")
    loaded = load_checkpoint(uri)
    if loaded.exported is not None:
        raise UserError(f"{storage.redact(checkpoint)} is exported already: name the checkpoint that it was made of")
    if loaded.config.model.kind == "diffusion":
        raise UserError(
            "model.kind = diffusion cannot be exported: its UNet draws noise and takes seconds an image on the CPU; "
            "train another model with it as distill.teacher, and export that"
        )
    config = with_eval_overrides(loaded.config, overrides)
    if web:
        require_web(config.eval)
    network = load_model(loaded, config.eval.weights, folded=False)
    assert not isinstance(network, ExportedNetwork)
    shown, compared_on = _images(calibrate, images, config.eval)
    graph = onnx_graph(network, len(loaded.classes), _canvas(config.eval, network.size_multiple))
    inputs = _calibration(graph, config.eval, calibrate) if int8 and calibrate is not None else []
    files = _files(graph, form, inputs)
    precision: Precision = "int8" if int8 else "float32"
    comparison = compared(
        _predictors(network, config, loaded),
        _predictors(ExportedNetwork(graph.interface, open_graph(form, files)), config, loaded),
        shown,
    )
    require_close(comparison, precision)
    about = {
        # of manifest.json, which has that of every file
        "checkpoint": {"sha256": sha256(storage.read_bytes(storage.join(local_checkpoint(uri), MANIFEST))),
                       "config_hash": config_hash(config)},
        "compared": {"on": compared_on, **asdict(comparison)},
        "folding": graph.folding,
        "libraries": _versions(),
    }  # fmt: skip
    described = _described(loaded, config, graph, form, precision, files, about)
    before = after = None
    if int8 and calibrate is not None:
        before, after = _mious(uri, described, files, calibrate, overrides)
        about["int8"] = {"inputs": len(inputs), "val_miou_before": before, "val_miou_after": after}
    page = {} if runtime is None else {PAGE: web_page(described, files["model.onnx"], runtime)}
    written = {**files, **page}
    with claimed as outputs:
        for name, data in written.items():
            outputs.write_bytes(name, data)
        for name in {PAGE, *(name for names in FILES.values() for name in names)} - written.keys():
            storage.delete(storage.join(out, name))  # of an earlier export
        outputs.write_bytes(FILE, (json.dumps(described.to_json(), indent=2) + "\n").encode())
    return Exported(
        storage.redact(out), form, precision, OPSET, {name: len(data) for name, data in written.items()},
        graph.interface.canvas, compared_on, comparison, before, after,
    )  # fmt: skip


def _images(calibrate: str | None, images: Sequence[str], config: EvalConfig) -> tuple[list[bytes], str]:
    """Returns encoded images to compare on, and what they are."""
    if images:
        return given_images(images), f"{len(images)} images that were given"
    if calibrate is not None:
        found = split_images(calibrate, "val", COMPARED_IMAGES)
        return found, f"{len(found)} images of val of {read_manifest(calibrate).name}"
    return generated_images(config.longest_side or 512), "2 synthetic meals, not photographed"


def _canvas(config: EvalConfig, multiple: int) -> tuple[int, int] | None:
    """Returns the square that every image or window fits in; None where the image's own size is shown."""
    side = config.window
    if side is None and config.longest_side is not None:
        side = round(config.longest_side * max(config.scales))
    return None if side is None else (-(-side // multiple) * multiple,) * 2


def _calibration(graph: Graph, config: EvalConfig, data: str) -> list[Inputs]:
    """Returns what the predictor shows to the network of training images, the conditioning left open."""
    recorded = RecordingNetwork(ExportedNetwork(graph.interface, lambda inputs, output: inputs[output]))
    plain = config.model_copy(update={"ingredients": "vocabulary", "restrict": "none", "logit_adjustment": 0.0})
    predictor = Predictor(cast(Any, recorded), plain, CPU)
    for image in split_images(data, "train", CALIBRATION_INPUTS):
        if len(recorded.inputs) >= CALIBRATION_INPUTS:  # several for an image with windows, mirroring or scales
            break
        predictor.logits_of_file(image)
    return recorded.inputs


def _files(graph: Graph, form: GraphFormat, inputs: Sequence[Inputs]) -> dict[str, bytes]:
    """Returns the graph's files; with calibration inputs it is quantised."""
    if form == "onnx":
        return {"model.onnx": quantised_onnx(graph.data, inputs) if inputs else graph.data}
    openvino = import_extra("openvino")
    with tempfile.TemporaryDirectory(prefix="foodseg-export-") as folder:
        source, target = Path(folder, "model.onnx"), Path(folder, "model.xml")
        source.write_bytes(graph.data)
        model = openvino.convert_model(source)
        openvino.save_model(quantised_openvino(model, inputs) if inputs else model, target, compress_to_fp16=False)
        return {name: Path(folder, name).read_bytes() for name in FILES["openvino"]}


def _predictors(
    network: Network | ExportedNetwork, config: ExperimentConfig, loaded: Checkpoint
) -> tuple[Predictor, Predictor | None]:
    """Returns predictors without and, with text fusion, with provided ingredients; both in float32 on the CPU."""
    update: dict[str, object] = {}
    if config.eval.ingredients == "provided":
        update = {"ingredients": "vocabulary", "restrict": "none"}
    plain = config.eval.model_copy(update=update)
    pixels = loaded.class_pixels
    conditioned = None
    if network.fusion is not None:
        provided = config.eval.model_copy(update={"ingredients": "provided"})
        conditioned = Predictor(network, provided, CPU, class_pixels=pixels)
    return Predictor(network, plain, CPU, class_pixels=pixels), conditioned


def _described(
    loaded: Checkpoint,
    config: ExperimentConfig,
    graph: Graph,
    form: GraphFormat,
    precision: Precision,
    files: Mapping[str, bytes],
    about: Mapping[str, object],
) -> ExportedModel:
    calibration = calibration_of(loaded, config.eval)
    return ExportedModel(
        foodseg=__version__,
        form=form,
        precision=precision,
        opset=OPSET,
        files={name: FileEntry(len(data), sha256(data)) for name, data in files.items()},
        graph=graph.interface,
        classes=loaded.classes,
        config=without_locations(config),
        step=loaded.step,
        data=loaded.data,
        trained_ids=loaded.trained_ids,
        class_pixels=loaded.class_pixels,
        calibration=None if calibration is None else asdict(calibration),
        about=about,
    )


def _mious(
    uri: str, described: ExportedModel, files: Mapping[str, bytes], data: str, overrides: Sequence[str]
) -> tuple[float, float]:
    """Returns mIoU on val of the checkpoint and of the graph, which is written to a folder of this machine for it."""
    with tempfile.TemporaryDirectory(prefix="foodseg-export-") as folder:
        for name, content in files.items():
            Path(folder, name).write_bytes(content)
        storage.write_json(str(Path(folder, FILE)), described.to_json())
        before = evaluate(uri, data, "val", overrides=overrides, device="cpu")
        after = evaluate(folder, data, "val", device="cpu")
    return before.evaluation.scores.miou, after.evaluation.scores.miou


def _versions() -> dict[str, str]:
    installed = {each.metadata["Name"]: each.version for each in importlib.metadata.distributions()}
    return {name: installed[name] for name in LIBRARIES if name in installed}
