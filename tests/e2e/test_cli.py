"""The command line on tiny synthetic data, without Ray: help, versions, configuration, scores, labelled images."""

import json
import logging
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from foodseg.cli.main import run
from foodseg.data.image_io import decode_mask
from foodseg.data.shards import read_manifest

REPOSITORY = Path(__file__).parents[2]
COMMANDS = [
    ["data", "prepare"], ["data", "inspect"], ["data", "map"], ["data", "export"], ["data", "embed"], ["data", "masks"],
    ["train"], ["evaluate"], ["predict"], ["export"], ["zero-shot"], ["config", "show"], ["config", "schema"],
    ["config", "diff"],
    ["doctor"], ["bench", "data"], ["bench", "train"], ["bench", "serve"],
    ["bench", "realtime"], ["demo"], ["serve", "run"],
    ["serve", "swap"], ["tune"], ["ablate"],
]  # fmt: skip
OTHERS = ("sweep.yaml", "ablate.yaml")  # no trainings; tests/unit/tune/test_sweep_files.py reads them
CONFIGS = sorted(p for p in (REPOSITORY / "jobs" / "configs").glob("*.yaml") if p.name not in OTHERS)


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must succeed; returns what it wrote to stdout."""
    logging.getLogger("foodseg").handlers.clear()  # they write to the stderr of an earlier test

    def ask(*arguments: str, code: int = 0) -> str:
        assert run(list(arguments)) == code, capsys.readouterr().err
        return capsys.readouterr().out

    return ask


@pytest.fixture
def answered(said: Callable[..., str]) -> Callable[..., Any]:
    """The same with --json: stdout is exactly one JSON object."""

    def ask(*arguments: str, code: int = 0) -> Any:
        answer = json.loads(said(*arguments, "--json", code=code))
        assert isinstance(answer, dict)
        return answer

    return ask


# --- help and versions ---


def cpu_seconds(*arguments: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, "-m", "foodseg", *arguments], check=True, capture_output=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_takes_less_than_a_second() -> None:
    # CPU time, because the machine may be busy with other work
    assert min(cpu_seconds("--help") for _ in range(3)) < 1.0


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_has_an_example(command: list[str], said: Callable[..., str]) -> None:
    text = said(*command, "--help")

    assert f"Example: foodseg {' '.join(command)}" in " ".join(text.split())


def test_every_command_is_in_this_table(said: Callable[..., str]) -> None:
    from typer.main import get_command

    from foodseg.cli.main import app

    found = []
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        below = getattr(command, "commands", None)
        found += [[name, part] for part in below] if below else [[name]]
    assert sorted(found) == sorted(COMMANDS)


@pytest.mark.parametrize("group", [[], ["data"], ["config"], ["bench"]])
def test_a_group_without_command_shows_its_help(group: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(group) == 2

    out, err = capsys.readouterr()
    assert "Usage" in out + err and "foodseg: " not in err


def test_version(said: Callable[..., str]) -> None:
    lines = [line.rsplit(" ", 1) for line in said("--version").splitlines()]

    assert [name for name, _ in lines] == ["foodseg", "data format", "checkpoint format", "ray", "torch"]
    assert all(version[0].isdigit() for _, version in lines)


# --- data ---


def test_secrets_of_a_uri_are_not_said(world: Path, said: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = read_manifest("prepared").model_copy(update={"quarantined": 1})
    for name in ("ray_prepare.prepare_dataset", "ray_map.map_data_set"):
        monkeypatch.setattr(f"foodseg.prepare.{name}", lambda *arguments, **options: manifest)
    uri, query = "s3://key:hidden@bucket/out", "?region=us-east-1"
    prepare, relabel = ["data", "prepare", "meals", uri + query], ["data", "map", "prepared", "m.tsv", uri + query]
    for command in (prepare, relabel, [*prepare, "--json"], [*relabel, "--json"]):
        text = said(*command)
        assert f"s3://***@bucket/out{query}" in text and "hidden" not in text
    assert f"reasons in s3://***@bucket/out/v-1/quarantine.parquet{query}" in said(*prepare)


# --- configuration ---


def test_config_show_names_the_origin_of_each_value(said: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("optim: {lr: 3e-4}\ntrain: {epochs: 2}\n")

    lines = said("config", "show", "-c", str(file), "--set", "train.seed=7").splitlines()

    assert f"optim.lr = 0.0003  # {file}" in lines
    assert f"train.epochs = 2.0  # {file}" in lines
    assert "train.seed = 7  # --set" in lines
    assert "loss.dice = 0.0  # default" in lines


def test_config_show_as_json(answered: Callable[..., Any]) -> None:
    answer = answered("config", "show", "--set", "optim.lr=0.5")

    assert answer["config"]["optim"]["lr"] == 0.5
    assert answer["origins"]["optim.lr"] == "--set" and answer["origins"]["loss.dice"] == "default"


@pytest.mark.parametrize("path", CONFIGS, ids=[path.name for path in CONFIGS])
def test_the_configs_of_the_repository_are_valid(path: Path, answered: Callable[..., Any]) -> None:
    assert answered("config", "show", "-c", str(path))["origins"]["run.uri"] == str(path)


def test_config_schema(said: Callable[..., str]) -> None:
    schema = json.loads(said("config", "schema"))

    assert set(schema["properties"]) >= {"data", "augment", "model", "loss", "optim", "train", "eval", "scaling", "run"}


def test_config_diff(said: Callable[..., str], answered: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("optim: {lr: 0.1}")
    (tmp_path / "b.yaml").write_text("train: {seed: 3}")
    pair = ("config", "diff", str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml"))

    assert said(*pair).splitlines() == ["optim.lr: 0.1 -> 0.001", "train.seed: 0 -> 3"]
    assert answered(*pair) == {"differences": {"optim.lr": {"a": 0.1, "b": 0.001}, "train.seed": {"a": 0, "b": 3}}}
    assert said("config", "diff", pair[2], pair[2]) == "no difference\n"


def test_doctor(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["doctor", "--storage", str(world / "probe"), "--json"])

    answer = json.loads(capsys.readouterr().out)
    assert code == (0 if answer["ok"] else 2)  # what this machine lacks is not this test's business
    checks = {check["name"]: check for check in answer["checks"]}
    assert {"python", "torch", "ray", "cpus", "memory", "storage", "port 8265"} <= set(checks)
    assert checks["storage"]["ok"] and checks["python"]["ok"]
    assert all(bool(check["fix"]) != check["ok"] for check in checks.values())


# --- scores ---


def perfect_maps(folder: str, wrong: str | None = None) -> None:
    Path(folder).mkdir()
    for mask in Path("meals/masks").iterdir():
        shutil.copy(mask, folder)
    if wrong:
        ids = cv2.imread(f"{folder}/{wrong}.png", cv2.IMREAD_UNCHANGED)
        cv2.imwrite(f"{folder}/{wrong}.png", np.zeros_like(ids))


def test_perfect_label_maps_score_1(world: Path, answered: Callable[..., Any]) -> None:
    perfect_maps("maps")

    metrics = answered("evaluate", "--predictions", "maps", "--data", "prepared", "--split", "test", "--out", "out",
                       "--workers", "0")  # fmt: skip

    assert metrics["scores"]["miou"] == 1.0 and metrics["images"] == 3
    assert json.loads(Path("out/metrics.json").read_text()) == metrics
    assert all("meals test" in Path("out", name).read_text() for name in ("report.md", "report.html"))
    opened, scored = map(json.loads, Path("out/test_access.jsonl").read_text().splitlines())
    assert opened["event"] == "opened" and scored["event"] == "scored"
    assert opened["what"] == "maps" and scored["miou"] == 1.0


def test_val_is_not_noted_as_an_access_to_test(world: Path, said: Callable[..., str]) -> None:
    perfect_maps("maps")

    table = said("evaluate", "--predictions", "maps", "--data", "prepared", "--out", "out", "--workers", "0",
                 "--test-log", "log/test.jsonl")  # fmt: skip

    assert "100.0" in table and "written to out" in table
    assert not Path("log").exists()


def test_subset_and_images(world: Path, answered: Callable[..., Any]) -> None:
    perfect_maps("maps", wrong="synthetic__0012")
    Path("two_classes.txt").write_text("1\twhite rice\n2\n")
    Path("list.txt").write_text("synthetic__0011\nsynthetic__0013\n")
    arguments = ["evaluate", "--predictions", "maps", "--data", "prepared", "--split", "test", "--workers", "0",
                 "--test-log", "log.jsonl", "--subset", "two_classes.txt"]  # fmt: skip

    everything = answered(*arguments, "--out", "all")
    listed = answered(*arguments, "--out", "listed", "--images", "list.txt")

    assert everything["images"] == 3 and everything["scores"]["miou"] < 1
    assert listed["images"] == 2 and listed["scores"]["miou"] == 1.0
    assert "two" in json.dumps(listed["scores"])


def test_compare_two_evaluations(world: Path, answered: Callable[..., Any], said: Callable[..., str]) -> None:
    perfect_maps("good")
    perfect_maps("bad", wrong="synthetic__0011")
    for name in ("good", "bad"):
        answered("evaluate", "--predictions", name, "--data", "prepared", "--split", "test", "--out", f"{name}-out",
                 "--workers", "0", "--test-log", "log.jsonl")  # fmt: skip

    answer = answered("evaluate", "--compare", "good-out", "bad-out")

    assert answer["a"] == "good-out" and answer["b"] == "bad-out"
    numbers = json.dumps(answer)
    assert "miou" in numbers
    assert "|" in said("evaluate", "--compare", "good-out", "bad-out")  # a Markdown table
    same = answered("evaluate", "--compare", "good-out", "good-out")
    assert same != answer
    assert len(Path("log.jsonl").read_text().splitlines()) == 4  # each evaluation opens and scores


def test_evaluate_a_checkpoint(world: Path, answered: Callable[..., Any]) -> None:
    metrics = answered("evaluate", "model", "--data", "prepared", "--out", "out", "--workers", "0")

    assert 0 <= metrics["scores"]["miou"] < 1
    assert metrics["images"] == 2 and metrics["step"] == 0 and metrics["weights"] == "ema"


# --- a look at the data ---


def test_inspect(world: Path, answered: Callable[..., Any], said: Callable[..., str]) -> None:
    result = answered("data", "inspect", "prepared")

    assert [result["splits"][split]["images"] for split in ("train", "val", "test")] == [8, 2, 3]
    with Image.open(result["images"]["contact_sheet"]) as sheet:
        assert sheet.size[0] == 6 * 400
    assert (world / "inspect-meals" / "contact_sheet.png").exists()
    shown = said("data", "inspect", "prepared", "--out", "look", "--verify")
    assert "test  3 images in 3 near-duplicate groups" in shown and "closest class names:" in shown
    assert "all 3 shards (" in shown


# --- labelled images ---


def test_predict(world: Path, answered: Callable[..., Any]) -> None:
    upright = Image.open("meals/images/synthetic__0003.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: shown a quarter turn clockwise
    upright.rotate(90, expand=True).save("turned.jpg", exif=exif, quality=95)
    assert upright.width != upright.height

    answer = answered("predict", "model", "meals/images/synthetic__0003.jpg", "turned.jpg", "--out", "out")

    assert [Path(image["overlay"]).name for image in answer["images"]] == [
        "synthetic__0003.overlay.jpg", "turned.overlay.jpg",
    ]  # fmt: skip
    for image in answer["images"]:
        assert (image["width"], image["height"]) == upright.size
        ids = decode_mask(Path(image["label_map"]).read_bytes())
        assert ids.shape == (upright.height, upright.width) and ids.dtype == np.uint8
        assert Image.open(image["overlay"]).width >= upright.width
        found = {entry["id"]: entry for entry in image["ingredients"]}
        assert sorted(found) == sorted(set(np.unique(ids).tolist()) - {0})
        assert sum(entry["share_of_food"] for entry in found.values()) == pytest.approx(1)
        background = (ids == 0).mean()
        assert background + sum(entry["share_of_image"] for entry in found.values()) == pytest.approx(1)
        assert all(entry["pixels"] == (ids == index).sum() for index, entry in found.items())
        stem = Path(image["label_map"]).stem
        assert json.loads(Path(f"out/{stem}.json").read_text()) == image


def test_predict_prints_one_line_for_each_image(world: Path, said: Callable[..., str]) -> None:
    lines = said("predict", "model", "meals/images/synthetic__0002.jpg", "--out", "out", "--set", "eval.flip=true")

    assert "synthetic__0002.overlay.jpg: " in lines and " %" in lines and lines.count("\n") == 1


def test_text_from_the_names_to_labelled_images(
    world: Path, answered: Callable[..., Any], said: Callable[..., str]
) -> None:
    """Random embeddings, cross-attention and an ingredient head; all kinds of conditioning, in this process."""
    from tests.support.tiny_world import TINY_RUN, set_options

    made = answered("data", "embed", "prepared", "names.safetensors", "--random", "--permute", "3")
    assert made["made_by"] == "random unit vectors, seed 0; names permuted, seed 3" and len(made["closest"]) == 10
    assert "closest names:" in said("data", "embed", "prepared", "names.safetensors", "--random", "--seed", "5")
    assert len(answered("data", "inspect", "prepared", "--text", "names.safetensors")["closest_embeddings"]) == 10
    settings = [
        *TINY_RUN, "model.fusion=cross_attention", "model.text.kind=table", "model.text.table=names.safetensors",
        "model.ingredient_head=true", "loss.ingredients=0.1",
    ]  # fmt: skip
    answered("train", *set_options(*settings))
    Path("names.safetensors").unlink()

    score = ["evaluate", "run", "--data", "prepared", "--workers", "0"]
    plain = answered(*score, "--out", "plain")
    assert plain["conditions"] == {"ingredients": "vocabulary", "restrict": "none", "weights": "student"}
    assert plain["text"] == "random unit vectors, seed 5"
    for mode, restrict in (("predicted", "soft"), ("provided", "none"), ("provided", "hard")):
        settings = set_options(f"eval.ingredients={mode}", f"eval.restrict={restrict}")
        metrics = answered(*score, "--out", f"{mode}-{restrict}", *settings)
        assert metrics["conditions"] == {"ingredients": mode, "restrict": restrict, "weights": "student"}
        assert json.loads(Path(f"{mode}-{restrict}/metrics.json").read_text()) == metrics
    # a hard restriction to the true ingredients: nothing that is not on an image is found on it
    assert metrics["ingredients"]["per_image"]["precision"] == 1
    assert "Ingredients: provided, the true classes of each image, an oracle" in said(
        *score, "--out", "again", *settings
    )

    (labelled,) = answered(
        "predict", "run", "meals/images/synthetic__0003.jpg", "--out", "out", "--ingredients", "tomato, White Rice",
        *set_options("eval.restrict=hard"),
    )["images"]  # fmt: skip
    assert labelled["conditioning"] == ["white rice", "tomato"] and labelled["ingredients_from"] == "provided"
    assert {entry["name"] for entry in labelled["ingredients"]} <= {"white rice", "tomato"}


def test_train_resume_evaluate_predict_in_this_process(world: Path, answered: Callable[..., Any]) -> None:
    """The whole way without Ray; a finished run that is resumed has nothing left to do."""
    from tests.support.tiny_world import TINY_RUN, set_options

    train = ["train", *set_options(*TINY_RUN)]

    trained = answered(*train)
    resumed = answered(*train, "--resume")

    assert trained["step"] == resumed["step"] == 2 and not trained["stopped"]
    assert Path("run/config.yaml").exists() and Path("run/best.json").exists() and Path("run/last.json").exists()
    metrics = answered("evaluate", "run", "--data", "prepared", "--out", "out", "--workers", "0")
    assert metrics["step"] == 2
    assert answered("config", "diff", "run/config.yaml", "run/config.yaml") == {"differences": {}}
    assert len(answered("predict", "run", "meals/images/synthetic__0003.jpg", "--out", "labelled")["images"]) == 1
