"""Label maps in a folder: which file belongs to which image, and what is wrong with them, all reported at once."""

import io
import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from foodseg.cli.main import run as cli
from foodseg.data.image_io import decode_mask
from foodseg.data.reader import RowReader
from foodseg.data.shards import read_manifest
from foodseg.demo.synthetic import SYNTHETIC_CLASSES
from foodseg.errors import UserError
from foodseg.eval.predictions import find_predictions
from tests.support.synthetic_set import write_synthetic


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return write_synthetic(tmp_path_factory.mktemp("predictions") / "prepared", train=2, val=6, test=1)


@pytest.fixture(scope="module")
def truth(data) -> dict[str, np.ndarray]:
    """The masks of val, ignored pixels and all."""
    reader = RowReader(data, read_manifest(data), ["val"])
    rows = reader.take(range(len(reader))).to_pylist()
    return {row["image_id"]: decode_mask(row["mask"]) for row in rows if row["mask"] is not None}


@pytest.fixture
def maps(truth, tmp_path) -> Path:
    folder = tmp_path / "maps"
    folder.mkdir()
    for image_id, mask in truth.items():
        save(folder / f"{image_id}.png", mask)
    return folder


def save(path: Path, ids: np.ndarray, form: str | None = None, **options: object) -> None:
    sink = io.BytesIO()  # for Pillow an ending must fit the format
    Image.fromarray(ids).save(sink, form or {"jpg": "JPEG", "tif": "TIFF"}.get(path.suffix[1:], "PNG"), **options)
    path.write_bytes(sink.getvalue())


def score(data: str, maps: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict, str]:
    out = maps.parent / "out"
    code = cli(["evaluate", "--predictions", str(maps), "--data", data, "--split", "val", "--out", str(out),
                "--workers", "0", "--json"])  # fmt: skip
    said = capsys.readouterr()
    return code, json.loads(said.out), said.err


def as_palette(path: Path) -> None:
    image = Image.open(path)
    image.putpalette(list(np.random.default_rng(0).integers(0, 256, 768)))
    image.save(path)


def as_rgb(path: Path) -> None:
    Image.open(path).convert("RGB").save(path)


def as_rgba(path: Path) -> None:
    Image.open(path).convert("RGBA").save(path)


def as_sixteen_bit(path: Path) -> None:
    cv2.imwrite(str(path), np.array(Image.open(path)).astype(np.uint16))


def as_tiff(path: Path) -> None:
    Image.open(path).save(path.with_suffix(".tif"), compression="tiff_lzw")
    path.unlink()


def renamed(name: str) -> object:
    return lambda path: path.rename(path.with_name(name.format(path.stem)))


GOOD = {
    "palette": (as_palette, ""), "rgb": (as_rgb, ""), "rgba": (as_rgba, ""), "16 bit": (as_sixteen_bit, ""),
    "tiff": (as_tiff, ".tif)"),
    "upper case": (renamed("{}.PNG"), ".PNG)"),
    "mask": (renamed("{}_mask.png"), "_mask.png)"),
    "prediction": (renamed("{}-prediction.png"), "-prediction.png)"),
    "two endings": (renamed("{}.jpg.png"), ".jpg.png)"),
}  # fmt: skip


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_what_can_only_be_meant_is_read(data, truth, maps, capsys, kind):
    change, said = GOOD[kind]
    first = sorted(truth)[0]
    change(maps / f"{first}.png")
    code, answer, error = score(data, maps, capsys)
    assert (code, answer.get("images")) == (0, len(truth)), answer
    assert answer["scores"]["miou"] == 1.0
    said_so = (
        "1 label maps are not called <image_id>.png, but each can belong to one image only: "
        f"they are read ({first}{said}"
    )
    assert (said_so in error) == bool(said)


def colours(path: Path) -> None:
    ids = np.array(Image.open(path))
    Image.fromarray(np.dstack([ids * 40, ids * 9 + 1, 255 - ids])).save(path)


def jpeg(path: Path) -> None:
    Image.open(path).save(path.with_suffix(".jpg"))
    path.unlink()


def jpeg_inside(path: Path) -> None:
    save(path, np.array(Image.open(path)), "JPEG")


def with_value(value: int) -> object:
    def change(path: Path) -> None:
        ids = np.array(Image.open(path))
        ids[ids != 255] = value
        Image.fromarray(ids).save(path)

    return change


def one_based(path: Path) -> None:
    ids = np.array(Image.open(path))
    ids = np.where(ids == 255, 1, ids + 1).astype(np.uint8)
    ids[0, 0] = len(SYNTHETIC_CLASSES)
    Image.fromarray(ids).save(path)


def both(path: Path) -> None:
    Image.open(path).save(path.with_suffix(".tif"))
    Image.open(path).save(path.with_suffix(".bmp"))
    path.unlink()


BAD = {
    "colours": (colours, "in colours, such as RGB"),
    "jpeg": (jpeg, ".jpg: a mask saved as JPEG holds blurred ids: save it as PNG"),
    "jpeg called png": (jpeg_inside, ".png: a mask saved as JPEG holds blurred ids"),
    "size": (lambda path: save(path, np.zeros((5, 7), np.uint8)), "is 7 x 5 pixels, its mask"),
    "missing": (lambda path: path.unlink(), ".png is missing; every labelled image of the split needs its label map"),
    "empty": (lambda path: path.write_bytes(b""), "the file is empty"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-30]), ""),
    "text": (lambda path: path.write_text("0 0 1"), "this is plain text"),
    "array": (
        lambda path: np.save(str(path), np.zeros(3)) or Path(f"{path}.npy").rename(path),
        "this is a NumPy array",
    ),
    "id": (with_value(len(SYNTHETIC_CLASSES) + 7), f"holds id {len(SYNTHETIC_CLASSES) + 7}, the label space goes to"),
    "1-based": (one_based, "has no 0: are the ids counted from 1? 0 is background"),
    "ignored": (with_value(255), "is 255 (ignored) at "),
    "two candidates": (both, ".png is missing"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_wrong_is_said_of_the_file(data, truth, maps, capsys, kind):
    change, words = BAD[kind]
    first = sorted(truth)[0]
    change(maps / f"{first}.png")
    code, answer, _ = score(data, maps, capsys)
    assert code == answer["error"]["exit_code"] == 3
    assert words in answer["error"]["message"] and first in answer["error"]["message"]
    assert not (maps.parent / "out" / "metrics.json").exists()


def test_all_that_is_wrong_is_said_at_once(data, truth, maps, capsys):
    names = sorted(truth)
    (maps / f"{names[0]}.png").unlink()
    (maps / f"{names[2]}.png").write_bytes(b"")
    save(maps / f"{names[3]}.png", np.zeros((1, 1), np.uint8))
    code, answer, _ = score(data, maps, capsys)
    said = answer["error"]["message"]
    assert code == 3 and said.startswith(f"--predictions: 3 of {len(truth)} label maps cannot be scored: ")
    assert all(names[index] in said for index in (0, 2, 3)) and names[1] not in said


def test_ignored_where_the_truth_is_ignored_is_fine(data, truth, maps, capsys):
    assert any((mask == 255).any() for mask in truth.values())
    assert score(data, maps, capsys)[0] == 0


def test_files_of_no_image_are_counted_and_a_folder_without_any_is_refused(data, truth, maps, capsys):
    for name in ("test-000.png", "other.png", "notes.txt", ".DS_Store", "Thumbs.db"):
        (maps / name).write_bytes(b"")
    code, _, error = score(data, maps, capsys)
    assert code == 0
    assert "3 files belong to no image that is scored: passed over (notes.txt, other.png, test-000.png)" in error

    deep = maps / "run1"
    deep.mkdir()
    for image_id in truth:
        (maps / f"{image_id}.png").rename(deep / f"{image_id}.png")
    code, answer, _ = score(data, maps, capsys)
    assert code == 2 and f"{maps}/run1 holds some: name that folder" in answer["error"]["message"]

    for image_id in truth:
        (deep / f"{image_id}.png").rename(maps / f"x{image_id}.png")
    code, answer, _ = score(data, maps, capsys)
    assert (
        code == 2 and "is the label map of an image that is scored, such as val-000.png" in answer["error"]["message"]
    )
    code, answer, _ = score(data, maps.parent / "nothing", capsys)
    assert code == 2 and "nothing is empty or not there; it must hold val-000.png" in answer["error"]["message"]


def test_ids_with_folders_and_other_compositions(tmp_path, caplog):
    classes = read_manifest(write_synthetic(tmp_path / "d", train=1, val=1, test=1)).class_table
    maps = tmp_path / "maps"
    (maps / "a").mkdir(parents=True)
    for name in ("a/1.png", "a/2_mask.png", "3.png", "cre\u0300me.png"):
        save(maps / name, np.zeros((2, 2), np.uint8))
    with caplog.at_level(logging.WARNING):
        found = find_predictions(str(maps), classes, ["a/1", "a/2", "3", "cr\u00e8me", "4"])
    assert found.files == {"a/1": "a/1.png", "a/2": "a/2_mask.png", "3": "3.png", "cr\u00e8me": "cre\u0300me.png"}
    assert "passed over" not in caplog.text
    assert found("a/2", b"", (2, 2)).ids.tolist() == [[0, 0], [0, 0]]
    with pytest.raises(UserError, match=r"4\.png is missing"):
        found("4", b"", (2, 2))


def test_results_replace_only_results(data, maps, capsys):
    assert score(data, maps, capsys)[0] == 0
    assert score(data, maps, capsys)[0] == 0, "once more"
    (maps.parent / "out" / "report.md").write_text("my notes")
    code, answer, _ = score(data, maps, capsys)
    assert code == 2
    assert "report.md is there already, and `foodseg evaluate` did not write it" in answer["error"]["message"]
    assert (maps.parent / "out" / "report.md").read_text() == "my notes"
