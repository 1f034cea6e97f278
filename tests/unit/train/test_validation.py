"""Validation and evaluation count alike where a source does not annotate everything; the temperature's pixels."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from foodseg.data.image_io import decode_image, decode_mask, image_size
from foodseg.data.reader import RowReader, ShardReader
from foodseg.data.shards import read_manifest
from foodseg.demo.synthetic import SYNTHETIC_CLASSES
from foodseg.errors import UserError
from foodseg.eval.mapped import common_space
from foodseg.eval.scoring import Labels, labelled_rows, score_rows
from foodseg.metrics.calibration import fit_temperature
from foodseg.metrics.per_image import merge
from foodseg.models.build import build_segmenter
from foodseg.predict.image_logits import ImageLogits
from foodseg.predict.predictor import RULED_OUT, Predictor
from foodseg.train import validation
from foodseg.train.validation import rank_units, validate, validation_counts, validation_units
from tests.support.gloo_rank import prepared
from tests.support.synthetic_set import IGNORE, synthetic_config, write_synthetic

STRIDE = 32


class OneAnswer:
    """A predictor that finds the same id everywhere, and the others alike but for those that are ruled out."""

    def __init__(self, index: int, lead: float = 1, ruled_out: Sequence[int] = ()) -> None:
        self._index, self._lead, self._ruled_out = index, lead, list(ruled_out)

    def canvas(self, height: int, width: int) -> tuple[int, int]:
        return height, width

    def decode(self, data: bytes) -> tuple[np.ndarray, tuple[int, int]]:
        return decode_image(data), image_size(data)

    def logits(self, images: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]]) -> list[ImageLogits]:
        return [self._logits(*size) for size in sizes]

    def _logits(self, height: int, width: int) -> ImageLogits:
        values = torch.zeros(len(SYNTHETIC_CLASSES), -(-height // STRIDE), -(-width // STRIDE))
        values[self._index] = self._lead
        values[self._ruled_out] += RULED_OUT
        return ImageLogits(values, STRIDE, (height, width), height, width)


def counted(predictor, reader, manifest):
    units = validation_units(reader, None)
    found = validation_counts({"it": predictor}, reader, manifest, units)["it"]
    return found.matrix, found.nll, found.pixels


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
        matrix, _, pixels = counted(OneAnswer(index), reader, about)
        assert matrix[0, index] == expected[name]
        assert matrix[1:].sum() == sum(int(((mask != 0) & (mask != IGNORE)).sum()) for mask in masks)
        scored = score_rows(reader, range(6), answer, common_space(None, about))
        assert (merge(scored.images, len(SYNTHETIC_CLASSES)) == matrix).all()
        assert scored.confidence[:, 0].sum() == matrix.sum() >= pixels[0]


def test_pixels_whose_true_id_is_ruled_out_do_not_fit_the_temperature(uri):
    """The model says background in the very share in which it is right, so the temperature is 1."""
    manifest = read_manifest(uri)
    reader = RowReader(uri, manifest, ["val"])
    everything = counted(OneAnswer(0), reader, manifest)
    ruled_out = [index for index in range(1, len(SYNTHETIC_CLASSES)) if index % 2]
    possible = [index for index in range(len(SYNTHETIC_CLASSES)) if index not in ruled_out]
    truths = everything[0].sum(1)
    assert truths[ruled_out].sum() > 0 and everything[2][0] < everything[0].sum(), "ruled out truth, and a sample"
    share = truths[0] / truths[possible].sum()
    lead = float(np.log(share * (len(possible) - 1) / (1 - share)))
    matrix, nll, pixels = counted(OneAnswer(0, lead, ruled_out), reader, manifest)
    assert (matrix == everything[0]).all(), "scored they are"
    assert 0 < pixels[0] < everything[2][0]
    assert fit_temperature(nll, int(pixels[0])).temperature == pytest.approx(1, rel=0.1)


def test_without_a_possible_pixel_there_is_no_temperature(uri, tmp_path, monkeypatch):
    run, context = prepared(synthetic_config(uri, tmp_path / "r", "train.global_batch=2"))
    model = build_segmenter(run.config.model, len(SYNTHETIC_CLASSES), pretrained=False)
    monkeypatch.setattr(validation, "Predictor", lambda *_, **__: OneAnswer(0, 1, range(len(SYNTHETIC_CLASSES))))
    reader = RowReader(uri, run.manifest, ["val"])
    found, calibration = validate({"ema": model}, reader, run.manifest, run.config, context, 3)["ema"]
    assert found.miou > 0 and calibration is None


def test_the_logits_are_adjusted_and_the_temperature_is_fitted_on_them(uri, tmp_path):
    settings = ("eval.logit_adjustment=1", "train.global_batch=2")
    run, context = prepared(synthetic_config(uri, tmp_path / "r", *settings))
    model = build_segmenter(run.config.model, len(SYNTHETIC_CLASSES), pretrained=False)
    reader = RowReader(uri, run.manifest, ["val"])
    _, found = validate({"ema": model}, reader, run.manifest, run.config, context, 3)["ema"]
    temperatures = []
    pixels = run.manifest.counts["train"].class_pixels
    for class_pixels in (pixels, [1] * len(SYNTHETIC_CLASSES)):  # adjusted, and all alike
        predictor = Predictor(model, run.config.eval, torch.device("cpu"), class_pixels=class_pixels)
        _, nll, count = counted(predictor, reader, run.manifest)
        temperatures.append(fit_temperature(nll, int(count[0])))
    assert found.eval["logit_adjustment"] == 1
    assert (found.temperature, found.nll_before) == (temperatures[0].temperature, temperatures[0].nll_before)
    assert found.nll_before != temperatures[1].nll_before


class Groups:
    """A reader of which only the row groups are asked for."""

    def __init__(self, *sizes: int) -> None:
        self._starts = np.cumsum([0, *sizes])

    def __len__(self) -> int:
        return int(self._starts[-1])

    by_row_group = ShardReader.by_row_group
    _group_starts = property(lambda self: self._starts)


@pytest.mark.parametrize("sizes", [(), (1,), (16,), (17,), (5, 40, 1, 33), (3,) * 50])
@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_every_row_is_dealt_to_one_rank_in_units_of_one_row_group(sizes, world_size):
    reader = Groups(*sizes)
    units = validation_units(reader, None)
    dealt = [rank_units(units, rank, world_size) for rank in range(world_size)]
    assert [row for share in dealt for unit in share for row in unit] == list(range(sum(sizes)))
    assert max(map(len, dealt), default=0) - min(map(len, dealt), default=0) <= 1
    group_of = np.repeat(np.arange(len(sizes)), sizes)
    assert all(1 <= len(unit) <= 16 and len(set(group_of[unit])) == 1 for unit in units)


@pytest.mark.parametrize("limit", [1, 4, 16, 17, 60, 78, 79, 1000])
def test_a_limit_takes_whole_row_groups_and_the_same_rows_again(limit):
    reader = Groups(5, 40, 1, 33)
    rows = [row for unit in validation_units(reader, limit) for row in unit]
    assert len(rows) == min(limit, 79) and rows == sorted(set(rows))
    groups = np.repeat(np.arange(4), (5, 40, 1, 33))
    partly = [group for group in range(4) if 0 < sum(groups[rows] == group) < sum(groups == group)]
    assert len(partly) <= 1
    assert rows == [row for unit in validation_units(reader, limit) for row in unit]
    assert set(rows) <= {row for unit in validation_units(reader, limit + 1) for row in unit}


def test_a_limit_that_chooses_no_labelled_image_is_refused(uri, tmp_path, monkeypatch):
    run, context = prepared(synthetic_config(uri, tmp_path / "r", "data.val_limit=1", "train.global_batch=2"))
    model = build_segmenter(run.config.model, len(SYNTHETIC_CLASSES), pretrained=False)
    reader = RowReader(uri, run.manifest, ["val"])
    monkeypatch.setattr(validation, "validation_units", lambda reader, limit: [[len(reader) - limit]])  # has no mask
    with pytest.raises(UserError, match=r"none of the images of 'val' that data.val_limit = 1 chooses"):
        validate({"ema": model}, reader, run.manifest, run.config, context, 3)


def test_in_batches_of_a_canvas_the_counts_are_those_of_single_images(uri, tmp_path, monkeypatch):
    run, _ = prepared(synthetic_config(uri, tmp_path / "r", "train.global_batch=2", "eval.longest_side=48"))
    model = build_segmenter(run.config.model, len(SYNTHETIC_CLASSES), pretrained=False)
    predictor = Predictor(model, run.config.eval, torch.device("cpu"))
    reader = RowReader(uri, run.manifest, ["train", "val"])
    monkeypatch.setattr(reader, "by_row_group", lambda rows: [list(rows)])  # else each row is one of its own
    batches = []
    monkeypatch.setattr(predictor, "logits", lambda images, sizes: batches.append(len(images)) or plain(images, sizes))
    plain = Predictor(model, run.config.eval, torch.device("cpu")).logits
    together = counted(predictor, reader, run.manifest)
    assert max(batches) > 1
    monkeypatch.setattr(validation, "BATCH_PIXELS", 1)
    alone = counted(predictor, reader, run.manifest)
    assert batches[-1] == 1
    assert np.abs(together[0] - alone[0]).sum() <= 1e-4 * alone[0].sum()
    assert together[1] == pytest.approx(alone[1], rel=1e-4)
    assert (together[2] == alone[2]).all()


def test_both_weights_are_scored_in_one_pass_over_the_data(uri, tmp_path, monkeypatch):
    run, context = prepared(synthetic_config(uri, tmp_path / "r", "train.global_batch=2"))
    models = {name: build_segmenter(run.config.model, len(SYNTHETIC_CLASSES), pretrained=False) for name in "ab"}
    reader = RowReader(uri, run.manifest, ["val"])
    alone = {name: validate({name: model}, reader, run.manifest, run.config, context, 3)[name]
             for name, model in models.items()}  # fmt: skip
    taken = []
    take = reader.take
    monkeypatch.setattr(reader, "take", lambda rows, *a: (taken.extend(rows), take(rows, *a))[1])
    assert validate(models, reader, run.manifest, run.config, context, 3) == alone
    assert sorted(taken) == list(range(len(reader)))
