"""A checkpoint: one directory that is a whole model, and all that training needs to resume from it.

    model.safetensors    the trained weights             config.json   the whole configuration
    teacher.safetensors  their running average (EMA),    classes.tsv   the label space
                         without what was frozen
    trainer.pt           optimizer, schedule, step       history.jsonl scores up to here
    calibration.json     the temperature of its confidences; missing where no validation fitted one
    text.safetensors     the class embeddings; missing where the model has no text fusion
    manifest.json        written last: size and sha256 of every file

Rebuilding from it downloads nothing. A directory whose manifest is missing or does not match is torn: it is refused by
name, and a run resumes from the checkpoint before. `run_layout.py` says where it is in a run directory; beside
the checkpoints are `best.json` and `last.json`.
"""

import io
import json
from dataclasses import asdict, dataclass, field
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from foodseg import __version__, storage
from foodseg.checkpoint.manifest import FORMAT_VERSION, read_manifest_file, sha256, verified_file
from foodseg.classes import ClassTable
from foodseg.config import ExperimentConfig, parse_config
from foodseg.config.evaluation import EvalConfig
from foodseg.errors import UserError
from foodseg.models.build import build_segmenter
from foodseg.models.segmenter import Segmenter
from foodseg.models.text.class_embeddings import TextTable, parse_table, table_bytes

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
        trainer: optimizer, schedule and scaler states; None where only the model was asked for.
        history: one dict per validation.
        calibration: None where the last update was not validated.
        text: class embeddings; None for a model without text fusion.
    """

    step: int
    config: ExperimentConfig
    classes: ClassTable
    data: str
    trained_ids: tuple[int, ...]
    student: dict[str, torch.Tensor]
    teacher: dict[str, torch.Tensor] | None
    trainer: dict[str, Any] | None
    history: list[dict[str, Any]] = field(default_factory=list)
    calibration: Calibration | None = None
    text: TextTable | None = None


def save_checkpoint(uri: str, checkpoint: Checkpoint) -> None:
    """Writes the directory `uri`, the manifest last; each file is written whole or not at all."""
    assert checkpoint.trainer is not None
    files = {
        "model.safetensors": safetensors.torch.save(contiguous(checkpoint.student)),
        "trainer.pt": _torch_bytes(checkpoint.trainer),
        "config.json": checkpoint.config.model_dump_json(indent=1).encode(),
        "classes.tsv": checkpoint.classes.to_text().encode(),
        "history.jsonl": "".join(json.dumps(line) + "\n" for line in checkpoint.history).encode(),
    }
    if checkpoint.teacher is not None:
        files["teacher.safetensors"] = safetensors.torch.save(contiguous(checkpoint.teacher))
    if checkpoint.calibration is not None:
        files["calibration.json"] = json.dumps(asdict(checkpoint.calibration), indent=1).encode()
    if checkpoint.text is not None:
        files[TEXT_FILE] = table_bytes(checkpoint.text)
    manifest = {
        "format_version": FORMAT_VERSION,
        "foodseg": __version__,
        "step": checkpoint.step,
        "data": checkpoint.data,
        "trained_ids": list(checkpoint.trained_ids),
        "files": {name: {"size": len(data), "sha256": sha256(data)} for name, data in files.items()},
    }
    for name, data in files.items():
        storage.write_bytes(storage.join(uri, name), data)
    storage.write_json(storage.join(uri, "manifest.json"), manifest)


def load_checkpoint(uri: str, *, with_trainer: bool = False) -> Checkpoint:
    """Reads and verifies the checkpoint directory `uri`.

    Raises:
        UserError: it is torn (naming the file), has another format version, or its weights are damaged.
    """
    manifest = read_manifest_file(uri)
    files = manifest["files"]

    def read(name: str) -> bytes:
        return verified_file(uri, name, files[name])

    try:
        # one after the other: the bytes of two files of a large model need not be in memory at once
        student = safetensors.torch.load(read("model.safetensors"))
        teacher = safetensors.torch.load(read("teacher.safetensors")) if "teacher.safetensors" in files else None
        trainer = _torch_state(read("trainer.pt")) if with_trainer else None
    except (SafetensorError, RuntimeError, KeyError) as error:
        raise UserError(f"the checkpoint {storage.redact(uri)} cannot be read ({error})") from None
    return Checkpoint(
        step=manifest["step"],
        config=parse_config(json.loads(read("config.json"))),
        classes=ClassTable.from_text(read("classes.tsv").decode(), storage.redact(storage.join(uri, "classes.tsv"))),
        data=manifest["data"],
        trained_ids=tuple(manifest["trained_ids"]),
        student=student,
        teacher=teacher,
        trainer=trainer,
        history=[json.loads(line) for line in read("history.jsonl").decode().splitlines()],
        calibration=Calibration(**json.loads(read("calibration.json"))) if "calibration.json" in files else None,
        text=parse_table(read(TEXT_FILE), storage.join(uri, TEXT_FILE)) if TEXT_FILE in files else None,
    )


def calibration_of(checkpoint: Checkpoint, config: EvalConfig) -> Calibration | None:
    """Returns the calibration for these settings; None where there is none, or it was fitted with others."""
    fitted = checkpoint.calibration
    return fitted if fitted is not None and EvalConfig.model_validate(fitted.eval) == config else None


def load_model(checkpoint: Checkpoint, weights: str) -> Segmenter:
    """Builds the segmenter with the weights "student" or "ema", in evaluation mode.

    Raises:
        UserError: "ema" of a checkpoint that kept no average, or not of all that was trained.
    """
    averaged = {} if weights == "student" else checkpoint.teacher
    if averaged is None:
        raise UserError(
            "this checkpoint kept no averaged weights (train.ema_horizon was 0): use --set eval.weights=student"
        )
    text = checkpoint.text.embeddings if checkpoint.text else None
    model = build_segmenter(checkpoint.config.model, len(checkpoint.classes), pretrained=False, text=text)
    if averaged:
        frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
        missing = sorted(checkpoint.student.keys() - averaged.keys() - frozen)
        if missing:
            raise UserError(f"the averaged weights of this checkpoint are incomplete: {missing[0]} is missing")
    model.load_state_dict({**checkpoint.student, **averaged})
    model.to(memory_format=torch.channels_last)  # as the predictor's images
    return model.eval()


def contiguous(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns tensors as safetensors stores them: on the CPU, plain row-major, which channels_last weights are not."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def _torch_state(data: bytes) -> dict[str, Any]:
    # a run may be resumed on another device: the optimizer moves each tensor to that of its parameter
    state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return state


def _torch_bytes(state: dict[str, Any]) -> bytes:
    sink = io.BytesIO()
    torch.save(state, sink)
    return sink.getvalue()
