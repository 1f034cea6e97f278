"""What `foodseg serve` finds where nothing is configured, and how it says to add the rest."""

import os
from pathlib import Path

import pytest
import yaml

from foodseg import storage
from foodseg.checkpoint.run_layout import checkpoint_uri
from foodseg.serve.deploy_file import given_sections, read_deploy_file
from foodseg.serve.model_discovery import look, newest_run

ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_run(run: Path, written: int, *, good: bool = True) -> None:
    entry = {"step": 1, "checkpoint": "checkpoints/step-00000001"}
    for pointer in ("last.json", "best.json") if good else ("last.json",):
        storage.write_json(str(run / pointer), entry)
    os.utime(run / "last.json", (written, written))
    if good:
        storage.write_text(f"{checkpoint_uri(str(run), 1)}/manifest.json", "{}")


@pytest.mark.parametrize("file", [None, str(ROOT / "serve_configs" / "local.yaml")])
def test_an_empty_folder_does_not_prevent_the_start(folder: Path, file: str | None) -> None:
    deploy = read_deploy_file(file)
    found = look(folder, given_sections(deploy, "x"))
    assert found.overrides == []
    model, sam, clip = found.sentences
    assert "foodseg train" in model and "foodseg demo" in model
    assert "https://github.com/ChaoningZhang/MobileSAM" in sam and "sam.weights=FILE" in sam
    assert "open_clip" in clip
    assert read_deploy_file(file, found.overrides).config.segmenter.models == {}


def test_the_newest_good_run_and_weights_are_taken(folder: Path) -> None:
    write_run(folder / "runs" / "old", 1000)
    write_run(folder / "runs" / "sweep #2" / "t,1", 3000)
    write_run(folder / "demo-out" / "run", 2000)
    write_run(folder / "runs" / "torn", 4000, good=False)
    storage.write_text("weights/sam_vit_b_01ec64.pth", "x")
    found = look(Path(), given_sections(read_deploy_file(None), "x"))
    config = read_deploy_file(None, found.overrides).config
    assert config.segmenter.models == {"meals": str(folder / "runs" / "sweep #2" / "t,1")}
    assert config.sam is not None
    assert (config.sam.weights, config.sam.kind) == (str(folder / "weights" / "sam_vit_b_01ec64.pth"), "vit_b")
    assert len(found.sentences) == 3


def test_a_region_classifier_is_no_model_of_segment(folder: Path) -> None:
    write_run(folder / "runs" / "a", 1000)
    write_run(folder / "runs" / "roi", 2000)
    for run, kind in (("a", "segmenter"), ("roi", "roi")):
        uri = checkpoint_uri(str(folder / "runs" / run), 1)
        storage.write_text(f"{uri}/config.json", f'{{"model": {{"kind": "{kind}"}}}}')
    assert newest_run(Path()) == Path("runs/a")


def test_what_is_named_is_not_looked_for(folder: Path) -> None:
    write_run(folder / "runs" / "a", 1000)
    write_run(folder / "runs" / "b", 2000)
    storage.write_text("mobile_sam.pt", "x")
    named = ["segmenter.models.soups=runs/a", "sam=null"]
    found = look(Path(), given_sections(read_deploy_file(None, named), "x"))
    assert found.overrides == []
    tree = {"applications": [{
        "import_path": "foodseg.serve.ray_app:build",
        "deployments": [{"name": "Segmenter", "user_config": {"models": {"m": "runs/a"}}}],
    }]}  # fmt: skip
    Path("serve.yaml").write_text(yaml.safe_dump(tree))
    found = look(Path(), given_sections(read_deploy_file("serve.yaml"), "x"))
    assert not any(one.startswith("segmenter") for one in found.overrides)
    assert newest_run(Path("nowhere")) is None


def test_no_file_of_the_repository_names_one_that_a_clone_lacks() -> None:
    for path in sorted((ROOT / "serve_configs").glob("*.yaml")):
        for word in path.read_text(encoding="utf-8").replace(",", " ").split():
            value = word.strip("\"'{}[]")
            if word.startswith("#") or "://" in value or value.startswith(("/", "#", "registry.example")):
                continue
            assert not value.startswith(("../", "runs/", "weights/")) or _commented(path, value), (path.name, value)


def _commented(path: Path, value: str) -> bool:
    return all(
        "#" in line.partition(value)[0] for line in path.read_text(encoding="utf-8").splitlines() if value in line
    )
