"""`foodseg predict --masks` and `--runtime`: what it prints, exit codes, and options that would have no effect."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from foodseg.cli.main import run
from foodseg.data.image_io import decode_mask
from foodseg.export.export import export_model
from tests.support.tiny_checkpoints import meal, write_checkpoint, write_region_classifier


@pytest.fixture
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_region_classifier(tmp_path / "roi")
    for seed, name in enumerate(("lunch", "dinner")):
        cv2.imwrite(str(tmp_path / f"{name}.jpg"), meal(seed, 60, 90)[:, :, ::-1])
    ids = np.zeros((60, 90), np.uint8)
    ids[10:30, 10:40], ids[30:50, 50:80] = 1, 2
    (tmp_path / "masks").mkdir()
    cv2.imwrite(str(tmp_path / "masks" / "lunch.png"), ids)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_there")
def test_regions_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["predict", "roi", "lunch.jpg", "--masks", "masks/lunch.png", "--out", "out", "--device", "cpu"]
    assert run(given) == 0
    line = capsys.readouterr().out.strip()
    regions = json.loads(Path("out/lunch.regions.json").read_text())["regions"]
    named = ", ".join(f"{each['name']} {100 * each['score']:.0f} %" for each in regions)
    assert len(regions) == 2 and line == f"{Path.cwd()}/out/lunch.regions.jpg: {named}"
    assert run([*given, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["images"][0]["regions"] == regions and answer["refused"] == []


@pytest.mark.usefixtures("_there")
def test_an_image_without_masks_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["predict", "roi", "lunch.jpg", "dinner.jpg", "--masks", "masks", "--out", "out"]
    assert run(given) == 3
    out, err = capsys.readouterr()
    assert out.startswith(f"{Path.cwd()}/out/lunch.regions.jpg: ") and len(out.splitlines()) == 1
    assert "1 of 2 images cannot be read, the others are labelled" in err
    assert "dinner.jpg: --masks masks has no PNG or JSON of dinner.jpg: name one dinner.png" in err
    assert run(["predict", "roi", "dinner.jpg", "--masks", "masks", "--out", "out"]) == 3
    assert "dinner.jpg: --masks masks has no PNG" in capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            "--names rice",
            "--masks names regions that are given: leave out --ingredients, --names, --refine, --sam and ",
        ),
        ("--ingredients rice", "--masks names regions that are given: leave out --ingredients, --names, --refine, "),
        ("--refine vote", "--masks names regions that are given: leave out --ingredients, --names, --refine, --sam "),
        ("--format coco", "--masks names regions that are given: leave out --ingredients, --names, --refine, --sam "),
        ("--recheck roi", "--recheck is for label maps, and --masks names regions that are given: leave it out"),
        ("--recheck-below 0.5", "--recheck is for label maps, and --masks names regions that are given: leave it out"),
        ("--runtime openvino", "--runtime is for label maps, and --masks names regions that are given: leave it out"),
        ("second.jpg", "--masks m.png is one file, and there are 2 images: name a folder of one for each"),
    ],
)
def test_options_that_do_not_fit(
    options: str, sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["predict", "roi", "lunch.jpg", *options.split(), "--masks", "m.png", "--out", "out"]) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith(f"foodseg: {sentence}")
    assert not any(tmp_path.iterdir())


@pytest.mark.usefixtures("_there")
def test_without_masks_a_region_classifier_labels_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", "roi", "lunch.jpg", "--out", "out"]) == 2
    assert "this checkpoint is a region classifier (model.kind = roi)" in capsys.readouterr().err
    assert not Path("out").exists()


def test_the_runtime_of_an_exported_model(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("lunch.png", meal(0, 60, 90))
    write_checkpoint(tmp_path / "segmenter", 1)
    export_model("segmenter", "onnx")
    export_model("segmenter", "xml", form="openvino")
    maps = []
    for model, runtime in (("segmenter", "torch"), ("onnx", "onnxruntime"), ("onnx", "openvino"), ("xml", "openvino")):
        out = f"{model}-{runtime}"
        assert run(["predict", model, "lunch.png", "--out", out, "--runtime", runtime, "--device", "cpu"]) == 0
        maps.append(decode_mask(Path(out, "lunch.png").read_bytes()))
    assert len(np.unique(maps[0])) > 1
    for found in maps[1:]:
        assert np.mean(found == maps[0]) > 0.999
    capsys.readouterr()
    for model, runtime, sentence in (
        ("xml", "onnxruntime", "runtime onnxruntime does not run a model that was exported to openvino: use openvino"),
        ("onnx", "torch", "runtime torch does not run a model that was exported to onnx: use onnxruntime or openvino"),
        ("segmenter", "openvino", "runtime openvino runs an exported model, and this is a checkpoint: use foodseg exp"),
        ("onnx", "tvm", "--runtime 'tvm': use torch, onnxruntime, openvino"),
    ):
        assert run(["predict", model, "lunch.png", "--out", "refused", "--runtime", runtime]) == 2
        assert sentence in capsys.readouterr().err and not Path("refused").exists()
