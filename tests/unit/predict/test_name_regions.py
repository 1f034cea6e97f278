"""Regions of image files: what is written, which file of masks is whose, and what becomes of a bad image."""

import json
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest

from foodseg.classes import ClassTable
from foodseg.data.image_io import decode_image
from foodseg.errors import MissingFile, UserError
from foodseg.predict.name_regions import name_regions, painted
from foodseg.predict.region_classifier import RegionLabel, load_region_classifier
from foodseg.storage.outputs import written_names
from tests.support.tiny_checkpoints import meal, write_region_classifier

pytestmark = pytest.mark.usefixtures("one_thread")
SIZES = {"lunch": (60, 90), "dinner": (48, 48)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_region_classifier(tmp_path_factory.mktemp("model") / "roi")


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """lunch.png and dinner.png, and in masks/ a PNG of the first and a JSON of the second."""
    (tmp_path / "masks").mkdir()
    for seed, (name, size) in enumerate(SIZES.items()):
        cv2.imwrite(str(tmp_path / f"{name}.png"), meal(seed, *size)[:, :, ::-1])
    cv2.imwrite(str(tmp_path / "masks" / "lunch.png"), numbered())
    polygons = [[[4, 4, 30, 4, 30, 30, 4, 30]]]
    (tmp_path / "masks" / "dinner.json").write_text(json.dumps(polygons))
    return tmp_path


def numbered() -> np.ndarray:
    ids = np.zeros(SIZES["lunch"], np.uint8)
    ids[5:25, 10:40], ids[30:50, 50:80] = 1, 2
    return ids


def test_files_of_one_image(model: str, world: Path) -> None:
    image, masks, out = str(world / "lunch.png"), str(world / "masks" / "lunch.png"), world / "out"
    done = name_regions(model, [image], masks, str(out), device="cpu")
    (named,) = done.images
    assert done.refused == () and (named.image, named.masks) == (image, masks)
    assert (named.height, named.width) == SIZES["lunch"] and named.overlay == str(out / "lunch.regions.jpg")
    expected = load_region_classifier(model, device="cpu").classify(image, [numbered() == 1, numbered() == 2])
    assert list(named.regions) == expected
    assert json.loads((out / "lunch.regions.json").read_text()) == json.loads(json.dumps(asdict(named)))
    assert decode_image((out / "lunch.regions.jpg").read_bytes()).shape[1] >= 90
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) == [
        "lunch.regions.jpg", "lunch.regions.json",
    ]  # fmt: skip


def test_a_folder_of_masks(model: str, world: Path) -> None:
    images = [str(world / f"{name}.png") for name in SIZES]
    done = name_regions(model, images, str(world / "masks"), str(world / "out"), device="cpu")
    assert [(each.masks, len(each.regions)) for each in done.images] == [
        (str(world / "masks" / "lunch.png"), 2), (str(world / "masks" / "dinner.json"), 1),
    ]  # fmt: skip
    assert done.images[1].regions[0].box == (4, 4, 26, 26)


def test_one_file_for_several_images_is_refused(model: str, world: Path) -> None:
    images = [str(world / f"{name}.png") for name in SIZES]
    masks = str(world / "masks" / "lunch.png")
    with pytest.raises(UserError, match=f"--masks {masks} is one file, and there are 2 images: name a folder"):
        name_regions(model, images, masks, str(world / "out"), device="cpu")
    assert not (world / "out").exists()


@pytest.mark.parametrize("fault", ["torn", "no masks", "other size", "no json"])
def test_a_refused_image_leaves_the_others(model: str, world: Path, fault: str) -> None:
    lunch, masks = world / "lunch.png", world / "masks"
    if fault == "torn":
        lunch.write_bytes(lunch.read_bytes()[:200])
    elif fault == "no masks":
        (masks / "lunch.png").unlink()
    elif fault == "other size":
        cv2.imwrite(str(masks / "lunch.png"), numbered().T)
    else:
        (masks / "lunch.png").rename(masks / "lunch.json")
    done = name_regions(model, [str(lunch), str(world / "dinner.png")], str(masks), str(world / "out"), device="cpu")
    assert [Path(each.image).name for each in done.images] == ["dinner.png"]
    (refused,) = done.refused
    said = {
        "torn": f"{lunch}: ",
        "no masks": f"{lunch}: --masks {masks} has no PNG or JSON of {lunch}: name one lunch.png",
        "other size": f"{lunch}: {masks}/lunch.png: it has 60 x 90 pixels, and the image 90 x 60",
        "no json": f"{lunch}: {masks}/lunch.json is not JSON: ",
    }[fault]
    assert str(refused).startswith(said) and str(refused).count(str(lunch)) == 1 + (fault == "no masks")
    assert not list((world / "out").glob("lunch*"))


def test_a_mistyped_name_of_one_image_is_an_error(model: str, world: Path) -> None:
    for image, masks in (("lunhc.png", "lunch.png"), ("lunch.png", "lunhc.png")):
        with pytest.raises(MissingFile, match="lunhc"):
            name_regions(model, [str(world / image)], str(world / "masks" / masks), str(world / "out"), device="cpu")


def test_files_of_others_are_never_replaced(model: str, world: Path) -> None:
    out, image, masks = world / "out", str(world / "lunch.png"), str(world / "masks")
    out.mkdir()
    (out / "lunch.regions.json").write_text("mine")
    with pytest.raises(UserError, match=r"lunch\.regions\.json"):
        name_regions(model, [image], masks, str(out), device="cpu")
    assert (out / "lunch.regions.json").read_text() == "mine"
    (out / "lunch.regions.json").unlink()
    for _ in range(2):  # its own are
        name_regions(model, [image], masks, str(out), device="cpu")
    assert {"lunch.regions.json", "lunch.regions.jpg"} <= set(written_names(str(out)))


def test_smaller_regions_are_painted_on_top() -> None:
    def label(index: int, pixels: int) -> RegionLabel:
        return RegionLabel(index, "x", 0.5, "y", 0.2, pixels, 0.1, (0, 0, 1, 1))

    small, large = np.zeros((2, 3), bool), np.zeros((2, 3), bool)
    small[0, 0], large[0] = True, True
    found = painted([small, large], [label(2, 1), label(1, 3)], ClassTable(("background", "rice", "egg")))
    assert found.tolist() == [[2, 1, 1], [0, 0, 0]] and found.dtype == np.uint8
