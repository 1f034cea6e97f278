"""Models on the hub: pushed, pinned, loaded by every command that takes a checkpoint, and what is refused."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import foodseg
from foodseg.checkpoint.checkpoint import load_checkpoint
from foodseg.checkpoint.find import resolve_checkpoint
from foodseg.checkpoint.hub import local_checkpoint, pin_checkpoint
from foodseg.cli.main import run as cli
from foodseg.errors import RetryLater, UserError
from foodseg.serve.deploy_file import read_deploy_file
from foodseg.serve.served_model import ServedModel, checkpoint_sha
from tests.support.api_world import write_api_world
from tests.support.hub_server import COMMIT, HubServer, hub_at
from tests.support.tiny_checkpoints import spoil, write_checkpoint

NAME = "somebody/meals"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    write_api_world(folder)
    return folder


@pytest.fixture
def hub(tmp_path: Path, world: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.chdir(world)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # between its retries
    with hub_at(tmp_path, monkeypatch) as server:
        yield server


@pytest.fixture
def pushed(hub: HubServer) -> str:
    """The name of a model on the hub, with its commit."""
    url = foodseg.load("runs/a").push_to_hub(NAME)
    assert url == f"{hub.endpoint}/{NAME}/commit/{hub.commits[NAME][0]}"
    return f"hf://{NAME}@{hub.commits[NAME][0]}"


def test_what_is_pushed_labels_the_same(hub: HubServer, pushed: str) -> None:
    own, found = foodseg.load("runs/a"), foodseg.load(f"hf://{NAME}")
    assert found.uri == pushed == resolve_checkpoint(f"hf://{NAME}@main") == pin_checkpoint(pushed)
    assert (found.step, found.classes) == (own.step, own.classes) and pushed in repr(found)
    np.testing.assert_array_equal(found.predict("lunch.jpg").ids, own.predict("lunch.jpg").ids)
    files = {path.name for path in Path(local_checkpoint(pushed)).iterdir()}
    assert files == {"model.safetensors", "config.json", "classes.tsv", "history.jsonl", "manifest.json"}
    read = {path.rsplit("/", 1)[-1] for method, path, _ in hub.requests if method == "GET" and "/resolve/" in path}
    assert "README.md" not in read


def test_every_command_takes_it(pushed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["predict", f"hf://{NAME}", "lunch.jpg", "--out", str(tmp_path / "labelled")]) == 0
    words = ["evaluate", f"hf://{NAME}", "--data", "prepared/meals", "--out", str(tmp_path / "s"), "--workers", "0"]
    capsys.readouterr()
    assert cli([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["checkpoint"] == pushed
    served = ServedModel("meals", pushed, checkpoint_sha(pushed))
    assert served.card.classes == foodseg.load("runs/a").classes
    wanted = read_deploy_file(None, [f"segmenter.models.meals=hf://{NAME}"]).config
    assert wanted.segmenter.models == {"meals": f"hf://{NAME}"}


def test_a_commit_that_is_in_the_cache_needs_no_hub(
    hub: HubServer, pushed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    foodseg.load(f"hf://{NAME}")
    hub.requests.clear()
    foodseg.load(pushed)
    assert hub.requests == []
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert foodseg.load(f"hf://{NAME}").uri == pushed, "the newest that is known"


def test_a_second_push_is_a_commit_on_top(
    hub: HubServer, pushed: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = write_checkpoint(tmp_path / "b", 2, "eval.longest_side=64")
    with caplog.at_level(logging.WARNING):
        foodseg.load(other).push_to_hub(NAME, commit_message="better")
    assert f"hf://{NAME}: README.md, classes.tsv, config.json, history.jsonl, manifest.json" in caplog.text
    assert "is replaced; it stays in the history" in caplog.text
    first, second = hub.commits[NAME]
    assert foodseg.load(f"hf://{NAME}").step == 2 and foodseg.load(f"hf://{NAME}@{first}").step == 1
    assert resolve_checkpoint(f"hf://{NAME}") == f"hf://{NAME}@{second}"


def test_files_that_the_new_model_lacks_are_removed(hub: HubServer, pushed: str) -> None:
    (hub.files_of(NAME, hub.commits[NAME][-1]) / "teacher.safetensors").write_bytes(b"of the model before")
    foodseg.load("runs/a", overrides=["eval.longest_side=48"]).push_to_hub(NAME)
    left = {path.name for path in hub.files_of(NAME, hub.commits[NAME][-1]).iterdir()}
    assert "teacher.safetensors" not in left and "model.safetensors" in left
    assert foodseg.load(f"hf://{NAME}").config.eval.longest_side == 48


def test_a_repository_of_others_is_refused(hub: HubServer) -> None:
    folder = hub.folder / "somebody" / "llm"
    folder.mkdir(parents=True)
    for name in ("config.json", "README.md", "model.safetensors", ".gitattributes"):
        (folder / name).write_text("{}")
    words = r"hf://somebody/llm holds other files \(config.json, model.safetensors\) and no foodseg model"
    with pytest.raises(UserError, match=words):
        foodseg.load("runs/a").push_to_hub("somebody/llm")
    assert hub.commits == {} and (folder / "config.json").read_text() == "{}"


def test_a_repository_that_has_only_a_card_is_filled(hub: HubServer, caplog: pytest.LogCaptureFixture) -> None:
    folder = hub.folder / "somebody" / "meals"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("mine")
    foodseg.load("runs/a").push_to_hub(NAME)
    assert "README.md is replaced" in caplog.text and foodseg.load(f"hf://{NAME}").step == 1


def test_a_push_without_a_right_is_one_sentence(hub: HubServer) -> None:
    hub.token = "hf_right"
    model = foodseg.load("runs/a")
    with pytest.raises(UserError, match=r"cannot write hf://somebody/meals: .* HF_TOKEN right\?") as error:
        model.push_to_hub(NAME, token="hf_wrong")
    assert "hf_wrong" not in str(error.value) and hub.commits == {}
    model.push_to_hub(NAME, token="hf_right")
    assert len(hub.commits[NAME]) == 1


@pytest.mark.parametrize("name", ["meals", "a/b/c", "datasets/meals", "somebody/meals@v1", "hf://somebody/meals", ""])
def test_what_is_no_name_of_a_model(name: str, hub: HubServer) -> None:
    with pytest.raises(
        UserError, match=r"a model on the hub is hf://owner/name, and optionally @revision|a model is pushed to"
    ):
        foodseg.load("runs/a").push_to_hub(name)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("hf://somebody/nothing", "has no such model, or it is private"),
        (f"hf://{NAME}@v2", "the model at .* has no such revision"),
        ("hf://somebody/llm", r"has no manifest.json, so it is not a model that foodseg has saved"),
        ("hf://datasets/somebody/meals", "a model on the hub is hf://owner/name"),
        ("hf://somebody", "a model on the hub is hf://owner/name"),
        ("hf://somebody/gated", "its owner lets in only who has agreed"),
    ],
)
def test_what_cannot_be_loaded(uri: str, words: str, hub: HubServer, pushed: str) -> None:
    for name in ("llm", "gated"):
        (hub.folder / "somebody" / name).mkdir()
    hub.gated.add("somebody/gated")
    with pytest.raises(UserError, match=words):
        foodseg.load(uri)


def test_a_hub_that_is_away(hub: HubServer, pushed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.broken = 503
    with pytest.raises(RetryLater, match="answers 503; run the same command again later"):
        foodseg.load(f"hf://{NAME}")
    model = foodseg.load("runs/a")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"http://127.0.0.1:9 is not reachable; download the model on a machine that"):
        foodseg.load(f"hf://{NAME}")
    with pytest.raises(UserError, match=r"http://127.0.0.1:9 is not reachable; is HF_ENDPOINT right\?$"):
        model.push_to_hub(NAME)


def test_a_damaged_model_is_refused_by_name(hub: HubServer, tmp_path: Path) -> None:
    spoil(write_checkpoint(hub.folder / "somebody" / "torn", 1))
    with pytest.raises(UserError, match=r"/snapshots/.* is torn: model.safetensors has"):
        foodseg.load("hf://somebody/torn")


def test_a_published_run_checkpoint_is_not_resumed_from_the_hub(pushed: str) -> None:
    assert COMMIT not in pushed
    with pytest.raises(UserError, match=r"has no trainer\.pt: it was saved to be used, not to be resumed"):
        load_checkpoint(pushed, with_trainer=True)
