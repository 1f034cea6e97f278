"""The training loop of one process, with or without Ray.

An update takes `train.global_batch` images over all ranks and micro-batches. Each loss term is summed locally, and
divided by its count over the whole update: as DDP averages gradients over the ranks, the local sum is multiplied by the
number of ranks first. So 1 x 8, 2 x 4 and 4 + 4 accumulated images give the same gradient.

All random numbers depend on (seed, step, rank) alone: a resumed run repeats the uninterrupted one.
"""

import contextlib
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.layers import convert_sync_batchnorm
from torch import nn

from foodseg import storage
from foodseg.checkpoint.checkpoint import Calibration, Checkpoint, load_checkpoint, save_checkpoint
from foodseg.checkpoint.history import Validation
from foodseg.checkpoint.run_layout import checkpoint_uri
from foodseg.checkpoint.run_pointers import prune_checkpoints, restore_pointers, write_pointers
from foodseg.classes import ClassTable
from foodseg.config import ExperimentConfig
from foodseg.data.batch import AnyBatch
from foodseg.data.rng import dropout_seed
from foodseg.data.shards import Manifest
from foodseg.data.training_rows import validation_reader
from foodseg.errors import UserError
from foodseg.losses.cross_entropy import sum_dtype
from foodseg.models.build import Trained
from foodseg.models.realtime import settle_text
from foodseg.predict.device import device_name
from foodseg.predict.predictor import AUTOCAST
from foodseg.train.batch_size import micro_batch_size
from foodseg.train.build_task import build_task
from foodseg.train.context import TrainContext, share_buffers
from foodseg.train.ema import Teacher
from foodseg.train.moments import MomentsTask
from foodseg.train.optim import build_optimizer, build_schedule
from foodseg.train.region_task import RegionTask
from foodseg.train.region_validation import validate_regions
from foodseg.train.results import Report, TrainingResult
from foodseg.train.run import initial_model, text_of_run
from foodseg.train.run_log import RunLog, memory_mib
from foodseg.train.task import Task
from foodseg.train.validation import validate

_log = logging.getLogger(__name__)


@dataclass
class _Meter:
    """Sums since the last progress line."""

    steps: int = 0
    waited: float = 0.0
    started: float = field(default_factory=time.perf_counter)


def train(
    config: ExperimentConfig,
    manifest: Manifest,
    total_steps: int,
    context: TrainContext,
    model: Trained | None = None,
) -> TrainingResult:
    """Trains to `total_steps`, or until a stop is requested; resumes from the newest checkpoint of the run.

    Args:
        model: as `initial_model` would build it; None = it does.
    """
    return Trainer(config, manifest, total_steps, context, model).run()


class Trainer:
    """One rank's model, optimizer and teacher, and the loop over them."""

    def __init__(
        self,
        config: ExperimentConfig,
        manifest: Manifest,
        total_steps: int,
        context: TrainContext,
        model: Trained | None = None,
    ) -> None:
        self.config, self.manifest, self.total_steps, self.context = config, manifest, total_steps, context
        self.classes: ClassTable = manifest.class_table
        restored_uri = context.restore()
        self.text = text_of_run(config, self.classes)
        images = manifest.class_images(config.data.train_splits)
        starts = restored_uri is None
        model = model or initial_model(config, self.classes, self.text, starts=starts, class_images=images)
        self.task: Task | MomentsTask = build_task(
            config, self.classes, manifest.annotated, model, total_steps=total_steps, device=context.device
        )
        self.student = self.task.module.to(context.device)
        if config.train.channels_last:
            self.student.to(memory_format=torch.channels_last)
        self._set_batch_norm()
        self.optimizer = build_optimizer(config.optim, self.student)
        self.schedule = build_schedule(config.optim, self.optimizer, total_steps)
        self.scaler = torch.amp.GradScaler(context.device.type, enabled=config.train.precision == "fp16")
        horizon = config.train.ema_horizon
        self.teacher = Teacher(self.student, horizon, total_steps) if horizon > 0 else None
        # else each rank would have a teacher of its own; from the first step on, although distillation starts later
        self.shares_statistics = config.loss.needs_teacher and config.train.batch_norm == "live"
        self.step = 0
        self.history: list[Validation] = []
        self.calibration: Calibration | None = None  # of the last validation
        if restored_uri is not None:
            self._restore(load_checkpoint(restored_uri, with_trainer=True))
            if context.rank == 0:
                restore_pointers(config.run.uri, self.step, self.history)
        learns = any(parameter.requires_grad for parameter in self.student.parameters())
        wrapped = context.wrap(self.student) if learns else self.student  # DDP refuses a model without gradients
        # around DDP, else it could reduce no gradient before the whole backward pass is over
        self.wrapped: nn.Module = torch.compile(wrapped) if config.train.compile else wrapped  # type: ignore[assignment]
        self.validation = validation_reader(config, manifest)

    def _announcement(self) -> str:
        images = sum(self.manifest.counts[split].images for split in self.config.data.train_splits)
        where, world = device_name(self.context.device), self.context.world_size
        return (
            f"training on {images:,} images: updates {self.step + 1:,} to {self.total_steps:,}, of "
            f"{self.config.train.global_batch} images each, on {where}{f' of each of {world} workers' * (world > 1)}"
        )

    def run(self) -> TrainingResult:
        """Runs the remaining updates."""
        config, context = self.config.train, self.context
        with contextlib.ExitStack() as stack:
            log = stack.enter_context(RunLog(self.config)) if context.rank == 0 else None
            if context.rank == 0 and self.step < self.total_steps:
                _log.info("%s", self._announcement())
            batches = context.batches(self.step, self.total_steps)
            meter = _Meter()
            stopped = False
            while self.step < self.total_steps and not stopped:
                window = self._fetch(batches, meter)
                sums, total = self._update(window)
                self.step += 1
                meter.steps += 1
                last = self.step == self.total_steps
                logs = self.step % config.log_every == 0 or last
                stopped = not last and context.stop_requested()
                validates = self.validation is not None and (self.step % config.validate_every == 0 or last)
                saves = validates or last or stopped or self.step % config.checkpoint_every == 0
                if logs or saves:  # a model of NaN is never saved: the run could not resume from it
                    losses = self._mean_losses(sums, total)
                    if log and logs:
                        self._log_progress(log, meter, losses)
                        meter = _Meter()
                paused = time.perf_counter()
                if saves:
                    settle_text(self.student)
                if validates:
                    self._validate(log)
                if saves:
                    self._checkpoint(log)
                # neither validation nor upload is training time
                meter.started += time.perf_counter() - paused
        miou = self.history[-1].miou if self.history else None
        return TrainingResult(self.step, stopped, miou, self.config.run.uri)

    def _fetch(self, batches: Iterator[AnyBatch], meter: _Meter) -> list[Any]:
        """Takes the micro-batches of one update and checks that their positions are the expected ones."""
        started = time.perf_counter()
        size = micro_batch_size(self.config, self.context.world_size)
        share = self.config.train.global_batch // self.context.world_size
        window = [next(batches) for _ in range(share // size)]
        meter.waited += time.perf_counter() - started
        first = self.step * self.config.train.global_batch + self.context.rank * share
        found = torch.cat([batch.position for batch in window]).tolist()
        assert found == list(range(first, first + share)), f"step {self.step}, rank {self.context.rank}: {found}"
        return [batch.to(self.context.device) for batch in window]

    def _update(self, window: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns per loss term this rank's sum and the count over all ranks, both (terms,) of `sum_dtype`."""
        if isinstance(self.task, MomentsTask):
            return self.task.add(window, self.context)
        torch.manual_seed(dropout_seed(self.config.train.seed, self.step, self.context.rank))
        self._train_mode()
        weights = self.task.weights_at(self.step)
        names = list(weights)
        counted = [self.task.counts(batch, self.step) for batch in window]
        local = torch.stack([torch.stack([count[name] for name in names]) for count in counted]).sum(0)
        precise = sum_dtype(self.context.device)
        total = self.context.all_reduce(local.to(precise)).clamp_min(1)
        sums = torch.zeros(len(names), dtype=precise, device=self.context.device)
        dtype = AUTOCAST[self.config.train.precision]
        teacher = self.teacher.module if self.teacher is not None else None
        for index, batch in enumerate(window):
            with self._no_sync(index < len(window) - 1):
                with torch.autocast(self.context.device.type, dtype, enabled=dtype is not None):
                    terms = self.task.loss(self.wrapped, batch, self.step, teacher)
                parts = [
                    weights[name] * terms[name] * (self.context.world_size / total[i]) for i, name in enumerate(names)
                ]
                self.scaler.scale(torch.stack(parts).sum()).backward()
            sums += torch.stack([terms[name].detach().to(precise) for name in names])
        if self.config.optim.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.student.parameters(), self.config.optim.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        if self.teacher is not None:
            if self.shares_statistics:
                share_buffers(self.student, self.context)
            self.teacher.update(self.student, self.step)
        return sums, total

    def _mean_losses(self, sums: torch.Tensor, total: torch.Tensor) -> dict[str, float]:
        """Returns the loss terms of the update before `self.step` over all ranks; all ranks call it.

        Raises:
            UserError: one of them is not finite.
        """
        means = self.context.all_reduce(sums) / total
        losses = dict(zip(self.task.weights_at(self.step - 1), means.tolist(), strict=True))
        bad = [name for name, value in losses.items() if not math.isfinite(value)]
        if bad:
            raise UserError(
                f"the loss {bad[0]} is {losses[bad[0]]} at step {self.step}: lower optim.lr "
                f"(now {self.config.optim.lr:g}), set optim.clip_norm, or use train.precision fp32"
            )
        return losses

    def _validate(self, log: RunLog | None) -> None:
        started = time.perf_counter()
        assert self.validation is not None
        models = {"student": self.student, **({"ema": self.teacher.module} if self.teacher else {})}
        given = (self.validation, self.manifest, self.config, self.context, self.step)
        if isinstance(self.task, RegionTask):
            scored, text = validate_regions(models, *given)
            self.history.append(scored)
            return self._log_validation(log, text, started)
        found = validate(models, *given)
        result, self.calibration = found[self.config.eval.weights]
        kinds = {f"miou_{name}": each.miou for name, (each, _) in found.items()}
        self.history.append(Validation(self.step, result.miou, result.aacc, result.macc, **kinds))
        both = ", ".join(f"{name} {100 * each.miou:.2f}" for name, (each, _) in found.items())
        self._log_validation(log, f"val mIoU {100 * result.miou:.2f} ({both}) aAcc {100 * result.aacc:.2f}", started)

    def _log_validation(self, log: RunLog | None, text: str, started: float) -> None:
        if log:
            text = f"step {self.step}/{self.total_steps} {text} ({time.perf_counter() - started:.0f} s)"
            values = {f"val/{name}": value for name, value in self.history[-1].to_json().items() if name != "step"}
            log.write(self.step, values, text)

    def _checkpoint(self, log: RunLog | None) -> None:
        """Rank 0 writes; the others wait in `report`, so that no rank runs ahead of a checkpoint that may fail."""
        uri = checkpoint_uri(self.config.run.uri, self.step)
        if log:
            save_checkpoint(uri, self._snapshot())
            write_pointers(self.config.run.uri, self.step, self.history)
            prune_checkpoints(self.config.run.uri, self.step, self.config.train.keep_checkpoints)
            log.publish()
        validated = self.history[-1] if self.history and self.history[-1].step == self.step else None
        self.context.report(Report(self.step, self.step / self.total_steps, validated), uri)

    def _snapshot(self) -> Checkpoint:
        return Checkpoint(
            step=self.step,
            config=self.config,
            classes=self.classes,
            data=self.manifest.identity,
            trained_ids=tuple(sorted(self.manifest.trained_ids(self.config.data.train_splits))),
            student=self.student.state_dict(),
            teacher=self.teacher.state_dict() if self.teacher else None,
            trainer={
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "scaler": self.scaler.state_dict(),
                "total_steps": self.total_steps,
            },
            history=self.history,
            # a temperature is valid only for the weights that it was fitted for
            calibration=self.calibration if self.calibration and self.calibration.step == self.step else None,
            text=self.text,
            class_pixels=self.manifest.class_pixels(self.config.data.train_splits),
        )

    def _restore(self, checkpoint: Checkpoint) -> None:
        assert checkpoint.trainer is not None
        if checkpoint.data != self.manifest.identity:
            now = "data.uris now hold" if self.config.data.uris else "data.uri now holds"
            raise UserError(
                f"the run {storage.redact(self.config.run.uri)} was trained on {checkpoint.data}, but {now} "
                f"{self.manifest.identity}: give another run.uri to start again"
            )
        self.student.load_state_dict(checkpoint.student)
        if self.teacher is not None and checkpoint.teacher is not None:
            self.teacher.load_state_dict(checkpoint.teacher)
        self.optimizer.load_state_dict(checkpoint.trainer["optimizer"])
        self.schedule.load_state_dict(checkpoint.trainer["schedule"])
        self.scaler.load_state_dict(checkpoint.trainer["scaler"])
        self.step, self.history = checkpoint.step, list(checkpoint.history)

    def _log_progress(self, log: RunLog, meter: _Meter, losses: dict[str, float]) -> None:
        seconds = time.perf_counter() - meter.started
        images = meter.steps * self.config.train.global_batch / seconds
        left = (self.total_steps - self.step) * seconds / meter.steps
        waiting = meter.waited / seconds
        miou = f" mIoU {100 * self.history[-1].miou:.1f}" if self.history else ""
        parts = " ".join(f"{name} {value:.4f}" for name, value in losses.items())
        text = (
            f"step {self.step}/{self.total_steps} {parts}{miou} {images:.1f} images/s "
            f"waiting for data {100 * waiting:.0f} % left {_duration(left)}"
        )
        batch = self.config.train.global_batch
        values: dict[str, Any] = {f"loss/{name}": value for name, value in losses.items()}
        values |= {"lr": self.schedule.get_last_lr()[-1], "images_per_second": images, "waiting_share": waiting}
        values["memory_mib"] = memory_mib(self.context.device)
        log.write(self.step, {**values, "positions": [(self.step - meter.steps) * batch, self.step * batch]}, text)

    def _train_mode(self) -> None:
        self.student.train()
        if self.config.train.batch_norm == "frozen":
            for module in self.student.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def _set_batch_norm(self) -> None:
        if self.config.train.batch_norm == "sync":
            # timm's, since torch's would drop the activations that timm keeps inside its BatchNorm layers
            self.student = convert_sync_batchnorm(self.student)
            self.task.module = self.student

    def _no_sync(self, skip: bool) -> contextlib.AbstractContextManager[None]:
        """DDP adds gradients up locally within an update, and averages them over the ranks once."""
        if skip and hasattr(self.wrapped, "no_sync"):
            return self.wrapped.no_sync()  # type: ignore[operator]
        return contextlib.nullcontext()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
