"""Validation of regions: every region once, whatever the ranks; scores as counted by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch

from foodseg.data.image_io import decode_image, decode_mask
from foodseg.data.reader import RowReader
from foodseg.data.regions import true_regions
from foodseg.data.shards import read_manifest
from foodseg.errors import UserError
from foodseg.eval.scoring import labelled_rows
from foodseg.metrics.confusion import scores
from foodseg.models.build import build_model
from foodseg.models.roi import RegionNetwork
from foodseg.predict.region_predictor import RegionPredictor
from foodseg.train.context import OneProcess
from foodseg.train.region_validation import validate_regions
from tests.unit.train.test_region_task import config_of

pytestmark = pytest.mark.usefixtures("one_thread")


class Alone(OneProcess):
    device = torch.device("cpu")


class Ranks(Alone):
    """One rank of several, which are asked one after the other; each one's counts are kept."""

    def __init__(self, rank: int, world_size: int, kept: list[torch.Tensor], buffers: list[torch.Tensor]) -> None:
        self.rank, self.world_size, self.kept, self.buffers = rank, world_size, kept, buffers

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point():  # shared buffers are
            self.kept.append(tensor.clone())
            return torch.ones_like(tensor)  # so that no rank finds that there is nothing
        if self.rank == 0:
            self.buffers.append(tensor.clone())
        return self.buffers[-1]


def test_scores_are_those_of_all_regions(data: str, tmp_path: Path) -> None:
    config = config_of(data, tmp_path / "r")
    manifest = read_manifest(data)
    torch.manual_seed(0)
    network = build_model(config, len(manifest.classes)).eval()
    assert isinstance(network, RegionNetwork)
    reader = RowReader(data, manifest, ["val"])
    given = (reader, manifest, config)
    found, text = validate_regions({"student": network, "ema": network}, *given, Alone(), 7)  # type: ignore[arg-type]

    predictor = RegionPredictor(network, config, torch.device("cpu"))
    matrix = np.zeros((len(manifest.classes),) * 2, np.int64)
    for row in labelled_rows(reader, range(len(reader))):
        regions = true_regions(decode_mask(row.mask), manifest.class_table, least_share=config.roi.least_share)
        for region, best in zip(regions, predictor.logits(decode_image(row.image), regions).argmax(1), strict=True):
            matrix[region.label, best] += 1
    expected = scores(matrix, manifest.classes)
    assert (found.step, found.miou, found.aacc) == (7, expected.miou, expected.aacc)
    assert found.miou_ema == found.miou_student == expected.miou and found.macro_f1 is not None
    assert f"of {matrix.sum():,} regions" in text and matrix.sum() > 5

    kept, buffers = list[torch.Tensor](), list[torch.Tensor]()
    for rank in range(3):
        validate_regions({"student": network}, *given, Ranks(rank, 3, kept, buffers), 7)  # type: ignore[arg-type]
    np.testing.assert_array_equal(sum(part.numpy() for part in kept), matrix)


def test_a_split_without_regions_is_said(data: str, tmp_path: Path) -> None:
    config = config_of(data, tmp_path / "r", "roi.least_share=0.99")
    manifest = read_manifest(data)
    network = build_model(config, len(manifest.classes))
    with pytest.raises(UserError, match=r"the split 'val' has no region of at least roi.least_share = 0.99"):
        validate_regions(
            {"student": network}, RowReader(data, manifest, ["val"]), manifest, config, Alone(), 0  # type: ignore[arg-type]
        )  # fmt: skip
