"""A data set as COCO: read back, and read by pycocotools."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from foodseg.annotations.coco_export import export_coco
from foodseg.demo.synthetic import write_meals
from foodseg.errors import UserError
from foodseg.prepare.formats.coco import list_coco
from foodseg.prepare.formats.detect import list_source
from foodseg.prepare.formats.folder import list_folder


def pycocotools_mask(coco: COCO, file_name: str) -> np.ndarray:
    """The mask of an image whose annotations do not overlap."""
    found = next(image for image in coco.imgs.values() if image["file_name"] == file_name)
    mask = np.zeros((found["height"], found["width"]), np.int64)
    for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[found["id"]])):
        region = coco.annToMask(annotation)
        assert annotation["area"] == region.sum() and not mask[region > 0].any()
        mask += annotation["category_id"] * region
    return mask


def write_coco(src: Path, dst: Path) -> None:
    listing = list_source(str(src))
    export_coco(listing.records, listing.classes, str(dst))


def test_every_mask_comes_back(tmp_path: Path) -> None:
    write_meals(tmp_path / "meals", train=3, test=2, seed=5, longest_side=64)
    shutil.copy(tmp_path / "meals/masks/synthetic__0001.png", tmp_path / "kept.png")
    Image.new("L", Image.open(tmp_path / "kept.png").size).save(tmp_path / "meals/masks/synthetic__0001.png")  # no food
    write_coco(tmp_path / "meals", tmp_path / "coco")

    before, after = list_folder(str(tmp_path / "meals")), list_coco(str(tmp_path / "coco"))
    assert after.classes == before.classes
    assert [(r.image_id, r.split, r.source) for r in after.records] == [
        (r.image_id, r.split, r.source) for r in before.records
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        independent = {s: COCO(tmp_path / "coco" / "annotations" / f"instances_{s}.json") for s in ("train", "test")}
    for old, new in zip(before.records, after.records, strict=True):
        assert old.mask is not None and new.mask is not None
        assert new.image.read() == old.image.read()
        np.testing.assert_array_equal(new.mask.read(), old.mask.read())
        name = next(path.name for path in (tmp_path / "coco" / "images").glob(f"{new.image_id}.*"))
        np.testing.assert_array_equal(pycocotools_mask(independent[new.split], name), old.mask.read())


def test_ids_with_a_slash_and_images_of_a_phone_come_back(tmp_path: Path) -> None:
    (tmp_path / "meals/images/sub").mkdir(parents=True)
    images = [Image.new("RGB", (4, 3), colour) for colour in ("red", "blue")]
    images[0].save(tmp_path / "meals/images/phone.jpg", "MPO", save_all=True, append_images=images[1:])
    images[1].save(tmp_path / "meals/images/sub/phone.jpg")
    names = ("phone.jpg", "sub/phone.jpg")
    document = {
        "images": [{"id": n, "file_name": name, "height": 3, "width": 4} for n, name in enumerate(names)],
        "annotations": [],
        "categories": [{"id": 1, "name": "rice"}],
    }
    (tmp_path / "meals/train.json").write_text(json.dumps(document))
    write_coco(tmp_path / "meals", tmp_path / "coco")

    before, after = list_coco(str(tmp_path / "meals")).records, list_coco(str(tmp_path / "coco")).records
    ids = ["images/phone.jpg", "images/sub/phone.jpg"]
    assert [record.image_id for record in after] == [record.image_id for record in before] == ids
    assert [record.image.read() for record in after] == [record.image.read() for record in before]
    assert sorted(p.name for p in (tmp_path / "coco/images").rglob("*.jpg")) == ["phone.jpg.jpg", "phone.jpg.jpg"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: path.unlink(), "has no mask"),
        (
            lambda path: Image.new("L", Image.open(path).size, 255).save(path),
            "ignored pixels, which COCO cannot express",
        ),
    ],
)
def test_what_coco_cannot_express_is_refused(change, words: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    write_meals(tmp_path / "meals", train=2, test=1, seed=0, longest_side=64)
    change(next((tmp_path / "meals" / "masks").iterdir()))
    with pytest.raises(UserError, match=words):
        write_coco(tmp_path / "meals", tmp_path / "coco")
