"""The page of an exported model: nothing is missing in it, nothing comes from elsewhere, what it cannot compute."""

import base64
import gzip
import json
import re
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest

from foodseg.checkpoint.checkpoint import load_checkpoint
from foodseg.checkpoint.exported import ExportedModel
from foodseg.classes import ClassTable
from foodseg.config.evaluation import EvalConfig
from foodseg.errors import UserError
from foodseg.export import export
from foodseg.export.export import export_model
from foodseg.export.web import PAGE, page_modules, require_web, web_page
from foodseg.export.web_runtime import WebRuntime
from tests.support.tiny_checkpoints import write_checkpoint

pytest.importorskip("onnxruntime")
IMPORT = re.compile(r'^import .* from "([^"]*)"', re.M)
RUNTIME = WebRuntime("1.2.3", "export const env = {};", b"\0asm")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("web")
    settings = ["eval.longest_side=64", "eval.scales=[1.5]", "eval.flip=true", "eval.logit_adjustment=0.5"]
    write_checkpoint(folder / "run", 1, *settings)
    return str(folder / "run")


@pytest.fixture(scope="module")
def described(run: str, tmp_path_factory: pytest.TempPathFactory) -> ExportedModel:
    out = tmp_path_factory.mktemp("out")
    export_model(run, str(out))
    exported = load_checkpoint(str(out)).exported
    assert exported is not None
    return exported


def element(page: str, name: str) -> str:
    found = re.search(rf'<script [^>]*id="{name}">(.*?)</script>', page, re.S)
    assert found is not None
    return found[1]


def test_everything_is_inside(described: ExportedModel) -> None:
    page = web_page(described, b"graph", RUNTIME).decode()
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "default-src 'none'" in page and "connect-src" not in page
    assert gzip.decompress(base64.b64decode(element(page, "graph"))) == b"graph"
    assert gzip.decompress(base64.b64decode(element(page, "runtime"))) == RUNTIME.wasm
    found = re.search(r'<script type="importmap">(.*?)</script>', page, re.S)
    assert found is not None
    imports = json.loads(found[1])["imports"]
    for address in imports.values():
        text = base64.b64decode(address.partition("base64,")[2]).decode()
        assert all(name in imports for name in IMPORT.findall(text))
    assert "foodseg/paint.js" in imports, "what is found is drawn by the code of the served page"


def test_modules_import_each_other_by_name() -> None:
    modules = page_modules()
    own = {f"foodseg/{name}.js" for name in ("app", "labels", "model", "pixels")}
    shared = {f"foodseg/{name}.js" for name in ("files", "legend", "masks", "paint", "plate", "stage", "view")}
    assert set(modules) == own | shared
    for text in modules.values():
        assert text.isascii() and "https://" not in text
        assert len(text.splitlines()) <= 350 and max(map(len, text.splitlines())) <= 160
        names = IMPORT.findall(text)
        assert all(name in modules or name == "onnxruntime-web" for name in names)


def test_settings_are_those_of_the_model(described: ExportedModel) -> None:
    settings = json.loads(element(web_page(described, b"", RUNTIME).decode(), "settings"))
    assert settings["classes"] == list(described.classes.names)
    assert settings["size"] == {"longest_side": 96, "multiple": 32, "stride": 4, "canvas": None}
    assert settings["flip"] is True and len(settings["offsets"]) == len(described.classes)
    assert settings["mean"] == list(described.graph.mean) and settings["temperature"] == 1.0


def test_a_name_cannot_end_the_page(described: ExportedModel) -> None:
    names = ClassTable(("background", "</script><b>", *described.classes.names[2:]))
    page = web_page(replace(described, classes=names), b"", RUNTIME).decode()
    assert "</script><b>" not in page
    assert json.loads(element(page, "settings"))["classes"][1] == "</script><b>"


@pytest.mark.parametrize(
    ("settings", "right"),
    [
        ({"window": 64}, "eval.window=null"),
        ({"scales": (1.0, 1.5)}, "eval.scales=[1.0]"),
        ({"ingredients": "predicted"}, "eval.ingredients=vocabulary"),
    ],
)
def test_what_it_does_not_compute(settings: dict[str, object], right: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"add --set {right}")):
        require_web(EvalConfig.model_validate(settings))


def test_the_page_stands_beside_the_graph_until_the_next_export(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "web_runtime", lambda: RUNTIME)
    done = export_model(run, str(tmp_path), web=True)
    assert done.files[PAGE] == (tmp_path / PAGE).stat().st_size
    page = (tmp_path / PAGE).read_text()
    assert gzip.decompress(base64.b64decode(element(page, "graph"))) == (tmp_path / "model.onnx").read_bytes()
    export_model(run, str(tmp_path))
    assert not (tmp_path / PAGE).exists(), "a page of another model"
    with pytest.raises(UserError, match="--web runs an ONNX graph in the browser: leave out --format openvino"):
        export_model(run, str(tmp_path), web=True, form="openvino")


def test_its_files_are_in_the_wheel() -> None:
    names = {item.name for item in (resources.files("foodseg") / "export" / "page").iterdir()}
    text = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    for ending in {name.rpartition(".")[2] for name in names}:
        assert f'"export/page/*.{ending}"' in text
