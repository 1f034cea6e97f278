"""Which checkpoint a name means: swaps, bad checkpoints, and processes that start later."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from foodseg import storage
from foodseg.checkpoint.run_layout import checkpoint_uri
from foodseg.errors import RetryLater, UserError
from foodseg.serve.model_store import ModelStore, parse_wanted
from foodseg.serve.served_model import ModelCard, checkpoint_sha


class KnownModelsInMemory:
    """A `KnownModels` in dictionaries."""

    def __init__(self) -> None:
        self.newest: dict[str, ModelCard] = {}
        self.all: dict[str, ModelCard] = {}
        self.pins: dict[str, tuple[str, ModelCard]] = {}

    def latest(self) -> dict[str, ModelCard]:
        return dict(self.newest)

    def find(self, model_id: str) -> ModelCard | None:
        return self.all.get(model_id)

    def record(self, card: ModelCard) -> None:
        self.newest[card.name] = self.all[card.id] = card

    def pinned(self, name: str, checkpoint: str) -> ModelCard | None:
        wanted, card = self.pins.get(name, ("", None))
        return card if wanted == checkpoint else None

    def pin(self, name: str, checkpoint: str, card: ModelCard) -> None:
        self.pins[name] = (checkpoint, card)


@dataclass
class Opened:
    card: ModelCard


class Opener:
    """Opens what has a manifest, unless the test makes it fail; remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.failing: dict[str, Exception] = {}

    def __call__(self, name: str, uri: str, sha: str) -> Any:
        self.asked.append(Path(uri).name)
        if uri in self.failing:
            raise self.failing[uri]
        if checkpoint_sha(uri) != sha:
            raise UserError("the checkpoint has changed")
        return Opened(ModelCard(name, uri, sha, ("background", "rice"), False, 96))


@pytest.fixture
def checkpoints(tmp_path: Path) -> dict[str, str]:
    uris = {}
    for name in ("a", "b", "c"):
        uris[name] = str(tmp_path / name)
        storage.write_text(f"{uris[name]}/manifest.json", name)
    return uris


def wanted(**models: str) -> dict[str, Any]:
    return {"models": models, "default": None}


def states(store: ModelStore) -> dict[str, tuple[str | None, str | None]]:
    return {s.name: (s.serving and Path(s.serving).name, s.error) for s in store.states()}


def test_a_swap_opens_only_what_is_new(checkpoints: dict[str, str]) -> None:
    opener, known = Opener(), KnownModelsInMemory()
    store = ModelStore(opener, known)
    first = store.want(wanted(meals=checkpoints["a"], soups=checkpoints["c"]))
    assert [part.partition("@")[0] for part in first] == ["meals", "soups"]
    assert [s.default for s in store.states()] == [True, False]
    second = store.want(wanted(meals=checkpoints["b"], soups=checkpoints["c"]))
    assert opener.asked == ["a", "c", "b"]
    assert first[1] == second[1]
    assert states(store) == {"meals": ("b", None), "soups": ("c", None)}
    assert Path(store.model(second[0]).card.uri).name == "b"
    assert opener.asked == ["a", "c", "b"]  # the one that was opened already
    assert Path(store.model(first[0]).card.uri).name == "a"  # for requests that still name the old one
    assert opener.asked == ["a", "c", "b", "a"]


def test_a_bad_checkpoint_changes_nothing(checkpoints: dict[str, str], tmp_path: Path) -> None:
    opener = Opener()
    store = ModelStore(opener, KnownModelsInMemory())
    first = store.want(wanted(meals=checkpoints["a"]))
    opener.failing[checkpoints["b"]] = UserError("the checkpoint b is torn")
    for bad, sentence in [
        (checkpoints["b"], "the checkpoint b is torn"),
        (str(tmp_path / "none"), "neither a checkpoint"),
        (checkpoints["c"], "RuntimeError: boom"),
    ]:
        opener.failing.setdefault(bad, RuntimeError("boom"))
        assert store.want(wanted(meals=bad)) == first
        serving, error = states(store)["meals"]
        assert serving == "a"
        assert error is not None
        assert sentence in error
        assert not store.may_heal


def test_a_transient_failure_is_retried(checkpoints: dict[str, str]) -> None:
    opener = Opener()
    store = ModelStore(opener, KnownModelsInMemory())
    opener.failing[checkpoints["a"]] = RetryLater("storage stays away")
    assert store.want(wanted(meals=checkpoints["a"])) == []
    assert store.may_heal
    assert states(store) == {"meals": (None, "storage stays away")}
    del opener.failing[checkpoints["a"]]
    assert len(store.want(wanted(meals=checkpoints["a"]))) == 1
    assert not store.may_heal
    assert states(store) == {"meals": ("a", None)}


def test_a_process_that_starts_later_serves_the_last_good_checkpoint(checkpoints: dict[str, str]) -> None:
    known = KnownModelsInMemory()
    good = ModelStore(Opener(), known).want(wanted(meals=checkpoints["a"]))
    opener = Opener()
    opener.failing[checkpoints["b"]] = UserError("torn")
    later = ModelStore(opener, known)
    assert later.want(wanted(meals=checkpoints["b"])) == good
    assert opener.asked == ["b", "a"]
    assert states(later) == {"meals": ("a", "torn")}
    assert Path(later.model(good[0]).card.uri).name == "a"


def write_step(run: Path, step: int) -> str:
    """A run whose best checkpoint is that of `step`."""
    uri = checkpoint_uri(str(run), step)
    storage.write_text(f"{uri}/manifest.json", str(step))
    storage.write_json(str(run / "best.json"), {"step": step, "checkpoint": f"checkpoints/step-{step:08d}"})
    return uri


def test_newer_checkpoints_of_a_run_do_not_change_what_serves(tmp_path: Path) -> None:
    known, run = KnownModelsInMemory(), tmp_path / "run"
    first = write_step(run, 1)
    store = ModelStore(Opener(), known)
    served = store.want(wanted(meals=str(run)))
    write_step(run, 2)
    assert store.want(wanted(meals=str(run))) == served
    later = ModelStore(Opener(), known)  # a replica that is started for more requests, or instead of one that was lost
    assert later.want(wanted(meals=str(run))) == served
    assert states(later) == {"meals": (Path(first).name, None)}
    # wanted again after another checkpoint, the run is pinned to what it means then
    store.want(wanted(meals=write_step(tmp_path / "other", 3)))
    assert store.want(wanted(meals=str(run))) != served
    assert states(store) == {"meals": ("step-00000002", None)}


def test_a_deleted_checkpoint_is_reported_and_the_best_of_the_rest_serves(tmp_path: Path) -> None:
    known, run = KnownModelsInMemory(), tmp_path / "run"
    first = write_step(run, 1)
    served = ModelStore(Opener(), known).want(wanted(meals=str(run)))
    second = write_step(run, 2)
    storage.delete(first)
    later = ModelStore(Opener(), known)
    found = later.want(wanted(meals=str(run)))
    assert len(found) == 1 and found != served
    serving, error = states(later)["meals"]
    assert serving == "step-00000002"
    assert error is not None and Path(first).name in error and second in error
    assert Path(later.model(found[0]).card.uri).name == "step-00000002"
    assert ModelStore(Opener(), known).want(wanted(meals=str(run))) == found  # and it stays pinned


def test_without_any_checkpoint_left_it_says_so_and_keeps_waiting(tmp_path: Path) -> None:
    known, run = KnownModelsInMemory(), tmp_path / "run"
    first = write_step(run, 1)
    ModelStore(Opener(), known).want(wanted(meals=first))
    storage.delete(first)
    later = ModelStore(Opener(), known)
    for _ in range(2):
        assert later.want(wanted(meals=first)) == []
    (state,) = later.states()
    assert (state.serving, state.sha) == (None, None)
    assert state.error is not None and "neither a checkpoint" in state.error


@pytest.mark.parametrize("config", [None, [], {"model": {}}, {"models": {"a": 1}}, {"models": {}, "default": "x"}])
def test_a_configuration_that_cannot_be_read_changes_nothing(config: Any, checkpoints: dict[str, str]) -> None:
    known = KnownModelsInMemory()
    store = ModelStore(Opener(), known)
    first = store.want(wanted(meals=checkpoints["a"]))
    for served in (store, ModelStore(Opener(), known)):  # also where a process starts with it
        assert served.want(config) == first
        serving, error = states(served)["meals"]
        assert serving == "a"
        assert error is not None


def test_a_checkpoint_that_changed_in_place_is_not_served_under_its_old_name(checkpoints: dict[str, str]) -> None:
    known = KnownModelsInMemory()
    (good,) = ModelStore(Opener(), known).want(wanted(meals=checkpoints["a"]))
    storage.write_text(f"{checkpoints['a']}/manifest.json", "another")
    later = ModelStore(Opener(), known)
    with pytest.raises(UserError, match="changed"):
        later.model(good)
    with pytest.raises(UserError, match="was ever served"):
        later.model("meals@000000000000")
    (new,) = later.want(wanted(meals=checkpoints["a"]))
    assert new != good


def test_a_later_call_wins(checkpoints: dict[str, str]) -> None:
    known = KnownModelsInMemory()

    class Nested(Opener):
        def __call__(self, name: str, uri: str, sha: str) -> Any:
            if Path(uri).name == "a" and not self.asked:
                self.asked.append("a")
                assert len(store.want(wanted(meals=checkpoints["b"]))) == 1  # called while a is still loading
            return super().__call__(name, uri, sha)

    store = ModelStore(Nested(), known)
    assert store.want(wanted(meals=checkpoints["a"])) == []
    assert states(store) == {"meals": ("b", None)}


def test_parse_wanted() -> None:
    assert parse_wanted({"models": {"a": "x", "b": "y"}}).default == "a"
    assert parse_wanted({"models": {"a": "x", "b": "y"}, "default": "b"}).default == "b"
    assert parse_wanted({"models": None}).default is None


@pytest.mark.parametrize("models", [{"a/b": "x"}, {"": "x"}, {"a": "s3://bucket/x?secret_key=y&access_key=z"}])
def test_names_and_uris_that_no_answer_could_show(models: dict[str, str]) -> None:
    with pytest.raises(UserError, match="user_config of the Segmenter: ") as error:
        parse_wanted({"models": models})
    assert "=y" not in str(error.value)
