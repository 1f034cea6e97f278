"""Labelled image files: what their JSON says of confidences."""

import contextlib
import io
import json
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from foodseg.checkpoint.checkpoint import load_checkpoint, load_model
from foodseg.checkpoint.find import resolve_checkpoint
from foodseg.cli.main import run as cli
from foodseg.config.load import with_overrides
from foodseg.data.image_io import decode_mask
from foodseg.demo.synthetic import SYNTHETIC_CLASSES, draw_meal
from foodseg.errors import UserError
from foodseg.predict.image_list import list_images
from foodseg.predict.label import label_images
from foodseg.predict.predictor import Predictor
from foodseg.storage.outputs import written_names
from foodseg.train.loop import train
from tests.support.gloo_rank import prepared
from tests.support.synthetic_set import synthetic_config, write_synthetic, write_table
from tests.support.tiny_checkpoints import write_open_vocabulary


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("label")
    config = synthetic_config(write_synthetic(folder / "data"), folder / "run", "train.steps=3")
    started, context = prepared(config)
    train(started.config, started.manifest, started.total_steps, context)
    return str(folder / "run")


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("images") / "lunch.jpg"
    cv2.imwrite(str(path), draw_meal(7, 72, 96)[0][:, :, ::-1])
    return str(path)


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_the_device_is_said(run, image, tmp_path, device, monkeypatch, caplog):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with caplog.at_level("INFO", "foodseg"):
        label_images(run, [image], str(tmp_path), device=device)
    assert "labelling on CPU" in [record.getMessage() for record in caplog.records]
    with pytest.raises(UserError, match="a GPU is wanted, but torch finds neither CUDA nor mps here"):
        label_images(run, [image], str(tmp_path / "gpu"), device="gpu")
    assert not (tmp_path / "gpu").exists()


@pytest.mark.parametrize("weights", ["ema", "student"])
def test_confidences_are_calibrated_for_the_weights_that_validation_saw(run, image, tmp_path, weights):
    (result,) = label_images(run, [image], str(tmp_path), [f"eval.weights={weights}"]).images
    loaded = load_checkpoint(resolve_checkpoint(run))
    assert result.calibrated is (weights == "ema")
    temperature = loaded.calibration.temperature if weights == "ema" else 1.0
    assert result.temperature == temperature
    assert json.loads((tmp_path / "lunch.json").read_text()) == json.loads(json.dumps(asdict(result)))

    config = with_overrides(loaded.config, [f"eval.weights={weights}"])
    predictor = Predictor(load_model(loaded, weights), config.eval, torch.device("cpu"))
    logits = predictor.logits_of_file((tmp_path.parent / image).read_bytes())
    ids = decode_mask((tmp_path / "lunch.png").read_bytes())
    np.testing.assert_array_equal(ids, logits.ids())
    scores = logits.at(np.arange(72 * 96)) / temperature
    shares = np.exp(scores - scores.max(0))
    likely = (1 / shares.sum(0)).reshape(72, 96)
    assert result.ingredients
    for entry in result.ingredients:
        assert entry.confidence == pytest.approx(likely[ids == entry.id].mean(), abs=1e-4)


@pytest.mark.parametrize("setting", ["eval.longest_side=64", "eval.flip=true", "eval.window=64"])
def test_confidences_are_not_calibrated_for_other_settings(run, image, tmp_path, setting):
    (result,) = label_images(run, [image], str(tmp_path), [setting]).images
    assert not result.calibrated and result.temperature == 1.0


@pytest.fixture(scope="module")
def text_run(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("text")
    text = f"model.text={{kind: table, table: {write_table(folder / 't.safetensors')}}}"
    config = synthetic_config(
        write_synthetic(folder / "data"), folder / "run", "train.steps=2", "model.fusion=cross_attention", text,
        "model.ingredient_head=true", "loss.ingredients=0.1",
    )  # fmt: skip
    started, context = prepared(config)
    train(started.config, started.manifest, started.total_steps, context)
    (folder / "t.safetensors").unlink()
    return str(folder / "run")


def test_a_list_of_ingredients(text_run, image, tmp_path):
    plain, hard, predicted = (
        label_images(text_run, [image], str(tmp_path / name), overrides, ingredients).images[0]
        for name, overrides, ingredients in [
            ("plain", [], None),
            ("hard", ["eval.restrict=hard"], "White Rice, tomato"),
            ("predicted", ["eval.ingredients=predicted", "eval.ingredients_threshold=1e-6"], None),
        ]
    )
    assert plain.ingredients_from == "vocabulary" and plain.conditioning is None
    assert hard.ingredients_from == "provided" and sorted(hard.conditioning) == ["tomato", "white rice"]
    assert {entry.name for entry in hard.ingredients} <= {"tomato", "white rice"}
    assert predicted.ingredients_from == "predicted" and len(predicted.conditioning) == len(SYNTHETIC_CLASSES) - 1
    assert not hard.calibrated, "the temperature is that of the whole vocabulary"


@pytest.mark.parametrize(
    ("overrides", "ingredients", "words"),
    [
        ([], "white rise", "'white rise' is not one of the [0-9]+ ingredients; did you mean 'white rice'"),
        (
            ["eval.ingredients=provided"],
            None,
            'eval.ingredients = provided needs the conditioning classes: --ingredients "rice, fried tofu"',
        ),
    ],
)
def test_lists_that_are_refused(text_run, image, tmp_path, overrides, ingredients, words):
    with pytest.raises(UserError, match=words):
        label_images(text_run, [image], str(tmp_path / "o"), overrides, ingredients)
    assert not (tmp_path / "o").exists()


def test_a_list_that_changes_nothing_is_refused(run, image, tmp_path):
    with pytest.raises(UserError, match=r"eval.ingredients = provided changes nothing: the model has no text fusion"):
        label_images(run, [image], str(tmp_path / "o"), [], "tomato")
    label_images(run, [image], str(tmp_path / "o"), ["eval.restrict=hard"], "tomato")


@pytest.fixture
def meals(tmp_path) -> list[str]:
    folder = tmp_path / "meals"
    folder.mkdir()
    for number in range(4):
        cv2.imwrite(str(folder / f"{number}.png"), draw_meal(number, 48, 64)[0][:, :, ::-1])
    return [str(folder / f"{number}.png") for number in range(4)]


BAD = {
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "heic": lambda data: b"\0\0\0\x18ftypheic" + bytes(99),
    "page": lambda data: b"<!doctype html><title>404</title>",
}


@pytest.mark.parametrize("fault", [*BAD, "missing"])
def test_one_bad_image_does_not_end_a_batch(run, meals, tmp_path, fault, capsys):
    path = Path(meals[1])
    if fault == "missing":
        path.unlink()
    else:
        path.write_bytes(BAD[fault](path.read_bytes()))
    out = tmp_path / "out"
    assert cli(["predict", run, *meals, "--out", str(out)]) == 3
    said = capsys.readouterr()
    assert f"  {path}: " in said.err and "1 of 4 images cannot be read, the others are labelled:" in said.err
    assert said.out.count(".overlay.jpg") == 3
    assert sorted(p.name for p in out.glob("*.json")) == ["0.json", "2.json", "3.json"]
    assert written_names(str(out)) == {f"{n}.{end}" for n in (0, 2, 3) for end in ("png", "json", "overlay.jpg")}

    assert cli(["predict", run, *meals, "--out", str(out), "--json"]) == 3
    answer = json.loads(capsys.readouterr().out)
    assert [Path(each["image"]).stem for each in answer["images"]] == ["0", "2", "3"]
    assert [each["image"] for each in answer["refused"]] == [str(path)] and answer["refused"][0]["reason"]


def test_a_single_image_that_is_missing_or_bad(run, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert cli(["predict", run, str(tmp_path / "lnuch.jpg"), "--out", out]) == 2
    assert "lnuch.jpg: no such file" in capsys.readouterr().err
    bad = tmp_path / "b.jpg"
    bad.write_bytes(BAD["heic"](b""))
    assert cli(["predict", run, str(bad), "--out", out, "--json"]) == 3
    answer = json.loads(capsys.readouterr().out)
    assert answer["error"]["exit_code"] == 3
    assert answer["error"]["message"].startswith(f"{bad}: this is a HEIC image (iPhone): convert it to JPEG")


def test_a_folder_is_all_images_in_it(run, meals, tmp_path, caplog):
    folder = Path(meals[0]).parent
    (folder / "notes.txt").write_text("lunch")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "old").mkdir()
    (folder / "b.heic").write_bytes(BAD["heic"](b""))
    with caplog.at_level("WARNING"):
        done = label_images(run, [str(folder)], str(tmp_path / "out"))
    assert [result.image for result in done.images] == meals
    assert [Path(each.image).name for each in done.refused] == ["b.heic"]
    assert "2 files and folders are passed over (notes.txt, old, ...)" in caplog.text
    assert list_images([str(folder), meals[2], str(folder)]) == [*meals, str(folder / "b.heic")], "each once"
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no image"):
        label_images(run, [str(tmp_path / "empty")], str(tmp_path / "out"))


@pytest.mark.parametrize("out", ["meals", "meals/../meals", "link", "file://meals"])
def test_labels_never_replace_the_images(run, meals, tmp_path, out, monkeypatch):
    (tmp_path / "link").symlink_to(tmp_path / "meals")
    monkeypatch.chdir(tmp_path)
    before = {path: Path(path).read_bytes() for path in meals}
    out = out.replace("file://", f"file://{tmp_path}/")
    with pytest.raises(UserError, match=r"holds 2\.png, which is read here"):
        label_images(run, [meals[2]], out)
    monkeypatch.chdir(tmp_path / "meals")
    with pytest.raises(UserError, match="which is read here"):
        label_images(run, ["."], ".")
    assert {path: Path(path).read_bytes() for path in meals} == before
    assert len(list((tmp_path / "meals").iterdir())) == 4


def test_labels_next_to_photographs_and_again(run, tmp_path):
    folder = tmp_path / "p"
    folder.mkdir()
    for name in ("a.jpg", "b.overlay.jpg"):
        cv2.imwrite(str(folder / name), draw_meal(3, 48, 64)[0])
    (folder / "b.txt").write_text("")
    photographs = {name: (folder / name).read_bytes() for name in ("a.jpg", "b.overlay.jpg")}
    for _ in range(2):  # the second time what the first wrote is neither read nor in the way
        done = label_images(run, [str(folder)], str(folder))
        assert [Path(result.image).name for result in done.images] == ["a.jpg", "b.overlay.jpg"]
    assert {name: (folder / name).read_bytes() for name in photographs} == photographs
    (folder / "a.json").write_text("{}")
    with pytest.raises(UserError, match=r"a\.json is there already, and `foodseg predict` did not write it"):
        label_images(run, [str(folder / "a.jpg")], str(folder))


@pytest.mark.parametrize("names", [("a.jpg", "a.png"), ("A.jpg", "a.jpg"), ("x/a.jpg", "y/a.jpeg")])
def test_two_images_of_one_name_are_refused(run, tmp_path, names):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), draw_meal(3, 48, 64)[0])
    with pytest.raises(UserError, match=rf"{names[0]} and .*{names[1]}\), and the results of one would overwrite"):
        label_images(run, [str(tmp_path / name) for name in names], str(tmp_path / "o"))
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("name", ["50% #1?.jpg", " blank .jpg", ".jpg", "caf\u00e9.jpg", "a.b.c.jpg"])
def test_odd_names(run, tmp_path, name):
    assert cv2.imwrite(str(tmp_path / "x.jpg"), draw_meal(3, 48, 64)[0])
    (tmp_path / "x.jpg").rename(tmp_path / name)
    done = label_images(run, [str(tmp_path / name)], str(tmp_path / "o"))
    (result,) = done.images
    stem = name.removesuffix(".jpg") or name
    assert not done.refused and Path(result.label_map) == tmp_path / "o" / f"{stem}.png"
    assert Path(result.label_map).exists()


@pytest.mark.parametrize(
    ("formats", "files"),
    [
        ([], {"0.png", "0.overlay.jpg", "0.json", "1.png", "1.overlay.jpg", "1.json"}),
        (["png", "png"], {"0.png", "1.png"}),
        (["coco", "json"], {"predictions.coco.json", "0.json", "1.json"}),
    ],
)
def test_only_the_formats_that_are_asked_for(run, meals, tmp_path, formats, files, capsys):
    out = tmp_path / "out"
    options = [word for name in formats for word in ("--format", name)]
    for _ in range(2):  # the second time it replaces its own files
        assert cli(["predict", run, *meals[:2], "--out", str(out), *options]) == 0
    assert {path.name for path in out.iterdir() if not path.name.startswith(".")} == files
    assert written_names(str(out)) == files
    if "0.json" in files:
        about = json.loads((out / "0.json").read_text())
        assert (about["label_map"] is None) == ("0.png" not in files) and about["ingredients"]
    assert ("predictions.coco.json" in capsys.readouterr().out) == ("coco" in formats)


def test_a_format_that_is_not_known(run, meals, tmp_path, capsys):
    assert cli(["predict", run, meals[0], "--out", str(tmp_path / "o"), "--format", "voc"]) == 2
    assert "--format 'voc': use overlay, png, json, coco, instances; repeat it for several" in capsys.readouterr().err


def test_coco_of_all_images_is_their_label_maps(run, meals, tmp_path):
    label_images(run, meals, str(tmp_path), formats=("png", "coco"))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(tmp_path / "predictions.coco.json")
    assert [image["file_name"] for image in coco.imgs.values()] == ["0.png", "1.png", "2.png", "3.png"]
    for image in coco.imgs.values():
        ids = np.zeros((48, 64), np.int64)
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]])):
            ids[coco.annToMask(annotation) > 0] = annotation["category_id"]
            assert 0 < annotation["score"] <= 1
        np.testing.assert_array_equal(ids, decode_mask((tmp_path / image["file_name"]).read_bytes()))


def test_the_first_frame_is_labelled_and_said(run, tmp_path, caplog):
    frames = [Image.fromarray(draw_meal(number, 48, 64)[0]) for number in range(3)]
    frames[0].save(tmp_path / "pages.tif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "one.png")
    with caplog.at_level("WARNING"):
        pages, one = label_images(
            run, [str(tmp_path / "pages.tif"), str(tmp_path / "one.png")], str(tmp_path) + "/o"
        ).images
    assert caplog.text.count("has several frames or pages") == 1
    assert pages.ingredients == one.ingredients


def test_other_names_of_an_open_vocabulary_model(run, image, tmp_path):
    """The real sentence encoder."""
    model = write_open_vocabulary(tmp_path / "open")
    done = label_images(model, [image], str(tmp_path / "o"), names="kimchi, carrot|carrots", formats=("json", "png"))
    assert {each.name for each in done.images[0].ingredients} <= {"kimchi", "carrot"}
    assert not done.images[0].calibrated
    with pytest.raises(UserError, match="knows the 13 classes that it was trained on alone: other names need"):
        label_images(run, [image], str(tmp_path / "p"), names="kimchi")
    with pytest.raises(UserError, match="names: 'kimchi' occurs twice"):
        label_images(model, [image], str(tmp_path / "p"), names="kimchi, kimchi")
    assert not (tmp_path / "p").exists()
