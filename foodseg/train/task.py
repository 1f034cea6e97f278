"""What is learned: the loop only knows a `Task`, not masks; here is segmentation, in `region_task.py` are regions."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import nn

from foodseg.classes import ClassTable
from foodseg.config import ExperimentConfig
from foodseg.data.augment.photometric import jittered_view, plain_view
from foodseg.data.batch import Batch
from foodseg.data.device_copy import to_device
from foodseg.data.sources import unannotated
from foodseg.losses.distillation import distillation_losses
from foodseg.losses.pixel_text import pixel_text_losses
from foodseg.losses.pseudo_labels import (
    PseudoCrossEntropy,
    moved_view,
    pseudo_label_losses,
    pseudo_labels,
    without_mask,
)
from foodseg.losses.segmentation import segmentation_losses
from foodseg.losses.soft_labels import SoftCrossEntropy, soft_label_losses, soft_targets
from foodseg.losses.term import LossTerm, Outputs, SoftTargets, Targets
from foodseg.losses.training_heads import present_classes_of, training_head_losses
from foodseg.models.backbones.diffusion import Diffusion
from foodseg.models.backbones.frozen_features import FeatureCache
from foodseg.models.realtime import RealtimeNetwork
from foodseg.models.segmenter import SegmenterNetwork, SegmenterOutput, frozen_encoder
from foodseg.train.conditioning import student_conditioning, teacher_conditioning, within
from foodseg.train.ema import statistics_of_batch
from foodseg.train.optim import stage_two_begins


class Task(Protocol):
    """A module with the terms of its loss.

    Attributes:
        module: what is trained; the loop may wrap it (DDP) and hands the wrapped one to `loss`.

    A task gets the batches of its own kind, as `data/batch.py: batch_of` builds them.
    """

    module: nn.Module

    def weights_at(self, step: int) -> dict[str, float]:
        """Returns the weight of each loss term in update number `step`; terms that are not in it are not computed."""
        ...

    def counts(self, batch: Any, step: int) -> dict[str, torch.Tensor]:
        """Returns per term the number that its sum is divided by, for this micro-batch alone."""
        ...

    def loss(
        self, module: nn.Module, batch: Any, step: int, teacher: nn.Module | None = None
    ) -> dict[str, torch.Tensor]:
        """Returns per term the *sum* over this micro-batch, with gradients to `module` and none to `teacher`."""
        ...


class SegmentationTask:
    """The segmenter learns from masks (cross entropy, Dice), from its teacher, and from the classes present on a crop.

    From an image without a mask it learns through distillation alone. A model with text fusion is conditioned on
    classes drawn from the row's seed (`train/conditioning.py`). It is not known whether an id that an image's source
    never annotates is present: it counts as present in the conditioning, and is left out of the ingredient head's loss.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        classes: ClassTable,
        annotated: Mapping[str, tuple[int, ...] | None],
        segmenter: SegmenterNetwork | RealtimeNetwork,
        *,
        total_steps: int,
    ) -> None:
        """Takes the segmenter that is to be trained.

        Args:
            annotated: per source the ids that it annotates (None = all), in the order of `Batch.source`.
        """
        self._config, self._classes, self._total_steps = config, classes, total_steps
        self.module: nn.Module = segmenter
        strides = segmenter.backbone.strides
        map_strides: tuple[int, ...] = ()
        if isinstance(segmenter.backbone, Diffusion):
            map_strides = segmenter.backbone.map_strides
        if config.train.latent_cache is not None:
            frozen_encoder(segmenter.backbone).feature_cache = FeatureCache(config.train.latent_cache)
        self._terms: list[LossTerm] = [
            *segmentation_losses(
                config.loss, finest_stride=strides[0], head_sees_conditioning=config.model.kind == "diffusion"
            ),
            *distillation_losses(
                config.loss, config.distill, warmup=config.optim.warmup, total_steps=total_steps,
                strides=strides, map_strides=map_strides,
            ),
            *pseudo_label_losses(config.loss),
            *training_head_losses(config.loss, strides=strides, total_steps=total_steps),
            *soft_label_losses(
                config.loss, config.distill, warmup=config.optim.warmup, total_steps=total_steps
            ),
            *pixel_text_losses(config.loss),
        ]  # fmt: skip
        hidden = unannotated(annotated, len(classes))
        self._unannotated = None if hidden is None else torch.from_numpy(hidden)
        self._segmenter = segmenter
        head = segmenter.trained_head if isinstance(segmenter, RealtimeNetwork) else None
        self._prompted = head if head is not None and head.prompts is not None else None
        self._stage_two = stage_two_begins(config.optim.stage_two, total_steps)
        same_mode = config.loss.needs_teacher and config.distill.same_mode
        undropped = any(term.needs_undropped and term.factor > 0 for term in self._terms)
        segmenter.gives_undropped = same_mode or undropped

    def weights_at(self, step: int) -> dict[str, float]:
        return {term.name: term.weight(step) for term in self._terms_at(step)}

    def counts(self, batch: Batch, step: int) -> dict[str, torch.Tensor]:
        targets = self._targets(batch)
        return {term.name: term.count(targets) for term in self._terms_at(step)}

    def loss(
        self, module: nn.Module, batch: Batch, step: int, teacher: nn.Module | None = None
    ) -> dict[str, torch.Tensor]:
        terms, targets = self._terms_at(step), self._targets(batch)
        if self._prompted is not None:
            self._prompted.learns_prompts = step >= self._stage_two
        mean = self._segmenter.mean  # on the device already
        # before the student's pass, whose activations are kept
        compares = any(term.needs_teacher and not isinstance(term, PseudoCrossEntropy) for term in terms)
        soft = self._teacher_output(teacher, batch, mean) if compares else None
        image = jittered_view(batch.image, batch.extent, mean, batch.seed, self._config.augment)
        labels = None
        if any(isinstance(term, PseudoCrossEntropy) for term in terms) and not batch.ingredients_known.all():
            rows, stride = without_mask(targets), self._segmenter.stride
            labels = self._pseudo_labels(teacher, batch, targets, rows)
            image = moved_view(image, batch, rows, mean, self._config.augment, stride)
        present = present_classes_of(targets) if self._config.model.privileged_head else None
        student = _forward(module, image, targets.conditioning, present)
        compared = None
        if student.undropped is not None and soft is not None:
            logits, features = student.undropped
            compared = student._replace(logits=logits, features=features)
        soft_targets = self._soft_targets(batch, targets, student, terms, step)
        outputs = Outputs(student, soft, soft_targets, labels, compared)
        return {term.name: term.sum(targets, outputs) for term in terms}

    def _terms_at(self, step: int) -> list[LossTerm]:
        return [term for term in self._terms if term.active(step)]

    def _targets(self, batch: Batch) -> Targets:
        mask, conditioning = batch.mask.long(), self._conditioning(batch)
        return Targets(
            mask=mask if conditioning is None else within(mask, conditioning, self._classes.ignore_id),
            ignore_id=self._classes.ignore_id,
            extent=batch.extent,
            unannotated=self._hidden(batch),
            ingredients=batch.ingredients,
            ingredients_known=batch.ingredients_known,
            conditioning=conditioning,
            whole_mask=mask,
        )

    @torch.no_grad()
    def _teacher_output(self, teacher: nn.Module | None, batch: Batch, mean: torch.Tensor) -> SegmenterOutput:
        """The teacher's output for the same crops, unjittered, with the teacher's own conditioning."""
        assert teacher is not None, "loss.distill and the other distillation terms need a teacher"
        conditioning = None
        if self._config.model.fusion != "none":
            conditioning = teacher_conditioning(
                self._possible_classes(batch), batch.ingredients_known, self._config.distill
            )
        view = plain_view(batch.image, batch.extent, mean)
        if not self._config.distill.same_mode:
            return _forward(teacher, view, conditioning)
        with statistics_of_batch(teacher):
            return _forward(teacher, view, conditioning)

    @torch.no_grad()
    def _pseudo_labels(
        self, teacher: nn.Module | None, batch: Batch, targets: Targets, rows: torch.Tensor
    ) -> torch.Tensor:
        """What the averaged weights say of the images without mask, in their plain view."""
        assert teacher is not None, "loss.pseudo_labels needs the averaged weights"
        view = plain_view(batch.image[rows], batch.extent[rows], self._segmenter.mean)
        output = _forward(teacher, view, None)
        return pseudo_labels(output.logits, batch, rows, targets, output.stride)

    def _soft_targets(
        self, batch: Batch, targets: Targets, student: SegmenterOutput, terms: list[LossTerm], step: int
    ) -> SoftTargets | None:
        """What a teacher that is trained already says of the crops; None where no term compares with it yet."""
        if not any(term.needs_soft_labels for term in terms):
            return None
        assert batch.soft_ids is not None and batch.soft_scores is not None, "the rows have no soft labels"
        height, width = student.logits.shape[-2:]
        share = self.weights_at(step).get(SoftCrossEntropy.name, 0.0)
        return soft_targets(batch.soft_ids, batch.soft_scores, targets, (height, width), share)

    def _hidden(self, batch: Batch) -> torch.Tensor | None:
        """(B, K) bool, the ids that each image's source never annotates; None = every source annotates all."""
        if self._unannotated is None:
            return None
        return self._unannotated[batch.source.long()]

    def _possible_classes(self, batch: Batch) -> torch.Tensor:
        hidden = self._hidden(batch)
        return batch.ingredients if hidden is None else batch.ingredients | hidden

    def _conditioning(self, batch: Batch) -> torch.Tensor | None:
        """(B, K) bool, the student's conditioning classes; None = the model is not conditioned."""
        if self._config.model.fusion == "none":
            return None
        return student_conditioning(
            self._possible_classes(batch), batch.ingredients_known, batch.seed, self._config.distill
        )


def _forward(
    module: nn.Module, image: torch.Tensor, conditioning: torch.Tensor | None, present: torch.Tensor | None = None
) -> SegmenterOutput:
    given = {"ingredients": conditioning, "present": present}
    known = {name: to_device(ids, image.device) for name, ids in given.items() if ids is not None}
    output: SegmenterOutput = module(image, **known)
    return output
