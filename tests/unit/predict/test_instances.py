"""Masks with their labels as instances: sizes, boxes and RLE by hand; in predictions, files and COCO."""

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

import foodseg
from foodseg.cli.main import run as cli
from foodseg.models.sam.embedding import SamMask
from foodseg.predict import segmenter
from foodseg.predict.instances import labelled_instances
from foodseg.predict.refine import MaskLabel, Refiner, refine_labels
from tests.support.api_world import write_api_world
from tests.support.compare import close
from tests.unit.predict.test_refine import Sam

CLASSES = ("background", "rice", "egg")


def test_instances_by_hand() -> None:
    left = np.zeros((2, 4), bool)
    left[:, :1] = True
    masks = [SamMask(left, 0.9), SamMask(~left, 0.8), SamMask(left, 0.7), SamMask(np.zeros((2, 4), bool), 0.6)]
    labels = [MaskLabel(0, 2, 0.5), MaskLabel(1, 1, 0.75), MaskLabel(2, 0, 0.9), MaskLabel(3, 1, 0.1)]
    rice, egg = labelled_instances(masks, labels, (4, 8), CLASSES)
    assert (egg.id, egg.name, egg.score, egg.confidence, egg.pixels) == (2, "egg", 0.9, 0.5, 8)
    assert egg.box == (0, 0, 2, 4) and egg.share_of_image == close(0.25)
    assert (rice.name, rice.pixels, rice.box) == ("rice", 24, (2, 0, 6, 4))
    expected = np.zeros((4, 8), bool)
    expected[:, :2] = True
    assert np.array_equal(egg.mask(4, 8), expected)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Segment Anything finds the left half of any image."""
    write_api_world(tmp_path)
    monkeypatch.chdir(tmp_path)
    build = lambda how, sam, device: None if how == "none" else Refiner(Sam(), how, sam)  # noqa: E731
    monkeypatch.setattr(segmenter, "build_refiner", build)
    return tmp_path


def test_a_prediction_has_them_where_it_is_redrawn(world: Path) -> None:
    assert foodseg.load("runs/a").predict("lunch.jpg").instances is None
    found = foodseg.load("runs/a", refine="soft", sam="sam.pt").predict("lunch.jpg")
    height, width = found.ids.shape
    left = np.zeros((height, width), bool)
    left[:, : width // 2] = True
    label = int(found.ids[0, 0])
    assert found.refined == "soft" and (found.ids[left] == label).all()
    assert [each.id for each in found.instances or ()] == [label] * (label != 0)


class ManyMasks(Sam):
    """First 80 times a mask without a majority, then a small one that has one and would change a pixel."""

    def __init__(self, ids: np.ndarray) -> None:
        super().__init__()
        counts = np.bincount(ids.ravel())
        three = np.argsort(-counts)[:3].tolist()
        mixed = np.zeros(ids.shape, bool)
        for index in three:  # a third of the mask each
            mixed.ravel()[np.flatnonzero(ids.ravel() == index)[: counts[three[2]]]] = True
        corner = np.zeros(ids.shape, bool)
        row, column = np.argwhere(ids == three[1])[0]
        corner[row, column], corner.ravel()[np.flatnonzero(ids.ravel() == three[0])[:4]] = True, True
        self.found = [*(SamMask(mixed, 0.9) for _ in range(80)), SamMask(corner, 0.8)]

    def automatic(self, size: tuple[int, int]) -> list[SamMask]:
        return self.found


def test_a_prediction_counts_the_masks_that_an_evaluation_counts(world: Path) -> None:
    """The 80 largest, whether or not they have a majority."""
    model = foodseg.load("runs/a", device="cpu")
    logits = model.predictor.logits_of_file(Path("lunch.jpg").read_bytes())
    plain = logits.ids()
    sam = ManyMasks(plain)
    masks = [found.mask for found in sam.found]
    assert np.array_equal(refine_labels(logits, masks, "vote", 1.0)[0], plain)
    assert not np.array_equal(refine_labels(logits, masks, "vote", 1.0, keep=81)[0], plain)
    refiner = Refiner(sam, "vote", "sam.pt")  # type: ignore[arg-type]
    redrawn = segmenter.Segmenter(model.uri, model.device, (), refiner).predict("lunch.jpg")
    assert np.array_equal(redrawn.ids, plain)


def test_files_and_coco(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    formats = ["--format", "json", "--format", "instances"]
    words = ["predict", "runs/a", "lunch.jpg", "dinner.jpg", "--refine", "soft", "--sam", "sam.pt", *formats]
    assert cli([*words, "--out", "out"]) == 0
    assert "out/instances.coco.json" in capsys.readouterr().out
    document = COCO("out/instances.coco.json")
    known = [json.loads(Path(f"out/{stem}.json").read_text()) for stem in ("lunch", "dinner")]
    assert [image["file_name"] for image in document.dataset["images"]] == ["lunch.jpg", "dinner.jpg"]
    listed = [each for one in known for each in one["instances"]]
    entries = document.dataset["annotations"]
    assert [each["area"] for each in entries] == [each["pixels"] for each in listed]
    for entry in entries:
        assert document.annToMask(entry).sum() == entry["area"] and entry["score"] == 0.9
    assert cli(["predict", "runs/a", "lunch.jpg", "--format", "instances", "--out", "other"]) == 2
    assert "--format instances needs --refine vote or soft" in capsys.readouterr().err
