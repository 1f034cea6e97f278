"""`export_model`: every kind of segmenter, both formats, what is refused, and that nothing half-written is left."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from foodseg.checkpoint.checkpoint import load_checkpoint, load_model
from foodseg.errors import UserError
from foodseg.eval.evaluate import evaluate
from foodseg.export import export, graph
from foodseg.export.export import export_model
from foodseg.export.verify import ExportDiffers
from foodseg.models.exported import GraphFormat
from foodseg.models.pixel_text import FoldedHead, PixelTextHead
from foodseg.predict.segmenter import load
from foodseg.serve.served_model import ServedModel, checkpoint_sha
from tests.support.synthetic_set import write_synthetic, write_table
from tests.support.tiny_checkpoints import meal, write_checkpoint, write_open_vocabulary, write_realtime

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")
TEXT = "model.text={{kind: table, table: {}}}"
KINDS = {
    "pyramid": (),
    "vit": ("model.backbone=test_vit", "model.vit.trained=frozen"),
    "hybrid": ("model.vit={backbone: test_vit, weights: none}",),
    "cross_attention": ("model.fusion=cross_attention", TEXT),
    "score_map": ("model.fusion=score_map", "loss.score_map=0.4", TEXT),
    "film": ("model.fusion=film", "model.ingredient_head=true", "loss.ingredients=0.1", TEXT),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    table = write_table(folder / "t.safetensors")
    for name, settings in KINDS.items():
        chosen = [setting.format(table) if setting == TEXT else setting for setting in settings]
        write_checkpoint(folder / name, 1, "eval.longest_side=64", *chosen)
    write_open_vocabulary(folder / "open")
    write_synthetic(folder / "data")
    return folder


@pytest.mark.parametrize("form", ["onnx", "openvino"])
@pytest.mark.parametrize("kind", ["pyramid", "vit", "hybrid", "cross_attention", "score_map", "film", "open"])
def test_logits_are_those_of_the_network(kind: str, form: GraphFormat, folder: Path) -> None:
    out = str(folder / f"{kind}-{form}")
    done = export_model(str(folder / kind), out, form=form)

    fixed = kind == "score_map"  # attention of classes to cells: traced for one size alone
    assert done.canvas == ((64, 64) if fixed else None) and done.comparison.equal_ids > 0.999
    network, exported = (load_checkpoint(str(uri)) for uri in (folder / kind, out))
    ours, theirs = load_model(network, "student"), load_model(exported, "student")
    classes = len(network.classes)
    torch.manual_seed(0)
    for batch, height, width in [(1, 64, 64), (3, 64, 64)] if fixed else [(1, 32, 32), (3, 64, 96), (2, 160, 64)]:
        image = torch.rand(batch, 3, height, width)
        lists = [None] if ours.fusion is None else [None, torch.rand(batch, classes) < 0.5]
        for ingredients in lists:
            given = {} if ingredients is None else {"ingredients": ingredients}
            with torch.no_grad():
                expected = ours(image, **given).logits
            # a logit of these random weights is up to about 100
            torch.testing.assert_close(theirs(image, **given).logits, expected, rtol=1e-4, atol=1e-4 * 3)
    if kind == "film":
        with torch.no_grad():
            expected = ours.predict_ingredients(image)  # type: ignore[operator, union-attr]
        torch.testing.assert_close(theirs.predict_ingredients(image), expected)  # type: ignore[operator, union-attr]


def test_text_of_a_real_time_model_is_folded_here(tmp_path: Path) -> None:
    """What is exported is the network with its text, and what folding changes is measured."""
    run = write_realtime(tmp_path / "run", write_table(tmp_path / "t.safetensors"))
    done = export_model(run, str(tmp_path / "out"))
    about = json.loads((tmp_path / "out" / "model.json").read_text())["about"]
    assert 0 < about["folding"] < 1e-5 and done.comparison.equal_ids > 0.999
    loaded = load_checkpoint(run)
    assert isinstance(load_model(loaded, "student", folded=False).head, PixelTextHead)  # type: ignore[union-attr]
    assert isinstance(load_model(loaded, "student").head, FoldedHead)  # type: ignore[union-attr]


def test_python_and_evaluate_take_it(folder: Path, tmp_path: Path) -> None:
    export_model(str(folder / "pyramid"), str(tmp_path / "onnx"), overrides=["eval.flip=true"])
    ours = load(folder / "pyramid", device="cpu", overrides=["eval.flip=true"])
    images = [meal(0, 60, 90), meal(1, 96, 70), meal(2, 64, 64)]
    for runtime in (None, "openvino"):
        model = load(tmp_path / "onnx" / "model.onnx", runtime=runtime)  # type: ignore[arg-type]
        assert model.config.eval == ours.config.eval and model.classes == ours.classes
        for found, expected in zip(model.predict(images), ours.predict(images), strict=True):
            assert np.mean(found.ids == expected.ids) > 0.999
    assert model.runtime == "openvino"
    scored = evaluate(model, folder / "data", "val")  # by the runtime that it was loaded for
    assert scored.evaluation.scores.miou == pytest.approx(
        evaluate(ours, folder / "data", "val").evaluation.scores.miou, abs=1e-3
    )


def test_the_endpoint_serves_it(folder: Path, tmp_path: Path) -> None:
    export_model(str(folder / "pyramid"), str(tmp_path / "onnx"))
    images, sizes = [meal(0, 60, 90), meal(1, 60, 90)], [(60, 90), (60, 90)]
    labelled = [
        ServedModel("meals", str(uri), checkpoint_sha(str(uri)), runtime=runtime).label(images, sizes)
        for uri, runtime in ((folder / "pyramid", None), (tmp_path / "onnx", None), (tmp_path / "onnx", "openvino"))
    ]
    for found in labelled[1:]:
        for each, expected in zip(found, labelled[0], strict=True):
            assert np.mean(each.ids == expected.ids) > 0.999


def test_int8_is_measured(folder: Path, tmp_path: Path) -> None:
    done = export_model(str(folder / "pyramid"), str(tmp_path / "q"), int8=True, calibrate=str(folder / "data"))

    about = json.loads((tmp_path / "q" / "model.json").read_text())
    assert about["precision"] == "int8" and about["about"]["int8"]["val_miou_after"] == done.miou_after
    assert done.miou_before is not None and done.miou_after is not None and 0 < done.miou_before <= 1
    assert b"QuantizeLinear" in (tmp_path / "q" / "model.onnx").read_bytes()


def test_a_graph_that_differs_is_not_written(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = load_checkpoint(str(folder / "pyramid"))
    other.student["classifier.bias"] += torch.arange(len(other.classes))
    wrong = load_model(other, "student")
    monkeypatch.setattr(export, "onnx_graph", lambda network, *rest: graph.onnx_graph(wrong, *rest))
    with pytest.raises(ExportDiffers, match="nothing was written"):
        export_model(str(folder / "pyramid"), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_another_format_replaces_the_first(folder: Path, tmp_path: Path) -> None:
    for form in ("onnx", "openvino"):
        export_model(str(folder / "pyramid"), str(tmp_path / "out"), form=form)  # type: ignore[arg-type]
    names = sorted(path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith("."))
    assert names == ["model.bin", "model.json", "model.xml"]


def test_what_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = str(tmp_path / "out")
    with pytest.raises(UserError, match="--int8 is calibrated on images: give --calibrate"):
        export_model(str(folder / "pyramid"), out, int8=True)
    with pytest.raises(UserError, match="neither a checkpoint"):
        export_model(str(tmp_path), out)
    export_model(str(folder / "pyramid"), out)
    with pytest.raises(UserError, match="is exported already"):
        export_model(out, str(tmp_path / "again"))
    with pytest.raises(UserError, match="exported, with the text"):
        load(out).with_names("rice")
    with pytest.raises(UserError, match="has the weights 'student' alone"):
        load(out, weights="ema")
    with pytest.raises(UserError, match="runtime torch does not run"):
        load(out, runtime="torch")
    with pytest.raises(UserError, match="this is a checkpoint"):
        load(folder / "pyramid", runtime="onnxruntime")
    with pytest.raises(UserError, match="save the checkpoint"):
        load(out).save_pretrained(tmp_path / "saved")
    model = Path(out, "model.onnx")
    model.write_bytes(model.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"torn: model\.onnx has"):
        load(out)
    monkeypatch.setattr("importlib.import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    with pytest.raises(UserError, match=r"onnx is not installed: pip install 'foodseg\[export\]'"):
        export_model(str(folder / "pyramid"), str(tmp_path / "none"))
