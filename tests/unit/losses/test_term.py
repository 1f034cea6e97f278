"""The terms of the loss and the section `loss` name the same things."""

from foodseg.config import ExperimentConfig
from foodseg.config.distill import DistillConfig
from foodseg.config.loss import LossConfig
from foodseg.config.marks import NeedsSoftLabels, NeedsTeacher, keys_with
from foodseg.losses.distillation import distillation_losses
from foodseg.losses.pixel_text import pixel_text_losses
from foodseg.losses.pseudo_labels import pseudo_label_losses
from foodseg.losses.segmentation import segmentation_losses
from foodseg.losses.soft_labels import Gate, soft_label_losses
from foodseg.losses.term import LossTerm
from foodseg.losses.training_heads import training_head_losses

STRIDES = (4, 8, 16, 32)
DISTILLED = DistillConfig(teacher=("runs/a",))


def every_term(loss: LossConfig) -> list[LossTerm]:
    return [
        *segmentation_losses(loss, finest_stride=4, head_sees_conditioning=False),
        *distillation_losses(
            loss, ExperimentConfig().distill, warmup=0.0, total_steps=10, strides=STRIDES, map_strides=(16, 32)
        ),
        *pseudo_label_losses(loss),
        *training_head_losses(loss, strides=STRIDES, total_steps=10),
        *pixel_text_losses(loss),
        *(
            term
            for term in soft_label_losses(loss, DISTILLED, warmup=0.0, total_steps=10)
            if not isinstance(term, Gate)
        ),
    ]


def test_each_weight_of_the_configuration_has_its_term() -> None:
    """A weight without a term would be ignored in silence; a term takes the weight of its own name."""
    weights = {name: 1 / number for number, name in enumerate(LossConfig.model_fields, start=1)}
    smoothing = weights.pop("label_smoothing")
    terms = every_term(LossConfig(**weights, label_smoothing=smoothing))  # type: ignore[arg-type]
    assert {term.name: term.factor for term in terms} == weights and len(terms) == len(weights)
    assert all(term.weight(9) == term.factor for term in terms)  # at the end of the ramp


def test_the_configuration_knows_which_terms_need_a_teacher() -> None:
    terms = every_term(LossConfig())
    assert {term.name for term in terms if term.needs_teacher} == set(keys_with(LossConfig, NeedsTeacher))
    assert {term.name for term in terms if term.needs_soft_labels} == set(keys_with(LossConfig, NeedsSoftLabels))
    assert {term.name for term in terms if term.needs_soft_labels and not term.needs_undropped} == set()
    for term in terms:
        config = LossConfig(**{term.name: 0.5})  # type: ignore[arg-type]
        assert config.needs_teacher == term.needs_teacher
        assert config.needs_soft_labels == term.needs_soft_labels
