"""Settings of a region classifier: what has no effect is refused, in one sentence."""

import pytest
from pydantic import ValidationError

from foodseg.config import ExperimentConfig
from foodseg.config.roi import RoiConfig


def config(**sections: dict[str, object]) -> ExperimentConfig:
    return ExperimentConfig.model_validate({"model": {"kind": "roi"}, **sections})


def test_a_segmenter_has_no_regions() -> None:
    assert ExperimentConfig().regions is None
    assert config().regions == RoiConfig()
    with pytest.raises(ValidationError, match=r"roi is used by model.kind = roi alone, found timm"):
        ExperimentConfig.model_validate({"roi": {"margin": 0.5}})


@pytest.mark.parametrize(("views", "count"), [("crop", 1), ("roi", 1), ("roi_roi", 2), ("roi_context", 2)])
def test_view_count(views: str, count: int) -> None:
    assert RoiConfig.model_validate({"views": views}).view_count == count


@pytest.mark.parametrize(
    ("roi", "sentence"),
    [
        ({"views": "crop", "shared": True}, "roi.shared is of the second view"),
        ({"views": "roi", "context_backbone": "resnet18"}, "roi.context_backbone is of the second view"),
        ({"shared": True, "context_backbone": "resnet18"}, "roi.shared = true has one encoder"),
        ({"context_weights": "none"}, "roi.context_weights is used with roi.context_backbone alone"),
        ({"alpha": 0.3}, "roi.alpha is used by roi.distill = soft alone, found none"),
        ({"distill": "hard"}, "roi.distill other than none and distill.teacher"),
    ],
)
def test_what_has_no_effect_is_refused(roi: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        config(roi=roi)


@pytest.mark.parametrize(
    ("section", "value", "sentence"),
    [
        ("loss", {"dice": 1.0}, "loss.dice is not used by model.kind = roi"),
        ("augment", {"paste": 0.5}, "augment.paste is not used by model.kind = roi"),
        ("eval", {"longest_side": 320}, "eval.longest_side is not used by model.kind = roi"),
        ("distill", {"temperature": 3.0, "same_mode": True}, "distill.same_mode is not used by model.kind = roi"),
        ("distill", {"teacher": ["a"]}, "roi.distill other than none and distill.teacher"),
        ("train", {"latent_cache": "tokens"}, "train.latent_cache is not used by model.kind = roi"),
        ("model", {"kind": "roi", "pyramid_channels": 64}, "model.pyramid_channels is not used by model.kind = roi"),
    ],
)
def test_other_sections(section: str, value: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        config(**{section: value})


def test_two_teachers_or_several_data_sets_with_kept_masks_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"distill.teacher is one checkpoint with model.kind = roi, found 2"):
        config(roi={"distill": "hard"}, distill={"teacher": ["a", "b"]})
    with pytest.raises(ValidationError, match=r"roi.regions = sam reads the masks beside data.uri"):
        config(roi={"regions": "sam"}, data={"uris": [{"uri": "a"}, {"uri": "b"}]})
