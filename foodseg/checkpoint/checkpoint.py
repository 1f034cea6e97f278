"""A checkpoint: one directory that is a whole model, and all that training needs to resume from it.

    model.safetensors    the trained weights             config.json   the whole configuration
    teacher.safetensors  the averaged weights, without   classes.tsv   the label space
                         what was frozen
    trainer.pt           optimizer, schedule, step;      history.jsonl scores up to here
                         missing in a model that was saved to be used
    calibration.json     the temperature of its confidences; missing where no validation fitted one
    text.safetensors     the class embeddings; missing where the model has no text fusion
    manifest.json        written last: size and sha256 of every file

Rebuilding from it downloads nothing. A directory whose manifest is missing or does not match is torn: it is refused by
name, and a run resumes from the checkpoint before. `run_layout.py` says where it is in a run directory; next to
the checkpoints are `best.json` and `last.json`.
"""

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from foodseg import __version__, storage
from foodseg.checkpoint.exported import ExportedModel, read_exported
from foodseg.checkpoint.history import Validation, history_text, parse_history
from foodseg.checkpoint.hub import local_checkpoint
from foodseg.checkpoint.index_file import EXPORTED, index_file
from foodseg.checkpoint.manifest import FILE, CheckpointManifest, entry_of, read_manifest_file
from foodseg.checkpoint.node_copy import local_files
from foodseg.classes import ClassTable
from foodseg.config import ExperimentConfig, parse_config
from foodseg.config.evaluation import EvalConfig
from foodseg.errors import UserError
from foodseg.models.backbones.vit import is_plain_vit
from foodseg.models.build import Network, Trained, build_model
from foodseg.models.exported import ExportedNetwork, Runtime, open_graph, require_runtime
from foodseg.models.realtime import RealtimeNetwork
from foodseg.models.roi import RegionNetwork
from foodseg.models.text.class_embeddings import TextTable, parse_table, table_bytes
from foodseg.storage.local import TEMPORARY

TEXT_FILE = "text.safetensors"


@dataclass(frozen=True)
class Calibration:
    """The temperature that logits are divided by before the softmax, fitted on `pixels` pixels of `split`.

    nll_before, nll_after: negative log-likelihood per pixel in nats, at temperature 1 and at this one.
    step: updates done by the weights it was fitted for.
    eval: the section `eval` that it was fitted with: which weights, and how images were shown to them.
    """

    temperature: float
    nll_before: float
    nll_after: float
    pixels: int
    split: str
    step: int
    eval: dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory.

    Attributes:
        step: updates done.
        config, classes: what it was trained with.
        data: identity of the prepared data set that it was trained on.
        trained_ids: ids with pixels in the training splits.
        student, teacher: state dicts; `teacher` has what was averaged (see `train.ema`), and is None when no
            average was kept.
        trainer: optimizer, schedule and scaler states; None where only the model was asked for, or saved.
        history: the validations so far, the oldest first.
        calibration: None where the last update was not validated.
        text: class embeddings; None for a model without text fusion.
        class_pixels: per class id its pixels in the training splits; None = not known, written by foodseg 0.1.0.
        exported, graph: of what `foodseg export` wrote, its model.json and the content of the files of the graph,
            instead of weights; None and empty for a checkpoint.
    """

    step: int
    config: ExperimentConfig
    classes: ClassTable
    data: str
    trained_ids: tuple[int, ...]
    student: dict[str, torch.Tensor]
    teacher: dict[str, torch.Tensor] | None
    trainer: dict[str, Any] | None
    history: list[Validation] = field(default_factory=list)
    calibration: Calibration | None = None
    text: TextTable | None = None
    class_pixels: tuple[int, ...] | None = None
    exported: ExportedModel | None = None
    graph: Mapping[str, bytes] = field(default_factory=dict)


def save_checkpoint(uri: str, checkpoint: Checkpoint) -> None:
    """Writes the directory `uri`, the manifest last; each file is written whole or not at all.

    A file is written here first, so that it is never in memory as a whole with the tensors.
    """
    entries = {}
    with _staging(uri) as staging:
        for name, write in _writers(checkpoint).items():
            path = Path(staging, name)
            try:
                write(path)
                entries[name] = entry_of(path)
            except (OSError, SafetensorError) as error:
                raise UserError(
                    f"cannot write {path}: {error}; give a folder that can be written and has space left"
                ) from None
            storage.upload(path, storage.join(uri, name))
            path.unlink()
    manifest = CheckpointManifest(
        __version__, checkpoint.step, checkpoint.data, checkpoint.trained_ids, entries, checkpoint.class_pixels
    )
    storage.write_json(storage.join(uri, FILE), manifest.to_json())


def _staging(uri: str) -> "tempfile.TemporaryDirectory[str]":
    """Returns a folder for one file at a time: where the checkpoint is, or for object storage the temporary folder."""
    if not storage.is_local(uri):
        return tempfile.TemporaryDirectory(prefix="foodseg-checkpoint-")
    folder = storage.absolute(uri)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=folder)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from None


def _writers(checkpoint: Checkpoint) -> dict[str, Callable[[Path], object]]:
    """Returns by name what writes each file of the directory but the manifest."""

    def text(content: str) -> Callable[[Path], object]:
        return lambda path: path.write_bytes(content.encode())

    def weights(state: dict[str, torch.Tensor]) -> Callable[[Path], object]:
        return lambda path: safetensors.torch.save_file(contiguous(state), path)

    writers = {
        "model.safetensors": weights(checkpoint.student),
        "config.json": text(checkpoint.config.model_dump_json(indent=1)),
        "classes.tsv": text(checkpoint.classes.to_text()),
        "history.jsonl": text(history_text(checkpoint.history)),
    }
    if checkpoint.trainer is not None:
        writers["trainer.pt"] = lambda path: _write_trainer(checkpoint.trainer, path)
    if checkpoint.teacher is not None:
        writers["teacher.safetensors"] = weights(checkpoint.teacher)
    if checkpoint.calibration is not None:
        writers["calibration.json"] = text(json.dumps(asdict(checkpoint.calibration), indent=1))
    if checkpoint.text is not None:
        table = table_bytes(checkpoint.text)
        writers[TEXT_FILE] = lambda path: path.write_bytes(table)
    return writers


def load_checkpoint(uri: str, *, with_trainer: bool = False) -> Checkpoint:
    """Reads and verifies a checkpoint directory; a machine reads its bytes from storage once (`local_files`, the hub's
    own cache).

    The tensors are mapped from files of this machine: memory is taken by what is used of them. What `foodseg export`
    wrote is read as well: it has a graph instead of weights.

    Raises:
        UserError: it is torn (naming the file), has another format version, its weights are damaged, or it cannot be
            resumed from.
    """
    uri = local_checkpoint(uri)
    if index_file(uri) == EXPORTED:
        return _load_exported(uri, with_trainer=with_trainer)
    manifest = read_manifest_file(uri)
    names = manifest.files.keys()
    if with_trainer and "trainer.pt" not in names:
        raise UserError(
            f"the checkpoint {storage.redact(uri)} has no trainer.pt: it was saved to be used, not to be resumed"
        )
    with local_files(uri, manifest) as file:
        try:
            student = safetensors.torch.load_file(file("model.safetensors"))
            averaged = "teacher.safetensors" in names
            teacher = safetensors.torch.load_file(file("teacher.safetensors")) if averaged else None
            trainer = _read_trainer(file("trainer.pt")) if with_trainer else None
        except (SafetensorError, RuntimeError, KeyError) as error:
            raise UserError(f"the checkpoint {storage.redact(uri)} cannot be read ({error})") from None
        config = parse_config(json.loads(file("config.json").read_bytes()))
        _require_this_encoder(config, student, uri)
        calibration = json.loads(file("calibration.json").read_bytes()) if "calibration.json" in names else None
        classes_uri = storage.redact(storage.join(uri, "classes.tsv"))
        table = parse_table(file(TEXT_FILE).read_bytes(), storage.join(uri, TEXT_FILE)) if TEXT_FILE in names else None
        return Checkpoint(
            step=manifest.step,
            config=config,
            classes=ClassTable.from_text(file("classes.tsv").read_bytes().decode(), classes_uri),
            data=manifest.data,
            trained_ids=manifest.trained_ids,
            student=student,
            teacher=teacher,
            trainer=trainer,
            history=parse_history(file("history.jsonl").read_bytes().decode()),
            calibration=None if calibration is None else Calibration(**calibration),
            text=table,
            class_pixels=manifest.class_pixels,
        )


def _load_exported(uri: str, *, with_trainer: bool) -> Checkpoint:
    exported = read_exported(uri)
    if with_trainer:
        raise UserError(f"{storage.redact(uri)} is an exported model, which no training resumes from")
    with local_files(uri, exported.manifest) as file:
        graph = {name: file(name).read_bytes() for name in exported.files}
    return Checkpoint(
        step=exported.step,
        config=exported.config,
        classes=exported.classes,
        data=exported.data,
        trained_ids=exported.trained_ids,
        student={},
        teacher=None,
        trainer=None,
        calibration=None if exported.calibration is None else Calibration(**exported.calibration),
        class_pixels=exported.class_pixels,
        exported=exported,
        graph=graph,
    )


def calibration_of(checkpoint: Checkpoint, config: EvalConfig) -> Calibration | None:
    """Returns the calibration for these settings; None where there is none, or it was fitted with others."""
    fitted = checkpoint.calibration
    return fitted if fitted is not None and EvalConfig.model_validate(fitted.eval) == config else None


def load_model(
    checkpoint: Checkpoint, weights: str, runtime: Runtime | None = None, *, folded: bool = True
) -> Network | ExportedNetwork:
    """Builds the segmenter with the weights "student" or "ema", in evaluation mode.

    Args:
        runtime: what computes; None = torch, and for an exported model as `open_graph`.
        folded: the text of a real-time one is folded into its classifier.

    Raises:
        UserError: "ema" of a checkpoint that kept no average, or not of all that was trained; a region classifier;
            weights that were not exported, a runtime that does not run this model, as `open_graph`.
    """
    if checkpoint.exported is not None:
        held = checkpoint.config.eval.weights
        if weights != held:
            raise UserError(
                f"the exported model has the weights {held!r} alone: leave eval.weights, or export the others"
            )
        run = open_graph(checkpoint.exported.form, checkpoint.graph, runtime)
        return ExportedNetwork(checkpoint.exported.graph, run)
    require_runtime(runtime, None)
    model = _load_any(checkpoint, weights)
    if isinstance(model, RegionNetwork):
        raise UserError(
            "this checkpoint is a region classifier (model.kind = roi), which labels given masks and no pixels: use "
            "predict --masks, or foodseg.load_region_classifier"
        )
    if folded and isinstance(model, RealtimeNetwork):
        model.fold()
    model.to(memory_format=torch.channels_last)  # as the predictor's images
    return model


def load_region_network(checkpoint: Checkpoint, weights: str) -> RegionNetwork:
    """Builds the region classifier with the weights "student" or "ema", in evaluation mode.

    Raises:
        UserError: as `load_model`; a segmenter.
    """
    model = None if checkpoint.exported is not None else _load_any(checkpoint, weights)
    if not isinstance(model, RegionNetwork):
        raise UserError("this checkpoint is a segmenter, and a region classifier is needed (model.kind = roi)")
    return model


def _load_any(checkpoint: Checkpoint, weights: str) -> Trained:
    averaged = {} if weights == "student" else checkpoint.teacher
    if averaged is None:
        raise UserError("this checkpoint kept no averaged weights (train.ema_horizon was 0): set eval.weights=student")
    text = checkpoint.text.embeddings if checkpoint.text else None
    model = build_model(checkpoint.config, len(checkpoint.classes), pretrained=False, text=text)
    if averaged:
        frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
        missing = sorted(checkpoint.student.keys() - averaged.keys() - frozen)
        if missing:
            raise UserError(f"the averaged weights of this checkpoint are incomplete: {missing[0]} is missing")
    model.load_state_dict({**checkpoint.student, **averaged})
    return model.eval()


def contiguous(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns tensors as safetensors stores them: on the CPU, plain row-major, which channels_last weights are not."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def _require_this_encoder(config: ExperimentConfig, student: Mapping[str, torch.Tensor], uri: str) -> None:
    """Refuses a plain ViT of 0.1.0, which had no feature pyramid of its own: its tensors have other names."""
    of_timm = any(name.startswith("backbone.backbone.model.") for name in student)
    if of_timm and is_plain_vit(config.model.backbone):
        raise UserError(
            f"the checkpoint {storage.redact(uri)} holds {config.model.backbone} as foodseg 0.1.0 built it, without a "
            "feature pyramid: use that version, or train again"
        )


def _read_trainer(path: Path) -> dict[str, Any]:
    # a run may be resumed on another device: the optimizer moves each tensor to that of its parameter
    state: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    return state


def _write_trainer(state: dict[str, Any] | None, path: Path) -> None:
    try:
        with path.open("wb") as stream:  # of a path, torch would write its name into the file
            torch.save(state, stream)
    except RuntimeError as error:  # torch closes the file, and fails, before it passes on what a full disk raised
        raise error.__context__ if isinstance(error.__context__, OSError) else error from None
