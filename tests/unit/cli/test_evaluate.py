"""`foodseg evaluate` of regions and of an exported model: what it prints, and options that would have no effect."""

import json
from pathlib import Path

import pytest

from foodseg.cli.main import run
from foodseg.export.export import export_model
from foodseg.models import exported
from tests.support.synthetic_set import write_synthetic
from tests.support.tiny_checkpoints import write_checkpoint, write_region_classifier


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_synthetic(folder / "data")
    write_region_classifier(folder / "roi")
    write_checkpoint(folder / "segmenter", 1)
    return folder


@pytest.fixture(autouse=True)
def _there(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)


def test_regions_are_scored(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    given = ["evaluate", "roi", "--data", "data", "--device", "cpu"]
    assert run([*given, "--out", str(tmp_path / "a")]) == 0
    lines = capsys.readouterr().out.splitlines()
    metrics = json.loads((tmp_path / "a" / "metrics.json").read_text())
    assert lines[1] == f"top-1 {100 * metrics['top1']:.1f} % ({metrics['count']} regions)"
    assert lines[-1] == f"written to {tmp_path / 'a'}: report.html, report.md, metrics.json, regions.parquet"
    assert run([*given, "--out", str(tmp_path / "b"), "--perturb", "permute", "--json", "-s", "eval.flip=true"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["perturb"], answer["named_by"]) == ("permute", "roi_context")
    assert answer["config_hash"] != metrics["config_hash"]
    segmenter = ["evaluate", "segmenter", "--data", "data", "--regions", "truth", "--out", str(tmp_path / "c")]
    assert run([*segmenter, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["named_by"] == "mean scores of a segmenter"


def test_an_exported_model_is_scored_by_the_runtime_that_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    export_model("segmenter", str(tmp_path / "onnx"))
    used, open_graph = [], exported.import_extra
    monkeypatch.setattr(exported, "import_extra", lambda name: used.append(name) or open_graph(name))
    found = {}
    for name, model in {
        "torch": "segmenter",
        "onnxruntime": str(tmp_path / "onnx"),
        "openvino": str(tmp_path / "onnx"),
    }.items():
        given = ["evaluate", model, "--data", "data", "--workers", "0", "--device", "cpu", "--runtime", name, "--json"]
        assert run([*given, "--out", str(tmp_path / name)]) == 0
        found[name] = json.loads(capsys.readouterr().out)["scores"]["miou"]
    assert set(used) == {"onnxruntime", "openvino"}
    assert found["onnxruntime"] == found["openvino"] == pytest.approx(found["torch"], abs=1e-3)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("roi --refine vote", "--refine is for scores of pixels, and regions are scored here: leave it out"),
        ("roi --map m.tsv", "--map is for scores of pixels, and regions are scored here: leave it out"),
        ("roi --subset s.txt", "--subset is for scores of pixels, and regions are scored here: leave it out"),
        ("roi --recheck roi", "--recheck is for scores of pixels, and regions are scored here: leave it out"),
        ("roi --runtime openvino", "--runtime is for scores of pixels, and regions are scored here: leave it out"),
        ("--predictions maps --runtime openvino", "--runtime is for a model that was exported: give a CHECKPOINT, or"),
        ("segmenter --runtime tensorrt", "--runtime 'tensorrt': use torch, onnxruntime, openvino"),
        ("segmenter --runtime openvino", "runtime openvino runs an exported model, and this is a checkpoint: use foo"),
        ("roi --recheck-below 0.5", "--recheck-below is for scores of pixels, and regions are scored here: leave it "),
        ("roi --config c.yaml", "--config is for scores of pixels, and regions are scored here: leave it out"),
        ("segmenter --regions sam --zero-shot", "--zero-shot is for scores of pixels, and regions are scored here: le"),
        ("roi --workers 2", "regions are scored in this process: leave out --workers and --address"),
        ("roi --regions boxes", "--regions 'boxes': use truth or sam"),
        ("roi --perturb shuffle", "--perturb 'shuffle': use permute or translocate"),
        ("segmenter --perturb permute", "--perturb changes the views of a region classifier, and this model is a segm"),
        ("--predictions maps --pairs p.tsv", "--regions, --perturb and --pairs score how a CHECKPOINT names regions"),
        ("roi --regions sam", "data has no masks of Segment Anything beside it: make them with `foodseg data masks"),
    ],
)
def test_options_that_do_not_fit(
    options: str, sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(["evaluate", *options.split(), "--data", "data", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert sentence in said and not (tmp_path / "out").exists()
