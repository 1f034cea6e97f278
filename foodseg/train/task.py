"""What is learned: the loop only knows a `Task`, not masks; segmentation is the one task so far."""

from collections.abc import Collection, Mapping
from typing import Protocol

import torch
from torch import nn

from foodseg.classes import BACKGROUND, ClassTable
from foodseg.config import ExperimentConfig
from foodseg.data.augment.photometric import jittered_view, plain_view, real_pixels, real_pixels_per_cell
from foodseg.data.batch import Batch
from foodseg.data.sources import unannotated
from foodseg.losses.distillation import (
    attention_divergence_sum,
    deeper_distance_sum,
    divergence_sum,
    feature_distance_sum,
    ramp,
)
from foodseg.losses.segmentation import (
    cross_entropy_sum,
    dice_sum,
    ingredient_sum,
    labelled_pixels,
    present_classes,
    upsample_logits,
)
from foodseg.models.backbones.latents import LatentCache
from foodseg.models.backbones.timm_pyramid import Pyramid
from foodseg.models.build import build_segmenter
from foodseg.models.segmenter import SegmenterOutput
from foodseg.train.conditioning import student_conditioning, teacher_conditioning

# the terms that compare the student with the teacher
DISTILLATION_TERMS = frozenset({"distill", "features", "stages", "deeper", "attention"})


class Task(Protocol):
    """A module with the terms of its loss.

    Attributes:
        module: what is trained; the loop may wrap it (DDP) and hands the wrapped one to `loss`.
    """

    module: nn.Module

    def weights_at(self, step: int) -> dict[str, float]:
        """Returns the weight of each loss term in update number `step`; terms that are not in it are not computed."""
        ...

    def counts(self, batch: Batch, step: int) -> dict[str, torch.Tensor]:
        """Returns per term the number that its sum is divided by, for this micro-batch alone."""
        ...

    def loss(
        self, module: nn.Module, batch: Batch, step: int, teacher: nn.Module | None = None
    ) -> dict[str, torch.Tensor]:
        """Returns per term the *sum* over this micro-batch, with gradients to `module` and none to `teacher`."""
        ...


class SegmentationTask:
    """The segmenter learns from masks (cross entropy, Dice), from its teacher, and from the classes present on a crop.

    From an image without a mask it learns through distillation alone. A model with text fusion is conditioned on
    classes drawn from the row's seed (`train/conditioning.py`). It is not known whether an id that an image's source
    never annotates is present: it counts as present in the conditioning, and is left out of the ingredient head's loss.
    With a diffusion backbone the head's features depend on the conditioning. The head then learns only from images that
    were conditioned on all classes: from the others it would learn to repeat the conditioning.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        classes: ClassTable,
        annotated: Mapping[str, tuple[int, ...] | None],
        *,
        pretrained: bool,
        total_steps: int,
        text: torch.Tensor | None = None,
    ) -> None:
        """Builds the segmenter.

        Args:
            annotated: per source the ids that it annotates (None = all), in the order of `Batch.source`.
            text: (K, D) class embeddings, for a model with text fusion.
        """
        self._config, self._classes, self._total_steps = config, classes, total_steps
        segmenter = build_segmenter(config.model, len(classes), pretrained=pretrained, text=text)
        self.module: nn.Module = segmenter
        self._strides = segmenter.backbone.strides
        self._map_strides: tuple[int, ...] = ()
        if not isinstance(segmenter.backbone, Pyramid):
            self._map_strides = segmenter.backbone.map_strides
            if config.train.latent_cache is not None:
                segmenter.backbone.latent_cache = LatentCache(config.train.latent_cache)
        stages = config.distill.stages or self._strides
        self._stages = [index for index, stride in enumerate(self._strides) if stride in stages]
        self._shallower = [index for index in self._stages if index + 1 < len(self._strides)]
        hidden = unannotated(annotated, len(classes))
        self._unannotated = None if hidden is None else torch.from_numpy(hidden)
        self._mean = torch.tensor(config.model.mean).view(1, 3, 1, 1)

    def weights_at(self, step: int) -> dict[str, float]:
        loss = self._config.loss
        rise = ramp(step, self._total_steps, self._config.optim.warmup, self._config.distill.ramp)
        terms = {
            "cross_entropy": loss.cross_entropy,
            "dice": loss.dice,
            "score_map": loss.score_map,
            "ingredients": loss.ingredients,
            "distill": loss.distill * rise,
            "features": loss.features,
            "stages": loss.stages,
            "deeper": loss.deeper,
            "attention": loss.attention,
        }
        return {name: weight for name, weight in terms.items() if weight > 0}

    def counts(self, batch: Batch, step: int) -> dict[str, torch.Tensor]:
        mask = batch.mask.long()
        ignore_id, weights = self._classes.ignore_id, self.weights_at(step)
        counts = {"cross_entropy": labelled_pixels(mask, ignore_id)}
        if "dice" in weights:
            counts["dice"] = present_classes(mask, ignore_id, len(self._classes))
        if "score_map" in weights:
            counts["score_map"] = labelled_pixels(self._thinned(mask), ignore_id)
        if "ingredients" in weights:
            counts["ingredients"] = self._known_classes(batch, self._conditioning(batch)).sum()
        if DISTILLATION_TERMS & weights.keys():
            real = real_pixels(batch.extent, *mask.shape[-2:]).sum()
            maps = {"stages": len(self._stages), "deeper": len(self._shallower), "attention": len(self._map_strides)}
            counts |= {name: real * maps.get(name, 1) for name in DISTILLATION_TERMS}
        return {name: counts[name] for name in weights}

    def loss(
        self, module: nn.Module, batch: Batch, step: int, teacher: nn.Module | None = None
    ) -> dict[str, torch.Tensor]:
        weights, ignore_id = self.weights_at(step), self._classes.ignore_id
        mask = batch.mask.long()
        mean = self._mean.to(batch.image.device)
        # before the student's pass, whose activations are kept
        soft = self._teacher_output(teacher, batch, mean) if DISTILLATION_TERMS & weights.keys() else None
        image = jittered_view(batch.image, batch.extent, mean, batch.seed, self._config.augment)
        conditioning = self._conditioning(batch)
        output = _forward(module, image, conditioning)
        hidden = self._hidden(batch)
        sums = {}
        if "cross_entropy" in weights:
            sums["cross_entropy"] = cross_entropy_sum(output.logits, mask, ignore_id, hidden)
        if "dice" in weights:
            resized = upsample_logits(output.logits, *mask.shape[-2:])
            sums["dice"] = dice_sum(resized, mask, ignore_id, hidden)
        if "score_map" in weights:
            assert output.score_map is not None
            sums["score_map"] = cross_entropy_sum(output.score_map, self._thinned(mask), ignore_id, hidden)
        if "ingredients" in weights:
            assert output.ingredient_logits is not None
            known = self._known_classes(batch, conditioning)
            sums["ingredients"] = ingredient_sum(output.ingredient_logits, batch.ingredients, known)
        if soft is not None:
            sums |= self._distillation_sums(output, soft, batch, weights.keys())
        return sums

    def _distillation_sums(
        self, student: SegmenterOutput, teacher: SegmenterOutput, batch: Batch, wanted: Collection[str]
    ) -> dict[str, torch.Tensor]:
        """The terms that compare with the teacher, each as a sum over pixels and over the maps that it compares."""

        def pixels(values: torch.Tensor, stride: int) -> torch.Tensor:
            height, width = values.shape[-2:]
            return real_pixels_per_cell(batch.extent, height, width, stride)

        at_logits = pixels(student.logits, student.stride)
        sums = {}
        if "distill" in wanted:
            sums["distill"] = divergence_sum(
                student.logits, teacher.logits, at_logits, self._config.distill.temperature
            )
        if "features" in wanted:
            sums["features"] = feature_distance_sum(student.features, teacher.features, at_logits)
        at = [pixels(stage, stride) for stage, stride in zip(student.stages, self._strides, strict=False)]
        if "stages" in wanted:
            each = [feature_distance_sum(student.stages[i], teacher.stages[i], at[i]) for i in self._stages]
            sums["stages"] = torch.stack(each).sum()
        if "deeper" in wanted:
            each = [deeper_distance_sum(student.stages[i], teacher.stages[i + 1], at[i]) for i in self._shallower]
            sums["deeper"] = torch.stack(each).sum()
        if "attention" in wanted:
            each = [
                attention_divergence_sum(own, other, pixels(own, stride))
                for own, other, stride in zip(student.maps, teacher.maps, self._map_strides, strict=True)
            ]
            sums["attention"] = torch.stack(each).sum()
        return sums

    @torch.no_grad()
    def _teacher_output(self, teacher: nn.Module | None, batch: Batch, mean: torch.Tensor) -> SegmenterOutput:
        """The teacher's output for the same crops, unjittered, with the teacher's own conditioning."""
        assert teacher is not None, "loss.distill and the other distillation terms need a teacher"
        conditioning = None
        if self._config.model.fusion != "none":
            conditioning = teacher_conditioning(
                self._possible_classes(batch), batch.ingredients_known, self._config.distill
            )
        return _forward(teacher, plain_view(batch.image, batch.extent, mean), conditioning)

    def _hidden(self, batch: Batch) -> torch.Tensor | None:
        """(B, K) bool, the ids that each image's source never annotates; None = every source annotates all."""
        if self._unannotated is None:
            return None
        return self._unannotated.to(batch.mask.device)[batch.source.long()]

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

    def _known_classes(self, batch: Batch, conditioning: torch.Tensor | None) -> torch.Tensor:
        """(B, K) bool, the classes that the ingredient head learns: it is known whether they are on the crop."""
        hidden = self._hidden(batch)
        known = batch.ingredients_known[:, None].expand_as(batch.ingredients).clone()
        if hidden is not None:
            known &= ~hidden | batch.ingredients
        if conditioning is not None and self._config.model.kind == "diffusion":
            known &= conditioning.all(1, keepdim=True)
        known[:, BACKGROUND] = False
        return known

    def _thinned(self, mask: torch.Tensor) -> torch.Tensor:
        """The mask at the stride of the finest level: enough for an auxiliary loss, and less work."""
        stride = self._config.model.strides[0]
        return mask[:, stride // 2 :: stride, stride // 2 :: stride].contiguous()


def _forward(module: nn.Module, image: torch.Tensor, conditioning: torch.Tensor | None) -> SegmenterOutput:
    output: SegmenterOutput = module(image) if conditioning is None else module(image, ingredients=conditioning)
    return output
