"""`foodseg.load` and `predict`: every kind of input, one or several, provided ingredients, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from foodseg.checkpoint.checkpoint import load_checkpoint
from foodseg.data.image_io import decode_image
from foodseg.errors import MissingFile, Unavailable, UserError
from foodseg.predict.predictor import Predictor
from foodseg.predict.segmenter import Segmenter, load
from tests.support.compare import assert_same_ids, scores_of
from tests.support.synthetic_set import write_table
from tests.support.tiny_checkpoints import meal, png, spoil, write_checkpoint

HEIGHT, WIDTH = 60, 90


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("segmenter")
    text = f"{{kind: table, table: {write_table(folder / 't.safetensors')}}}"
    fusion = ("model.fusion=cross_attention", f"model.text={text}")
    write_checkpoint(folder / "plain", 1, "eval.longest_side=64")
    write_checkpoint(folder / "text", 1, "eval.longest_side=64", *fusion)
    (folder / "lunch.png").write_bytes(png(meal(0, HEIGHT, WIDTH)))
    (folder / "dinner.png").write_bytes(png(meal(1, 96, 70)))
    (folder / "torn.png").write_bytes(png(meal(1, 96, 70))[:300])
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Segmenter:
    return load(folder / "plain", device="cpu")


KINDS: dict[str, Callable[[Path, np.ndarray], object]] = {
    "path": lambda path, pixels: path,
    "text": lambda path, pixels: str(path),
    "uri": lambda path, pixels: f"file://{path}",
    "pil": lambda path, pixels: Image.open(path),
    "pil rgba": lambda path, pixels: Image.open(path).convert("RGBA"),
    "numpy": lambda path, pixels: pixels,
    "numpy view": lambda path, pixels: pixels[:, :, ::-1].copy()[:, :, ::-1],
    "torch uint8": lambda path, pixels: torch.from_numpy(pixels).permute(2, 0, 1),
    "torch float32": lambda path, pixels: torch.from_numpy(pixels).permute(2, 0, 1).float() / 255,
    "torch float64": lambda path, pixels: torch.from_numpy(pixels).permute(2, 0, 1).double() / 255,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_gives_the_same_ids(kind: str, folder: Path, model: Segmenter) -> None:
    pixels = decode_image((folder / "lunch.png").read_bytes())
    expected = model.predict(folder / "lunch.png")
    found = model.predict(KINDS[kind](folder / "lunch.png", pixels))  # type: ignore[call-overload]
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.image, pixels)
    assert found.ids.shape == (HEIGHT, WIDTH) and found.ids.dtype == np.uint8 and len(np.unique(found.ids)) > 1
    assert (found.source is None) == (kind not in ("path", "text", "uri"))


def test_exif_orientation_is_applied_to_a_pil_image_too(folder: Path, model: Segmenter, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(meal(0, HEIGHT, WIDTH)).save(tmp_path / "turned.png", exif=exif)
    from_file, from_pil = model.predict([tmp_path / "turned.png", Image.open(tmp_path / "turned.png")])
    assert from_file.ids.shape == (WIDTH, HEIGHT)
    np.testing.assert_array_equal(from_pil.image, from_file.image)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_a_list_gives_a_list_in_its_order(batch_size: int, folder: Path, model: Segmenter) -> None:
    images = [folder / "lunch.png", meal(2, 96, 70), folder / "dinner.png", meal(3, HEIGHT, WIDTH)]
    found = model.predict(images, batch_size=batch_size)
    predictor = Predictor(model._network, model.config.eval, torch.device("cpu"))
    for image, each in zip(images, found, strict=True):
        alone = model.predict(image)  # type: ignore[call-overload]
        np.testing.assert_array_equal(each.image, alone.image)
        (logits,) = predictor.logits([alone.image], [alone.ids.shape])
        assert_same_ids(each.ids, alone.ids, scores_of(logits))
    assert model.predict([]) == [] and len(model.predict((images[1],))) == 1


BAD_IMAGES = {
    "grey": (
        np.zeros((4, 4), np.uint8),
        r"shape \(H, W, 3\) and dtype uint8, RGB in 0..255; found \(4, 4\) uint8: give a grey",
    ),
    "float": (np.zeros((4, 4, 3)), r"found \(4, 4, 3\) float64: give values of 0..1 as \(image \* 255\).round"),
    "int64": (np.zeros((4, 4, 3), np.int64), r"found \(4, 4, 3\) int64$"),
    "four channels": (np.zeros((4, 4, 4), np.uint8), r"found \(4, 4, 4\) uint8: .* image\[\.\.\., :3\]$"),
    "numpy CHW": (np.zeros((3, 4, 5), np.uint8), r"found \(3, 4, 5\) uint8: give it as image.transpose\(1, 2, 0\)$"),
    "numpy batch": (np.zeros((2, 4, 4, 3), np.uint8), r"found \(2, 4, 4, 3\) uint8: give a batch as list\(batch\)$"),
    "empty": (np.zeros((0, 4, 3), np.uint8), r"found \(0, 4, 3\) uint8"),
    "torch HWC": (torch.zeros(4, 5, 3), r"found \(4, 5, 3\) float32: give it as image.permute\(2, 0, 1\)"),
    "torch batch": (torch.zeros(2, 3, 4, 4), r"found \(2, 3, 4, 4\) float32: give a batch as list\(batch\)"),
    "torch int": (torch.zeros(3, 4, 4, dtype=torch.int64), "uint8 in 0..255 or floating point in 0..1; found int64"),
    "torch normalised": (torch.full((3, 4, 4), -1.5), "before any normalisation; found -1.5..-1.5"),
    "torch 0 to 255": (torch.full((3, 4, 4), 255.0), "values in 0..1, before any normalisation; found 255..255"),
    "torch NaN": (torch.full((3, 4, 4), float("nan")), "found NaN"),
    "torch infinite": (torch.full((3, 4, 4), float("inf")), "found inf..inf"),
    "pil float": (Image.new("F", (4, 4)), "mode F and size \\(4, 4\\) is not read: convert it to RGB"),
    "none": (None, "a NumPy array or a torch tensor; found NoneType"),
    "bytes": (b"", "found bytes"),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_other_arrays_are_refused(case: str, model: Segmenter) -> None:
    image, words = BAD_IMAGES[case]
    with pytest.raises(UserError, match=words) as error:
        model.predict(image)  # type: ignore[call-overload]
    assert not str(error.value).startswith("images[")
    with pytest.raises(UserError, match=r"^images\[1\]: "):
        model.predict([meal(0, 32, 32), image])  # type: ignore[list-item]


def test_files_that_cannot_be_read_are_named(folder: Path, model: Segmenter) -> None:
    with pytest.raises(MissingFile, match=r"lnuch\.png: no such file"):
        model.predict(folder / "lnuch.png")
    for images in (folder / "torn.png", [folder / "lunch.png", folder / "torn.png"]):
        with pytest.raises(UserError, match=f"^{folder}/torn.png: .*truncated"):
            model.predict(images)
    with pytest.raises(UserError, match=f"^cannot read {folder}: it is a folder"):
        model.predict([folder / "lunch.png", folder])
    with pytest.raises(UserError, match="batch_size is at least 1, found 0"):
        model.predict([], batch_size=0)


@pytest.mark.parametrize("names", [["White rice", "tomato"], "white rice, tomato"])
def test_provided_ingredients(names: str | list[str], folder: Path) -> None:
    model = load(folder / "text", device="cpu", overrides=["eval.ingredients=provided", "eval.restrict=hard"])
    found = model.predict(folder / "lunch.png", ingredients=names)
    assert found.ingredients_from == "provided" and sorted(found.conditioning or ()) == ["tomato", "white rice"]
    assert {each.name for each in found.ingredients} <= {"tomato", "white rice"}
    with pytest.raises(UserError, match="needs the conditioning classes: predict"):
        model.predict(folder / "lunch.png")


def test_ingredients_condition_a_model_that_was_validated_without(folder: Path, model: Segmenter) -> None:
    text = load(folder / "text", device="cpu")
    plain, conditioned, again = (text.predict(folder / "lunch.png", ingredients=n) for n in (None, ["tomato"], None))
    assert plain.ingredients_from == "vocabulary" and plain.conditioning is None
    assert conditioned.conditioning == ("tomato",)
    np.testing.assert_array_equal(plain.ids, again.ids)
    assert not np.array_equal(plain.confidence_16bit, conditioned.confidence_16bit)
    with pytest.raises(UserError, match=r"ingredients: 'white rise' is not one of .*; did you mean 'white rice'"):
        text.predict(folder / "lunch.png", ingredients=["white rise"])
    with pytest.raises(UserError, match="ingredients is empty"):
        text.predict(folder / "lunch.png", ingredients=[])
    with pytest.raises(UserError, match="changes nothing: the model has no text fusion"):
        model.predict(folder / "lunch.png", ingredients=["tomato"])


def test_what_a_model_says_of_itself(folder: Path, model: Segmenter) -> None:
    loaded = load_checkpoint(str(folder / "plain"))
    assert model.classes == loaded.classes.names and model.step == 1 and model.device == torch.device("cpu")
    assert model.config == loaded.config and model.uri == str(folder / "plain")
    assert repr(model) == (
        f"Segmenter('{folder}/plain': {len(model.classes)} classes, test_efficientnet, text fusion none, "
        "student weights after 1 steps, on cpu)"
    )


def test_settings_change_how_images_are_shown(folder: Path) -> None:
    model = load(str(folder / "plain"), device=torch.device("cpu"), overrides=["eval.longest_side=32"])
    assert model.config.eval.longest_side == 32 and model.overrides == ("eval.longest_side=32",)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"weights": "ema"}, "kept no averaged weights"),
        ({"overrides": ["optim.lr=1"]}, r"only eval\.\* can be changed here"),
        ({"overrides": ["eval.windw=64"]}, "eval.window"),
        ({"overrides": "eval.flip=true"}, r"overrides is a list of settings: give \['eval.flip=true'\]"),
        ({"device": "cuda"}, "^device 'cuda': use auto, cpu or gpu"),
    ],
)
def test_what_cannot_be_loaded_so(arguments: dict[str, object], words: str, folder: Path) -> None:
    with pytest.raises(UserError, match=words):
        load(folder / "plain", **arguments)  # type: ignore[arg-type]


def test_what_is_no_model(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"neither a checkpoint .* nor a run with one .* or hf://owner/name"):
        load(tmp_path)
    torn = write_checkpoint(tmp_path / "torn", 1)
    spoil(torn)
    with pytest.raises(UserError, match=r"is torn: model.safetensors"):
        load(torn)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with pytest.raises(Unavailable, match="a GPU is wanted"):
        load(folder / "plain", device="gpu")
    with pytest.raises(Unavailable, match="device is cuda:0, and torch finds no CUDA GPU here"):
        load(folder / "plain", device=torch.device("cuda:0"))
