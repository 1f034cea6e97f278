"""Validation and evaluation count alike where a source does not annotate everything; the temperature's pixels."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from foodseg.data.image_io import decode_mask, image_size
from foodseg.data.reader import RowReader
from foodseg.data.shards import read_manifest
from foodseg.demo.synthetic import SYNTHETIC_CLASSES
from foodseg.eval.mapped import common_space
from foodseg.eval.scoring import Labels, labelled_rows, score_rows
from foodseg.metrics.calibration import fit_temperature
from foodseg.metrics.per_image import merge
from foodseg.models.build import build_segmenter
from foodseg.predict.image_logits import ImageLogits
from foodseg.predict.predictor import RULED_OUT, Predictor
from foodseg.train import validation
from foodseg.train.validation import validate, validation_counts
from tests.support.gloo_rank import prepared
from tests.support.synthetic_set import IGNORE, synthetic_config, write_synthetic

STRIDE = 32


class OneAnswer:
    """A predictor that finds the same id everywhere, and the others alike but for those that are ruled out."""

    def __init__(self, index: int, lead: float = 1, ruled_out: Sequence[int] = ()) -> None:
        self._index, self._lead, self._ruled_out = index, lead, list(ruled_out)

    def logits_of_file(self, data: bytes) -> ImageLogits:
        height, width = image_size(data)
        values = torch.zeros(len(SYNTHETIC_CLASSES), -(-height // STRIDE), -(-width // STRIDE))
        values[self._index] = self._lead
        values[self._ruled_out] += RULED_OUT
        return ImageLogits(values, STRIDE, (height, width), height, width)


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("partial") / "d", train=2, val=6, test=1)


@pytest.mark.parametrize("index", range(1, len(SYNTHETIC_CLASSES)))
def test_what_no_source_annotates_is_not_wrong_on_background(uri, index):
    manifest = read_manifest(uri)
    partial = manifest.model_copy(update={"annotated": {"synthetic": (0,)}})
    reader = RowReader(uri, manifest, ["val"])
    masks = [decode_mask(row.mask) for row in labelled_rows(reader, range(6))]
    background = {True: 0, False: 0}  # pixels of the images with and without the id
    for mask in masks:
        background[bool((mask == index).any())] += int((mask == 0).sum())

    def answer(image_id, data, size):
        return Labels(np.full(size, index, np.uint8), np.full(size, 65535, np.uint16))

    expected = {"whole": sum(background.values()), "partial": background[True]}
    for name, about in (("whole", manifest), ("partial", partial)):
        matrix, _, pixels = validation_counts(OneAnswer(index), reader, about, 0, 1)
        assert matrix[0, index] == expected[name]
        assert matrix[1:].sum() == sum(int(((mask != 0) & (mask != IGNORE)).sum()) for mask in masks)
        scored = score_rows(reader, range(6), answer, common_space(None, about))
        assert (merge(scored.images, len(SYNTHETIC_CLASSES)) == matrix).all()
        assert scored.confidence[:, 0].sum() == matrix.sum() >= pixels[0]


def test_pixels_whose_true_id_is_ruled_out_do_not_fit_the_temperature(uri):
    """The model says background in the very share in which it is right, so the temperature is 1."""
    manifest = read_manifest(uri)
    reader = RowReader(uri, manifest, ["val"])
    everything = validation_counts(OneAnswer(0), reader, manifest, 0, 1)
    ruled_out = [index for index in range(1, len(SYNTHETIC_CLASSES)) if index % 2]
    possible = [index for index in range(len(SYNTHETIC_CLASSES)) if index not in ruled_out]
    truths = everything[0].sum(1)
    assert truths[ruled_out].sum() > 0 and everything[2][0] < everything[0].sum(), "ruled out truth, and a sample"
    share = truths[0] / truths[possible].sum()
    lead = float(np.log(share * (len(possible) - 1) / (1 - share)))
    matrix, nll, pixels = validation_counts(OneAnswer(0, lead, ruled_out), reader, manifest, 0, 1)
    assert (matrix == everything[0]).all(), "scored they are"
    assert 0 < pixels[0] < everything[2][0]
    assert fit_temperature(nll, int(pixels[0])).temperature == pytest.approx(1, rel=0.1)


def test_without_a_possible_pixel_there_is_no_temperature(uri, tmp_path, monkeypatch):
    run, context = prepared(synthetic_config(uri, tmp_path / "r", "train.global_batch=2"))
    model = build_segmenter(run.config.model, len(SYNTHETIC_CLASSES), pretrained=False)
    monkeypatch.setattr(validation, "Predictor", lambda *_, **__: OneAnswer(0, 1, range(len(SYNTHETIC_CLASSES))))
    reader = RowReader(uri, run.manifest, ["val"])
    found, calibration = validate(model, reader, run.manifest, run.config, context, 3)
    assert found.miou > 0 and calibration is None


def test_the_logits_are_adjusted_and_the_temperature_is_fitted_on_them(uri, tmp_path):
    settings = ("eval.logit_adjustment=1", "train.global_batch=2")
    run, context = prepared(synthetic_config(uri, tmp_path / "r", *settings))
    model = build_segmenter(run.config.model, len(SYNTHETIC_CLASSES), pretrained=False)
    reader = RowReader(uri, run.manifest, ["val"])
    _, found = validate(model, reader, run.manifest, run.config, context, 3)
    temperatures = []
    pixels = run.manifest.counts["train"].class_pixels
    for class_pixels in (pixels, [1] * len(SYNTHETIC_CLASSES)):  # adjusted, and all alike
        predictor = Predictor(model, run.config.eval, torch.device("cpu"), class_pixels=class_pixels)
        _, nll, count = validation_counts(predictor, reader, run.manifest, 0, 1)
        temperatures.append(fit_temperature(nll, int(count[0])))
    assert found.eval["logit_adjustment"] == 1
    assert (found.temperature, found.nll_before) == (temperatures[0].temperature, temperatures[0].nll_before)
    assert found.nll_before != temperatures[1].nll_before
