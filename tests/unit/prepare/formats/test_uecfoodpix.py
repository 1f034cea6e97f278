"""UEC-FoodPix Complete's layout: the sample of the real one, variations of it, and the red channel."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foodseg.data.image_io import BadFile
from foodseg.errors import UserError
from foodseg.prepare.formats.uecfoodpix import MaskRedChannel, decode_colours, list_uecfoodpix, missing_in_uecfoodpix

RED = np.array([[0, 1, 2, 102], [7, 7, 255, 0], [5, 4, 3, 2]], np.uint8)


def colours(green: int = 0, blue: int = 0) -> np.ndarray:
    return np.dstack([RED, np.full_like(RED, green), np.full_like(RED, blue)])


def png(pixels: np.ndarray, mode: str | None = None) -> bytes:
    buffer = BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, "PNG")
    return buffer.getvalue()


def write(folder: Path) -> Path:
    """Writes train/1, train/2 and test/1, whose masks are full of the ids 1, 2 and 3; returns the data folder."""
    data = folder / "UECFOODPIXCOMPLETE" / "data"
    for index, name in ((1, "train/{}/1"), (2, "train/{}/2"), (3, "test/{}/1")):
        for kind in ("img", "mask"):
            (data / "UECFoodPIXCOMPLETE" / name.format(kind)).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3)).save(data / "UECFoodPIXCOMPLETE" / f"{name.format('img')}.jpg")
        Image.new("RGB", (4, 3), (index, 9, 9)).save(data / "UECFoodPIXCOMPLETE" / f"{name.format('mask')}.png")
    (data / "category.txt").write_text("id\tname\n0\tbackground\n1\trice\n2\teels on rice\n3\tpilaf\n")
    (data / "train9000.txt").write_text("1\r\n2.jpg\r\n")
    (data / "test1000.txt").write_text("1\n")
    return data


def test_the_sample_of_the_real_layout(shared: Path) -> None:
    root = shared / "datasets" / "layout_samples" / "UECFOODPIXCOMPLETE"
    listing = list_uecfoodpix(str(root))
    assert len(listing.classes) == 103
    assert listing.classes.names[:2] == ("background", "rice") and listing.classes.names[101:] == ("others", "beverage")
    assert [record.split for record in listing.records] == ["train"] * 24 + ["test"] * 10
    assert [record.image_id for record in listing.records] == [str(number) for number in range(1, 35)]
    for record in listing.records:
        folder = root / "data" / "UECFoodPIXCOMPLETE" / record.split
        assert record.mask is not None
        original = np.array(Image.open(folder / "mask" / f"{record.image_id}.png"))
        assert original.ndim == 3
        np.testing.assert_array_equal(record.mask.read(), original[:, :, 0])
        assert record.image.read() == (folder / "img" / f"{record.image_id}.jpg").read_bytes()


@pytest.mark.parametrize("below", ["", "UECFOODPIXCOMPLETE", "UECFOODPIXCOMPLETE/data"])
def test_the_source_is_any_folder_around_the_data(below: str, tmp_path: Path) -> None:
    write(tmp_path)
    listing = list_uecfoodpix(str(tmp_path / below))
    assert listing.classes.names == ("background", "rice", "eels on rice", "pilaf")
    # image 1 of train and image 1 of test are two images
    assert [(r.image_id, r.split) for r in listing.records] == [
        ("train/1", "train"),
        ("2", "train"),
        ("test/1", "test"),
    ]
    assert [r.mask.read().tolist() for r in listing.records if r.mask] == [[[n] * 4] * 3 for n in (1, 2, 3)]


def test_folders_in_another_case(tmp_path: Path) -> None:
    data = write(tmp_path)
    (data / "UECFoodPIXCOMPLETE" / "train" / "mask").rename(data / "UECFoodPIXCOMPLETE" / "train" / "MASK")
    (data / "UECFoodPIXCOMPLETE").rename(data / "UECFoodPixComplete")
    (data / "category.txt").rename(data / "Category.txt")
    data.rename(data.parent / "Data")
    data.parent.rename(tmp_path / "UecFoodPixComplete")
    assert [r.mask.read()[0, 0] for r in list_uecfoodpix(str(tmp_path)).records if r.mask] == [1, 2, 3]


def test_a_class_table_without_header(tmp_path: Path) -> None:
    data = write(tmp_path)
    (data / "category.txt").write_text("0\tbackground\n1\trice\n")
    assert list_uecfoodpix(str(tmp_path)).classes.names == ("background", "rice")


def test_text_files_as_windows_writes_them(tmp_path: Path) -> None:
    data = write(tmp_path)
    for name in ("category.txt", "train9000.txt", "test1000.txt"):
        text = (data / name).read_text().replace("\n", "\r\n")
        (data / name).write_bytes(f"\ufeff{text}".encode())
    listing = list_uecfoodpix(str(tmp_path))
    assert listing.classes.names == ("background", "rice", "eels on rice", "pilaf")
    assert [int(record.mask.read().max()) for record in listing.records if record.mask] == [1, 2, 3]


def test_a_bad_class_table_names_the_line(tmp_path: Path) -> None:
    data = write(tmp_path)
    (data / "category.txt").write_text("id\tname\n0\tbackground\nrice\n")
    with pytest.raises(UserError, match=r"category.txt, line 3: expected 'id<TAB>name', found 'rice'"):
        list_uecfoodpix(str(tmp_path))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    data = write(tmp_path)
    (data / "train9000.txt").unlink()
    assert missing_in_uecfoodpix(str(data)) == ["train9000.txt"]
    with pytest.raises(
        UserError, match=r"is not laid out as UEC-FoodPix Complete: train9000.txt missing; expected data/"
    ):
        list_uecfoodpix(str(tmp_path))


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_the_red_channel_is_the_id(mode: str, tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(png(colours(green=200, blue=17), mode))
    mask = MaskRedChannel(str(tmp_path / "1.png")).read()
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, RED)


def test_transparency_does_not_touch_the_ids() -> None:
    alpha = np.array([[0, 255, 3, 128]] * 3, np.uint8)
    np.testing.assert_array_equal(decode_colours(png(np.dstack([colours(), alpha]))), colours())


def test_a_mask_with_width_and_height_swapped_is_read_as_it_is_stored(tmp_path: Path) -> None:
    (tmp_path / "10873.png").write_bytes(png(colours().transpose(1, 0, 2)))
    np.testing.assert_array_equal(MaskRedChannel(str(tmp_path / "10873.png")).read(), RED.T)


def sixteen_bit() -> bytes:
    import cv2

    return cv2.imencode(".png", colours().astype(np.uint16))[1].tobytes()


def jpeg() -> bytes:
    buffer = BytesIO()
    Image.fromarray(colours()).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "words", "fault"),
    [
        (png(RED), "8-bit grey$", "mask_mode"),
        (png(colours(), "P"), "8-bit palette$", "mask_mode"),
        (png(RED, "LA"), "8-bit grey with alpha$", "mask_mode"),
        (sixteen_bit(), "16-bit RGB$", "mask_mode"),
        (jpeg(), "is a PNG file, this one is not", "mask_mode"),
        (png(np.tile(colours(), (50, 50, 1)))[:-300], "the mask cannot be decoded", "truncated"),
        (b"", "the file is empty", "empty_file"),
        (b"no image", "this is plain text", "other_format"),
    ],
)
def test_other_masks_are_refused(data: bytes, words: str, fault: str) -> None:
    with pytest.raises(BadFile, match=words) as error:
        decode_colours(data)
    assert error.value.fault == fault
