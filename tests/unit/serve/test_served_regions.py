"""The model of regions: its card, what is refused, and that it says what `classify` says."""

from pathlib import Path

import numpy as np
import pytest

from foodseg.config.serve import RegionsConfig
from foodseg.data.regions import Region, box_of
from foodseg.errors import UserError
from foodseg.predict.recheck import BELOW
from foodseg.predict.region_classifier import load_region_classifier
from foodseg.predict.region_label import region_labels
from foodseg.serve.served_regions import ServedRegions, regions_card
from tests.support.tiny_checkpoints import meal, write_checkpoint, write_region_classifier


@pytest.mark.parametrize("classifies", [True, False], ids=["region classifier", "segmenter"])
def test_it_names_regions_as_the_python_api_does(tmp_path: Path, classifies: bool) -> None:
    write = write_region_classifier if classifies else write_checkpoint
    card = regions_card(write(tmp_path / "m", 1))
    assert card.looks_again is classifies and card.least_share == 0.001
    image, mask = meal(1, 60, 80), np.zeros((60, 80), bool)
    mask[10:40, 20:70] = True
    masks = [mask, ~mask]
    regions = [Region(0, each, box_of(each)) for each in masks]
    labels = region_labels(ServedRegions(card).logits(image, regions), regions, card.classes)
    assert labels == load_region_classifier(card.uri).classify(image, masks)


def test_one_that_has_changed_since_it_was_deployed_is_refused(tmp_path: Path) -> None:
    card = regions_card(write_region_classifier(tmp_path / "m", 1))
    write_region_classifier(tmp_path / "m", 2)
    with pytest.raises(UserError, match="has changed since it was deployed"):
        ServedRegions(card)


def test_one_that_was_trained_for_comparison_is_refused(tmp_path: Path) -> None:
    uri = write_region_classifier(tmp_path / "m", 1, "roi.views=roi_other_context")
    with pytest.raises(UserError, match=r"trained for comparison alone.*roi.views = roi_context"):
        regions_card(uri)


def test_the_threshold_is_that_of_predict() -> None:
    assert RegionsConfig(model="runs/roi").below == BELOW
