"""The deploy file: allowed keys, defaults, and what a swap changes in it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from foodseg import storage
from foodseg.config.serve import parse_serve_config
from foodseg.errors import UserError
from foodseg.serve.deploy_file import IMPORT_PATH, read_deploy_file, wanted_models, with_model

ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    storage.write_text("runs/a/manifest.json", "{}")
    storage.write_text("sam.safetensors", "x")
    return tmp_path


def write(folder: Path, tree: Any) -> str:
    (folder / "serve.yaml").write_text(yaml.safe_dump(tree))
    return str(folder / "serve.yaml")


def application(**keys: Any) -> dict[str, Any]:
    return {"import_path": IMPORT_PATH, **keys}


def test_without_a_file_and_paths_become_absolute(folder: Path) -> None:
    deploy = read_deploy_file(None, ["segmenter.models.meals=runs/a", "sam.weights=sam.safetensors", "http.port=9000"])
    (app,) = deploy.tree["applications"]
    assert app["args"] == {
        "segmenter": {"models": {"meals": str(folder / "runs/a")}},
        "sam": {"weights": str(folder / "sam.safetensors")},
        "http": {"port": 9000},
    }
    assert (app["name"], app["route_prefix"]) == ("foodseg", "/")
    assert deploy.tree["http_options"] == {"host": "127.0.0.1", "port": 9000, "request_timeout_s": 75.0}
    assert deploy.config.segmenter.models == {"meals": str(folder / "runs/a")}


def test_overrides_win_over_the_file(folder: Path) -> None:
    path = write(folder, {"http_options": {"host": "127.0.0.1", "port": 80}, "applications": [application()]})
    overrides = ["http.port=9000", "http.host=0.0.0.0"]
    assert read_deploy_file(path, overrides).tree["http_options"] == {
        "host": "0.0.0.0", "port": 9000, "request_timeout_s": 75.0,
    }  # fmt: skip
    assert read_deploy_file(path).tree["http_options"]["port"] == 80


def test_clip_from_a_folder_or_by_name(folder: Path) -> None:
    (folder / "tiny").mkdir()
    (folder / "b16.safetensors").write_text("x")
    for clip, model, weights in (
        ({"model": "tiny"}, str(folder / "tiny"), None),
        ({"model": "ViT-B-16", "weights": "b16.safetensors"}, "ViT-B-16", str(folder / "b16.safetensors")),
        ({"model": "ViT-B-16", "weights": "openai"}, "ViT-B-16", "openai"),
    ):
        found = read_deploy_file(write(folder, {"applications": [application(args={"clip": clip})]})).config.clip
        assert found is not None and (found.model, found.weights) == (model, weights)


def test_lines_of_serve_are_json_and_what_the_file_says_stays(folder: Path) -> None:
    path = write(folder, {"logging_config": {"log_level": "DEBUG"}, "applications": [application()]})
    assert read_deploy_file(path).tree["logging_config"] == {
        "log_level": "DEBUG", "encoding": "JSON", "enable_access_log": False,
    }  # fmt: skip


def test_the_model_of_regions_has_to_exist_and_becomes_absolute(folder: Path) -> None:
    deploy = read_deploy_file(None, ["regions.model=runs/a", "regions.below=0.5"])
    assert deploy.tree["applications"][0]["args"] == {"regions": {"model": str(folder / "runs/a"), "below": 0.5}}


def test_serves_own_options_stay(folder: Path) -> None:
    tree = {
        "http_options": {"host": "0.0.0.0", "port": 80},
        "applications": [application(name="x", deployments=[{"name": "Segmenter", "num_replicas": 3}]),
                         {"name": "other", "import_path": "a:b", "route_prefix": "/b"}],
    }  # fmt: skip
    deploy = read_deploy_file(write(folder, tree))
    ours, other = deploy.tree["applications"]
    assert (ours["name"], ours["deployments"]) == ("x", [{"name": "Segmenter", "num_replicas": 3}])
    assert other == {"name": "other", "import_path": "a:b", "route_prefix": "/b"}
    assert deploy.tree["http_options"]["host"] == "0.0.0.0"


@pytest.mark.parametrize(
    ("tree", "sentence"),
    [
        ({"segmenter": {}}, "expected Ray Serve's deploy file"),
        ({"applications": [{"import_path": "a:b"}]}, "found 0"),
        ({"applications": [application(), application()]}, "found 2"),
        ({"applications": [application(args={"segmentr": {}})]}, "segmenter"),
        ({"applications": [application(args={"segmenter": {"models": {"m": "none"}}})]}, "neither a checkpoint"),
        ({"applications": [application(args={"regions": {"model": "none"}})]}, "neither a checkpoint"),
        ({"applications": [application(args={"sam": {"weights": "no.pth"}})]}, "there is no file"),
        (
            {"http_options": {"port": 1}, "applications": [application(args={"http": {"port": 2}})]},
            "http_options.port is 1, but http.port is 2",
        ),
        ({"http_options": {"request_timeout_s": 60}, "applications": [application()]}, "must exceed"),
    ],
)
def test_refusals(folder: Path, tree: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        read_deploy_file(write(folder, tree))


def test_models_of_user_config_are_not_silently_overridden(folder: Path) -> None:
    deployments = [{"name": "Segmenter", "user_config": {"models": {"m": "runs/a"}}}]
    path = write(folder, {"applications": [application(deployments=deployments)]})
    with pytest.raises(UserError, match="has no effect"):
        read_deploy_file(path, ["segmenter.models.m=runs/a"])


def test_a_swap_changes_user_config_alone() -> None:
    app = application(args={"segmenter": {"models": {"a": "x", "b": "y"}, "default": "b"}})
    once = with_model(app, "a", "z")
    assert once["args"] == app["args"]
    user_config = {"models": {"a": "z", "b": "y"}, "default": "b"}
    assert once["deployments"] == [{"name": "Segmenter", "user_config": user_config}]
    assert "deployments" not in app
    twice = with_model(once, "c", "w")
    assert wanted_models(twice) == {"models": {"a": "z", "b": "y", "c": "w"}, "default": "b"}
    assert wanted_models(with_model(application(), "first", "x")) == {"models": {"first": "x"}, "default": "first"}


@pytest.mark.parametrize("path", sorted((ROOT / "serve_configs").glob("*.yaml")), ids=lambda path: path.name)
def test_the_files_of_the_repository_have_known_keys(path: Path) -> None:
    tree = yaml.safe_load(path.read_text())
    if tree.get("kind") == "RayService":
        tree = yaml.safe_load(tree["spec"]["serveConfigV2"])
    (app,) = tree["applications"]
    assert app["import_path"] == IMPORT_PATH
    config = parse_serve_config(app["args"])
    assert tree["http_options"]["request_timeout_s"] > config.http.request_seconds
    known = {"Ingress", "Segmenter", *(["Sam", "Refine"] if config.sam else []), *(["Clip"] if config.clip else [])}
    known |= {"Regions"} if config.regions else set()
    assert {deployment["name"] for deployment in app.get("deployments", [])} <= known


def test_the_dashboard_on_kubernetes_asks_for_a_token() -> None:
    tree = yaml.safe_load((ROOT / "serve_configs" / "rayservice.yaml").read_text())
    cluster = tree["spec"]["rayClusterConfig"]
    assert cluster["headGroupSpec"]["rayStartParams"]["dashboard-host"] == "0.0.0.0"
    assert cluster["authOptions"] == {"mode": "token"}  # KubeRay 1.5.1 and Ray 2.52 or later
    assert tuple(map(int, cluster["rayVersion"].split("."))) >= (2, 52)
