"""Validation and evaluation count alike where a source does not annotate everything."""

import numpy as np
import pytest
import torch

from foodseg.data.plates import PLATE_CLASSES
from foodseg.data.reader import RowReader
from foodseg.data.sample import decode_mask, image_size
from foodseg.data.shards import read_manifest
from foodseg.eval.evaluate import Labels, labelled_rows, score_rows
from foodseg.eval.mapped import common_space
from foodseg.eval.pictures import merge
from foodseg.predict.predictor import PictureLogits
from foodseg.train.validation import validation_counts
from tests.drawn import IGNORE, write_drawn

STRIDE = 32


class OneAnswer:
    """A predictor that finds the same id everywhere."""

    def __init__(self, index: int) -> None:
        self._index = index

    def logits_of_file(self, data: bytes) -> PictureLogits:
        height, width = image_size(data)
        values = torch.zeros(len(PLATE_CLASSES), -(-height // STRIDE), -(-width // STRIDE))
        values[self._index] = 1
        return PictureLogits(values, STRIDE, (height, width), height, width)


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return write_drawn(tmp_path_factory.mktemp("partial") / "d", train=2, val=6, test=1)


@pytest.mark.parametrize("index", range(1, len(PLATE_CLASSES)))
def test_what_no_source_annotates_is_not_wrong_on_background(uri, index):
    manifest = read_manifest(uri)
    partial = manifest.model_copy(update={"annotated": {"drawn": (0,)}})
    reader = RowReader(uri, manifest, ["val"])
    masks = [decode_mask(row["mask"]) for row in labelled_rows(reader, range(6))]
    background = {True: 0, False: 0}  # pixels of the pictures with and without the id
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
        assert (merge(scored.pictures, len(PLATE_CLASSES)) == matrix).all()
        assert scored.confidence[:, 0].sum() == matrix.sum() >= pixels[0]
