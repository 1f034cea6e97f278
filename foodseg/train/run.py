"""Preparation of a run before its first step, with or without Ray: checks, training order, run directory."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import safetensors.torch
import torch

from foodseg import storage
from foodseg.checkpoint.checkpoint import TEXT_FILE, contiguous
from foodseg.checkpoint.find import newest_checkpoint
from foodseg.classes import ClassTable
from foodseg.config import ExperimentConfig
from foodseg.config.load import from_yaml, leaves, to_yaml
from foodseg.config.marks import ExecutionOnly, MayChangeOnResume, is_below, keys_with, with_absolute
from foodseg.data.reader import RowReader
from foodseg.data.sam_masks import read_kept_masks
from foodseg.data.sampler import TrainingOrder
from foodseg.data.shards import Manifest
from foodseg.data.training_rows import training_data, training_order
from foodseg.errors import UserError
from foodseg.models.backbones.diffusion_weights import require_diffusion
from foodseg.models.build import Trained, build_model
from foodseg.models.realtime import attach_tower
from foodseg.models.roi import RegionNetwork
from foodseg.models.segmenter import frozen_encoder
from foodseg.models.text.class_embeddings import TextTable, class_text, read_table, table_bytes
from foodseg.predict.device import has_mps, pick_device
from foodseg.predict.soft_labels import make_soft_labels
from foodseg.storage.text_files import decode_text
from foodseg.storage.writer_lock import FILE as IN_USE
from foodseg.storage.writer_lock import refuse_in_use
from foodseg.train.backbone_weights import BACKBONE_FILE, backbone_of_run, has_weights, warn_of_weights
from foodseg.train.batch_size import require_crops
from foodseg.train.region_task import region_teacher
from foodseg.train.teachers import Teacher, assign_teachers, read_teachers, soft_labels_uri
from foodseg.train.tracking import require_mlflow

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A checked run: configuration with absolute URIs, data, training order, length, class embeddings.

    With `data.folds` the counts of `manifest` are without the fold that is held out.
    """

    config: ExperimentConfig
    manifest: Manifest
    reader: RowReader
    order: TrainingOrder
    total_steps: int
    # set by `check_run`:
    teachers: tuple[Teacher, ...] = ()
    teacher_of: np.ndarray | None = None  # (N,) int64, which of them labels each row of the reader, or -1
    begun: str | None = None  # version of the `config.yaml` that is resumed; None = nothing has begun there
    starts: bool = True  # no checkpoint to resume from
    text: TextTable | None = None  # for a model with text
    model: Trained | None = None  # as a worker would build it; None with a diffusion backbone
    backbone: Mapping[str, torch.Tensor] | None = None  # initial weights of a timm backbone; None: resumed, or random


def plan_run(config: ExperimentConfig) -> Run:
    """Checks a configuration against its data; nothing is written.

    Raises:
        UserError: no data, data sets of different label spaces, unknown split, too few images, none labelled,
            validation with provided conditioning.
    """
    config = with_absolute_uris(config)
    if config.eval.ingredients == "provided":
        raise UserError(
            "eval.ingredients = provided is for `evaluate` and `predict`: the best checkpoint must not be chosen by "
            "scores that depend on the truth; set it to vocabulary or predicted"
        )
    manifest, reader = training_data(config.data)
    val_split = config.data.val_split
    if val_split is not None and val_split not in manifest.counts:
        have = ", ".join(f"{name} ({counts.images})" for name, counts in manifest.counts.items())
        raise UserError(
            f"the data set {manifest.name!r} has no split {val_split!r}, which data.val_split names; it has {have}: "
            "set data.val_split=null to train without validation, or name one of those"
        )
    if val_split is not None and not (manifest.split_shards([val_split]) and manifest.trained_ids([val_split])):
        raise UserError(
            f"data.val_split {val_split!r} holds no labelled pixel; set data.val_split=null to train without validation"
        )
    if config.regions is not None and config.regions.regions == "sam":
        reader.kept_masks = read_kept_masks(config.data.uri, manifest)
    order = training_order(
        reader, config.data, config.train.seed, config.train.global_batch, paste=config.augment.paste
    )
    return Run(config, manifest, reader, order, _total_steps(config, order))


def prepare_run(config: ExperimentConfig, *, resume: bool) -> Run:
    """Checks a run and begins it. UserError: as `check_run`."""
    run = check_run(config, resume=resume)
    begin_run(run, resume=resume)
    return run


def check_run(config: ExperimentConfig, *, resume: bool) -> Run:
    """Checks everything that can be checked before Ray starts; nothing is written.

    Raises:
        UserError: as `plan_run`; no GPU for a training in this process that wants one; a backbone, weights or class
            embeddings that cannot be loaded; crops or batches that the backbone does not take; no MLflow where it is
            wanted; a run directory that another command writes, that holds a run (without `resume`) or another run
            (with it).
    """
    run = plan_run(config)
    config, manifest = run.config, run.manifest
    if config.scaling.num_workers == 0 and config.scaling.use_gpu:
        _require_gpu(config)
    refuse_in_use(config.run.uri, "run.uri")
    begun = None if _is_empty(config.run.uri) else _begun(config, resume)
    # a checkpoint holds the weights, so that resuming from it needs neither the weights file nor the hub
    starts = not resume or newest_checkpoint(config.run.uri) is None
    text = text_of_run(config, manifest.class_table)
    kept = backbone_of_run(config) if resume and starts else None
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.train.seed)
        images = manifest.class_images(config.data.train_splits)
        model = _require_model(config, manifest.class_table, text, starts=starts and kept is None, class_images=images)
    if kept is not None and model is not None:
        model.backbone.load_state_dict(kept)
    loaded = starts and kept is None and has_weights(config)
    teachers = tuple(read_teachers(config.distill.teacher, manifest.class_table))
    teacher_of = assign_teachers(teachers, run.reader, config.data, manifest.identity) if teachers else None
    if config.regions is not None:  # its teacher sees each batch, and labels nothing before
        teachers, teacher_of = (), None
        region_teacher(config)
    if config.train.mlflow_uri is not None:
        require_mlflow(config.train.mlflow_uri)
    backbone = model.backbone.state_dict() if loaded and model is not None else None
    checked = replace(run, begun=begun, starts=starts, text=text, model=model, backbone=backbone)
    return replace(checked, teachers=teachers, teacher_of=teacher_of)


def begin_run(run: Run, *, resume: bool) -> None:
    """Writes `config.yaml` and what workers start from into the run directory.

    That is `text.safetensors` for a model with text, and `backbone.safetensors` for a timm backbone with weights. Both
    are computed or downloaded once, so that no other machine needs the weights file or the hub. With teachers the
    training images are labelled, here or in `distill.labels`, and the run's reader reads their labels from then on.

    Raises:
        UserError: another command has begun or changed a run there since `check_run`.
    """
    config, manifest, text = run.config, run.manifest, run.text
    # config.yaml first: a directory that holds files without it is not a run and could not be resumed
    where, data = storage.join(config.run.uri, "config.yaml"), to_yaml(config).encode()
    if run.begun is not None:
        written = storage.replace_bytes(where, data, run.begun)
    else:
        written = _is_empty(config.run.uri) and storage.create_bytes(where, data)
    if not written:
        raise _changed_meanwhile(config) if resume else _not_empty(config)
    if text is not None:
        storage.write_bytes(storage.join(config.run.uri, TEXT_FILE), table_bytes(text))
    if run.backbone is not None:
        where = storage.join(config.run.uri, BACKBONE_FILE)
        storage.write_bytes(where, safetensors.torch.save(contiguous(dict(run.backbone))))
    if run.teacher_of is not None:
        labels = config.distill.labels or storage.join(config.run.uri, "soft_labels")
        made = soft_labels_uri(labels, run.teachers, run.teacher_of, config.data, manifest.identity)
        checkpoints = [teacher.uri for teacher in run.teachers]
        run.reader.soft_labels = make_soft_labels(made, run.reader, checkpoints, run.teacher_of, pick_device())
    if resume and (newest_checkpoint(config.run.uri) is None) != run.starts:
        raise _changed_meanwhile(config)
    warn_of_weights(config, starts=run.starts)
    idle = sum(manifest.counts[split].unlabelled for split in config.data.train_splits if split in manifest.counts)
    if idle and not config.loss.needs_teacher and not config.loss.needs_soft_labels:
        _log.warning(
            "%d of the training images have no mask: nothing is learned from them while loss.distill, "
            "loss.soft_labels and the other distillation terms are 0",
            idle,
        )


def _require_gpu(config: ExperimentConfig) -> None:
    if not torch.cuda.is_available() and not has_mps():
        raise UserError(
            "scaling.use_gpu is true and scaling.num_workers is 0, but torch finds no GPU here: set "
            "scaling.use_gpu=false, or join a cluster that has one"
        )
    if not torch.cuda.is_available() and (config.train.precision == "fp16" or config.train.batch_norm == "sync"):
        raise UserError(
            "train.precision = fp16 and train.batch_norm = sync need CUDA, and the GPU of this machine is of the kind "
            "mps: use train.precision fp32 or bf16, and train.batch_norm live or frozen"
        )


def require_models(configs: Iterable[ExperimentConfig], classes: ClassTable) -> None:
    """Checks the models of many runs before the first of them begins, once for each choice of parts and files.

    Raises:
        UserError: as `prepare_run`, for a backbone, weights, class embeddings or crops.
    """
    different: dict[tuple[Any, ...], ExperimentConfig] = {}
    for config in configs:
        parts = leaves(config.model_dump(mode="json")["model"])
        named = tuple((key, value) for key, value in parts if isinstance(value, str))
        batches = (config.train.global_batch, config.train.micro_batch, config.train.batch_norm, *config.world_sizes)
        different.setdefault((*named, config.augment.crop, *batches), config)
    for config in map(with_absolute_uris, different.values()):
        text = None if config.model.text.kind == "none" else class_text(config.model, classes)
        _require_model(config, classes, text, starts=True)


def _require_model(
    config: ExperimentConfig,
    classes: ClassTable,
    text: TextTable | None,
    *,
    starts: bool,
    class_images: Sequence[int] | None = None,
) -> Trained | None:
    """Returns the model with its weights; None with a diffusion backbone, which is too large to build here."""
    embeddings = text.embeddings if text else None
    if config.model.kind == "diffusion":
        require_diffusion(config.model, None if embeddings is None else embeddings.shape[1], pretrained=starts)
        return None
    model = build_model(config, len(classes), pretrained=starts, text=embeddings, class_images=class_images)
    attach_tower(model, config.model, classes, text)
    if config.train.latent_cache is not None:
        assert not isinstance(model, RegionNetwork)  # has no latent cache
        frozen_encoder(model.backbone)
    require_crops(model, config)
    return model


def initial_model(
    config: ExperimentConfig,
    classes: ClassTable,
    text: TextTable | None,
    *,
    starts: bool,
    class_images: Sequence[int] | None = None,
) -> Trained:
    """Builds a worker's model of a run that has begun, with torch seeded for it: every worker has the same numbers.

    Args:
        text: as `text_of_run` returns it. starts: no checkpoint follows, so that it needs its initial weights.
        class_images: (K,) training images of each class.

    Raises:
        UserError: as `build_network`.
    """
    weights = backbone_of_run(config) if starts else None
    torch.manual_seed(config.train.seed)
    embeddings = text.embeddings if text else None
    model = build_model(
        config, len(classes), pretrained=starts and weights is None, text=embeddings, class_images=class_images
    )
    if weights is not None:
        model.backbone.load_state_dict(weights)
    attach_tower(model, config.model, classes, text)
    return model


def text_of_run(config: ExperimentConfig, classes: ClassTable) -> TextTable | None:
    """Returns the class embeddings from the run directory; None for a model without text.

    For a run that has not begun they are computed, as `model.text` says.

    Raises:
        UserError: as `class_text`.
    """
    if config.model.text.kind == "none":
        return None
    kept = storage.join(config.run.uri, TEXT_FILE)
    return read_table(kept, classes) if storage.exists(kept) else class_text(config.model, classes)


def with_absolute_uris(config: ExperimentConfig) -> ExperimentConfig:
    """Workers run in other folders, so relative paths are resolved where the command was given."""
    return with_absolute(config)


def _total_steps(config: ExperimentConfig, order: TrainingOrder) -> int:
    if config.train.steps is not None:
        return config.train.steps
    assert config.train.epochs is not None
    steps = int(config.train.epochs * order.epoch_length / config.train.global_batch)
    if steps < 1:
        raise UserError(
            f"train.epochs = {config.train.epochs:g} of {order.epoch_length} images is less than one update of "
            f"{config.train.global_batch}: raise train.epochs or lower train.global_batch"
        )
    return steps


def _is_empty(run_uri: str) -> bool:
    return not set(storage.list_names(run_uri)) - {IN_USE}


def _begun(config: ExperimentConfig, resume: bool) -> str:
    """Checks the run that is in the run directory; returns the version of its `config.yaml`."""
    shown, where = storage.redact(config.run.uri), storage.join(config.run.uri, "config.yaml")
    if not resume:
        raise _not_empty(config)
    if not storage.exists(where):
        raise UserError(f"--resume: {shown} holds files but no config.yaml, so it is not a run; give another run.uri")
    data, version = storage.read_versioned(where)
    changed = _changed_keys(from_yaml(decode_text(data, storage.redact(where)), where), config)
    if changed:
        raise UserError(
            f"--resume: {shown} was started with another configuration: {'; '.join(changed[:3])}; "
            "give the same one, or another run.uri to start again"
        )
    return version


def _not_empty(config: ExperimentConfig) -> UserError:
    shown = storage.redact(config.run.uri)
    return UserError(f"the run directory {shown} is not empty: give --resume to resume it, or another run.uri")


def _changed_meanwhile(config: ExperimentConfig) -> UserError:
    shown = storage.redact(config.run.uri)
    return UserError(f"run.uri {shown} was changed while this command began: run it again")


def _changed_keys(started: ExperimentConfig, config: ExperimentConfig) -> list[str]:
    # where it runs and how often it logs may change, but not what is learned
    may_change = keys_with(type(config), ExecutionOnly, MayChangeOnResume)
    before = dict(leaves(started.model_dump(mode="json")))
    now = dict(leaves(config.model_dump(mode="json")))
    return [
        f"{key} was {json.dumps(before[key])}, now {json.dumps(value)}"
        for key, value in now.items()
        if before[key] != value and not is_below(key, may_change)
    ]
