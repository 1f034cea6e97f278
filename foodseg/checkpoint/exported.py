"""What `foodseg export` writes, as a CHECKPOINT: a graph and `model.json`, which describes it, and is written last.

    exported = read_exported("out/onnx")
    exported.graph.canvas                # None: it takes any size

`model.json` is for programs that know nothing of foodseg as well: classes, normalisation, size rule, temperature,
opset, and size and sha256 of every file. It also has the configuration, so that settings can be changed as for a
checkpoint.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from foodseg import storage
from foodseg.checkpoint.index_file import EXPORTED as FILE
from foodseg.checkpoint.manifest import CheckpointManifest, FileEntry, TornCheckpoint
from foodseg.classes import ClassTable
from foodseg.config import ExperimentConfig, parse_config
from foodseg.errors import UserError
from foodseg.models.exported import FILES, GraphFormat, GraphInterface, Precision

FORMAT_VERSION = 1


@dataclass(frozen=True)
class ExportedModel:
    """The content of `model.json`, of which this is what foodseg reads back.

    precision: float32 or int8. opset: of ONNX, which an OpenVINO graph was made of, too. files: the graph.
    config: of the checkpoint, with `eval` as it was exported. step, data, trained_ids, class_pixels: of the checkpoint.
    calibration: as `calibration.json`; None = not calibrated for these settings.
    about: what is there for people: the checkpoint, what was verified, libraries.
    """

    foodseg: str
    form: GraphFormat
    precision: Precision
    opset: int
    files: Mapping[str, FileEntry]
    graph: GraphInterface
    classes: ClassTable
    config: ExperimentConfig
    step: int
    data: str
    trained_ids: tuple[int, ...]
    class_pixels: tuple[int, ...] | None
    calibration: Mapping[str, Any] | None
    about: Mapping[str, Any]

    @property
    def manifest(self) -> CheckpointManifest:
        """Its files, as those of a checkpoint are read and verified."""
        return CheckpointManifest(self.foodseg, self.step, self.data, self.trained_ids, self.files, self.class_pixels)

    def to_json(self) -> dict[str, object]:
        """Returns it as `model.json` has it."""
        graph, shown = self.graph, self.config.eval
        height, width = graph.canvas or ("height", "width")
        inputs: dict[str, object] = {
            "image": {
                "type": "float32",
                "shape": ["batch", 3, height, width],
                "what": "RGB in [0, 1], upright, not normalised: the graph normalises",
            }
        }
        outputs: dict[str, object] = {
            "logits": {
                "type": "float32",
                "shape": ["batch", graph.classes, f"height / {graph.stride}", f"width / {graph.stride}"],
                "what": "class scores: resize bilinearly (half-pixel centres) to the image, then the greatest; softmax "
                "of logits / temperature is the confidence",
            }
        }
        if graph.conditioned:
            inputs["ingredients"] = {
                "type": "bool", "shape": ["batch", graph.classes], "what": "conditioning classes; all true = none given"
            }  # fmt: skip
        if graph.predicts_ingredients:
            outputs["ingredient_probabilities"] = {"type": "float32", "shape": ["batch", graph.classes]}
        return {
            "format_version": FORMAT_VERSION,
            "foodseg": self.foodseg,
            "format": self.form,
            "precision": self.precision,
            "opset": self.opset,
            "files": {name: asdict(entry) for name, entry in self.files.items()},
            "classes": list(self.classes.names),
            "inputs": inputs,
            "outputs": outputs,
            "normalisation": {
                "mean": list(graph.mean), "std": list(self.config.model.std), "applied": "in the graph",
                "padding": "right and below, with the mean",
            },
            "size": {
                "longest_side": shown.longest_side,
                "multiple": graph.size_multiple,
                "stride": graph.stride,
                "canvas": None if graph.canvas is None else list(graph.canvas),
            },
            "temperature": 1.0 if self.calibration is None else self.calibration["temperature"],
            "calibration": self.calibration,
            "graph": asdict(graph),
            "checkpoint": {"step": self.step, "data": self.data, "trained_ids": list(self.trained_ids),
                           "class_pixels": self.class_pixels},
            "config": json.loads(self.config.model_dump_json()),
            "about": self.about,
        }  # fmt: skip


def read_exported(uri: str) -> ExportedModel:
    """Reads `model.json` of a directory.

    Raises:
        TornCheckpoint: it is damaged. UserError: it has another format.
    """
    where = storage.join(uri, FILE)
    text = storage.read_bytes(where)
    try:
        tree = json.loads(text)
        version = tree["format_version"]
        found = _parsed(tree) if version == FORMAT_VERSION else None
    except (ValueError, KeyError, TypeError, AttributeError, ValidationError):
        raise TornCheckpoint(f"{storage.redact(where)} is damaged, or not from foodseg export: export again") from None
    if found is None:
        raise UserError(
            f"{storage.redact(where)} has format {version}, this foodseg reads {FORMAT_VERSION}: export again"
        )
    return found


def _parsed(tree: dict[str, Any]) -> ExportedModel:
    """Raises ValueError, KeyError, TypeError or AttributeError where something is missing or of another type."""
    checkpoint, graph, form = tree["checkpoint"], dict(tree["graph"]), tree["format"]
    names = FILES[form]
    if set(tree["files"]) != set(names) or any(Path(name).name != name for name in tree["files"]):
        raise KeyError
    for key in ("mean", "canvas"):
        graph[key] = None if graph[key] is None else tuple(graph[key])
    pixels = checkpoint["class_pixels"]
    return ExportedModel(
        foodseg=str(tree["foodseg"]),
        form=form,
        precision=tree["precision"],
        opset=int(tree["opset"]),
        files={name: FileEntry(int(entry["size"]), str(entry["sha256"])) for name, entry in tree["files"].items()},
        graph=GraphInterface(**graph),
        classes=ClassTable(tuple(tree["classes"])),
        config=parse_config(tree["config"]),
        step=int(checkpoint["step"]),
        data=str(checkpoint["data"]),
        trained_ids=tuple(checkpoint["trained_ids"]),
        class_pixels=None if pixels is None else tuple(pixels),
        calibration=tree["calibration"],
        about=tree["about"],
    )
