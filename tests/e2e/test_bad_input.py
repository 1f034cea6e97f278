"""Every kind of bad input gets one sentence and an exit code: never a stack trace, never silence.

A row is: what is done to a tiny world (`make_world`), the command, its exit code, and words of the sentence: the
key or file, what was found, what would be right.
"""

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from foodseg import storage
from foodseg.cli.main import run
from foodseg.models.text.embed import embed_names
from foodseg.storage import s3_client
from tests.support.s3_server import S3Server
from tests.support.tiny_world import TINY_RUN, edit_json, set_options, write_prepared

REPOSITORY = Path(__file__).parents[2]
TRAIN = ["train", *set_options(*TINY_RUN)]
PREPARE = ["data", "prepare", "meals", "out"]
PREDICT = ["predict", "model", "meals/images/synthetic__0001.jpg", "--out", "out"]
EVALUATE = ["evaluate", "--data", "prepared", "--out", "out", "--workers", "0"]
SCORE = [*EVALUATE, "--predictions", "maps"]
MODEL = [*EVALUATE, "model"]


@dataclass(frozen=True)
class Bad:
    """One kind of bad input. `arrange` runs in the world's folder first."""

    name: str
    arguments: list[str]
    words: tuple[str, ...]
    code: int = 2
    arrange: Callable[[], object] = lambda: None


def write(path: str, text: str | bytes) -> Callable[[], object]:
    """An `arrange` that writes a file."""
    data = text.encode() if isinstance(text, str) else text

    def arrange() -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(data)

    return arrange


def cut(path: str) -> Callable[[], object]:
    """An `arrange` that leaves the first half of a file."""
    return lambda: Path(path).write_bytes(Path(path).read_bytes()[: Path(path).stat().st_size // 2])


def remove(path: str) -> Callable[[], object]:
    """An `arrange` that removes a file or a folder."""
    return lambda: storage.delete(path)


def flip_byte(path: str) -> Callable[[], object]:
    """An `arrange` that changes one byte in the middle of a file."""

    def arrange() -> None:
        data = bytearray(Path(path).read_bytes())
        data[len(data) // 2] ^= 0xFF
        Path(path).write_bytes(data)

    return arrange


def rename_class() -> None:
    text = Path("meals/classes.txt").read_text().replace("salmon", "trout")
    Path("meals/classes.txt").write_text(text)
    write_prepared(Path("meals"), Path("prepared"))


def write_maps(**changed: np.ndarray | None) -> Callable[[], object]:
    """An `arrange` that writes the perfect label map of every val image; `changed` replaces or drops some."""

    def arrange() -> None:
        Path("maps").mkdir()
        for stem in Path("meals/train.txt").read_text().split():
            shutil.copy(f"meals/masks/{stem}.png", "maps")
        for stem, ids in changed.items():
            Path(f"maps/{stem}.png").unlink()
            if ids is not None:
                cv2.imwrite(f"maps/{stem}.png", ids)

    return arrange


def foreign_table() -> None:
    write("c.tsv", "0\tbackground\n1\trice\n2\ttofu\n")()
    embed_names("c.tsv", "t.safetensors", random_seed=0)


def foreign_map() -> None:
    write_maps()()
    path = "maps/synthetic__0010.png"
    ids = cv2.imread(path, cv2.IMREAD_UNCHANGED)
    ids[0, 0] = 77
    cv2.imwrite(path, ids)


def torn_run(*, keep: bool) -> Callable[[], object]:
    """An `arrange` that makes a run whose best checkpoint lacks its manifest or has a short file."""

    def arrange() -> None:
        shutil.copytree("model", "run/checkpoints/step-00000002")
        write("run/best.json", json.dumps({"checkpoint": "checkpoints/step-00000002", "step": 2, "miou": 0.5}))()
        (cut if keep else remove)(
            "run/checkpoints/step-00000002/" + ("model.safetensors" if keep else "manifest.json")
        )()

    return arrange


def started_run(**text: str) -> Callable[[], object]:
    """An `arrange` that makes the directory of a run with the configuration TRAIN, or with `config` as text."""
    from foodseg.config import load_config
    from foodseg.config.load import to_yaml
    from foodseg.train.run import with_absolute_uris

    return lambda: write(
        "run/config.yaml", text.get("config") or to_yaml(with_absolute_uris(load_config(None, TINY_RUN).config))
    )()


CONFIG = [
    Bad("unknown key", [*TRAIN, "--set", "optim.learning_rate=1"], ("optim.learning_rate", "lr", "weight_decay")),
    Bad("unknown section", ["config", "show", "-s", "optimizer.lr=1"], ("optimizer", "optim")),
    Bad("wrong type", [*TRAIN, "--set", "train.steps=many"], ("train.steps", "must be", "number", "'many'")),
    Bad("out of range", [*TRAIN, "--set", "model.dropout=1.5"], ("model.dropout", "must be below 1", "1.5")),
    Bad("not one of the words", [*TRAIN, "--set", "optim.schedule=step"], ("optim.schedule", "'poly'", "'step'")),
    Bad("an override without value", ["config", "show", "--set", "optim.lr"], ("optim.lr", "section.key=value")),
    Bad("an override that is not YAML", ["config", "show", "--set", "train.steps={"], ("train.steps", "YAML")),
    Bad(
        "an override below a value",
        ["config", "show", "--set", "optim.lr.x=1"],
        ("--set optim.lr.x", "is a value, not a section"),
    ),
    Bad(
        "both steps and epochs",
        ["config", "show", "-c", "c.yaml"],
        ("train.steps", "train.epochs", "exactly one", "both"),
        arrange=write("c.yaml", "train: {steps: 5, epochs: 2}"),
    ),
    Bad(
        "neither steps nor epochs",
        [*TRAIN, "--set", "train.steps=null"],
        ("train.steps", "train.epochs", "exactly one", "neither"),
    ),
    Bad(
        "broken YAML",
        ["train", "-c", "c.yaml"],
        ("c.yaml", "line 3", "not valid YAML"),
        arrange=write("c.yaml", "train:\n  steps: [1,\n"),
    ),
    Bad("a list as config", ["train", "-c", "c.yaml"], ("c.yaml", "sections", "list"), arrange=write("c.yaml", "- 1")),
    Bad("a word as section", ["train", "-c", "c.yaml"], ("train", "'fast'"), arrange=write("c.yaml", "train: fast")),
    Bad("config of other bytes", ["train", "-c", "c.yaml"], ("c.yaml", "UTF-8"), arrange=write("c.yaml", b"\xc3\x28")),
    Bad("missing config", ["train", "-c", "nowhere.yaml"], ("nowhere.yaml", "no such file")),
    Bad("config diff of a missing file", ["config", "diff", "a.yaml", "b.yaml"], ("a.yaml", "no such file")),
    Bad(
        "data.uri and data.uris",
        ["train", "-c", "c.yaml"],
        ("data.uri and data.uris", "both"),
        arrange=write("c.yaml", "data: {uri: a, uris: [{uri: b}]}"),
    ),
    Bad(
        "an entry of data.uris without its uri",
        ["train", "--set", "data.uris=[{url: a}]"],
        ("data.uris", "a list of mappings with the keys uri, weight", "'url'"),
    ),
    Bad("test as training split", [*TRAIN, "--set", "data.train_splits=[test]"], ("'test'", "evaluate", "'train'")),
    Bad("test as val split", [*TRAIN, "--set", "data.val_split=test"], ("'test'", "evaluate", "'val'")),
    Bad(
        "batch not divisible by workers",
        [*TRAIN, "--set", "scaling.num_workers=3", "--set", "train.global_batch=8"],
        ("train.global_batch", "8", "3 workers", "[1, 2, 4, 8]"),
    ),
    Bad("sync BatchNorm on CPU", [*TRAIN, "--set", "train.batch_norm=sync"], ("train.batch_norm", "GPU", "'frozen'")),
    Bad("fp16 on CPU", [*TRAIN, "--set", "train.precision=fp16"], ("train.precision", "GPU", "'bf16'")),
    Bad("unknown backbone", [*TRAIN, "--set", "model.backbone=resnet999"], ("model.backbone", "resnet999", "timm")),
    Bad("no such stride", [*TRAIN, "--set", "model.strides=[64]"], ("model.strides", "[2, 4, 8, 16, 32]", "[64]")),
    Bad("missing weights", [*TRAIN, "--set", "model.weights=w.safetensors"], ("w.safetensors", "no such file")),
    Bad(
        "weights of another format",
        [*TRAIN, "--set", "model.weights=w.safetensors"],
        ("model.weights", "w.safetensors", "test_resnet", "safetensors"),
        arrange=write("w.safetensors", "hello"),
    ),
    Bad(
        "weights of another model",
        [*TRAIN, "--set", "model.weights=model/model.safetensors"],
        ("model.weights", "model.safetensors", "test_resnet"),
    ),
    Bad("an unknown option", [*TRAIN, "--epochs", "3"], ("--epochs", "--help")),
    Bad("a missing argument", ["predict"], ("checkpoint", "--help")),
    Bad("an unknown command", ["trian"], ("trian", "train")),
]

DATA = [
    Bad("no such source", ["data", "prepare", "nowhere", "out"], ("nowhere", "folder format", "images")),
    Bad(
        "a file as source", ["data", "prepare", "meals/classes.txt", "out"], ("classes.txt is a file", "name a folder")
    ),
    Bad("no such format", [*PREPARE, "--format", "voc"], ("--format voc", "foodseg103", "coco", "huggingface")),
    Bad("another format", [*PREPARE, "--format", "coco"], ("meals", "no COCO annotations", "expected annotations/")),
    Bad("not the folder format", PREPARE, ("meals", "masks", "missing", "expected"), arrange=remove("meals/masks")),
    Bad(
        "class table with a gap",
        PREPARE,
        ("classes.txt", "[1]", "missing"),
        arrange=write("meals/classes.txt", "0\tbackground\n2\trice\n"),
    ),
    Bad(
        "class table without ids",
        PREPARE,
        ("classes.txt", "line 1", "'rice'", "id<TAB>name"),
        arrange=write("meals/classes.txt", "rice\n"),
    ),
    Bad("empty class table", PREPARE, ("classes.txt", "background"), arrange=write("meals/classes.txt", "")),
    Bad(
        "no image listed",
        PREPARE,
        ("meals", "no images"),
        arrange=lambda: [write(f"meals/{s}.txt", "")() for s in ("train", "test")],
    ),
    Bad(
        "target exists",
        ["data", "prepare", "meals", "prepared"],
        ("prepared", "holds a prepared data set", "--overwrite"),
    ),
    Bad("share above 1", [*PREPARE, "--max-bad", "5"], ("--max-bad", "less than or equal to 1")),
    Bad(
        "a map that leaves ids out",
        ["data", "map", "prepared", "m.tsv", "out"],
        ("m.tsv does not map from the label space of", "12 ids are not in the map, the first 1 'white rice'"),
        arrange=write("m.tsv", "a_id\ta_name\tb_id\tb_name\n0\tbackground\t0\tbackground\n"),
    ),
    Bad(
        "mapping onto a data set",
        ["data", "map", "prepared", "m.tsv", "prepared"],
        ("DST", "prepared is SRC", "name another folder"),
    ),
    Bad(
        "sources.tsv with a source that no image has",
        PREPARE,
        ("sources.tsv, line 1", "'cantine'", "'synthetic'"),
        arrange=write("meals/sources.tsv", "cantine\t1\n"),
    ),
    Bad(
        "text fusion without text",
        [*TRAIN, "--set", "model.fusion=cross_attention"],
        ("model.fusion = cross_attention needs model.text.kind",),
    ),
    Bad(
        "a text table of other names",
        [*TRAIN, *set_options("model.fusion=cross_attention", "model.text={kind: table, table: t.safetensors}")],
        ("t.safetensors", "3 rows", "13 ids", "foodseg data embed"),
        arrange=foreign_table,
    ),
    Bad("nothing to embed", ["data", "embed", "empty", "t.safetensors"], ("empty", "foodseg data prepare")),
    Bad("a table of another kind", ["data", "embed", "prepared", "t.npz", "--random"], ("t.npz", ".safetensors")),
    Bad(
        "ingredients for a model without text fusion",
        [*PREDICT, "--ingredients", "tomato"],
        ("eval.ingredients = provided changes nothing", "eval.restrict"),
    ),
    Bad(
        "an unknown ingredient",
        [*PREDICT, "--ingredients", "tomatoe", "--set", "eval.restrict=hard"],
        ("'tomatoe'", "not one of the 12 ingredients", "did you mean 'tomato'?"),
    ),
    Bad(
        "predicted ingredients without a head",
        [*PREDICT, "--set", "eval.ingredients=predicted"],
        ("eval.ingredients = predicted", "model.ingredient_head"),
    ),
    Bad("nothing to inspect", ["data", "inspect", "empty"], ("empty", "dataset.json", "foodseg data prepare")),
    Bad("no prepared data", [*TRAIN, "--set", "data.uri=empty"], ("empty", "dataset.json", "foodseg data prepare")),
    Bad("no data at all", ["train", "--set", "run.uri=run"], ("data.uri", "foodseg data prepare")),
    Bad(
        "damaged dataset.json", TRAIN, ("dataset.json", "damaged", "--overwrite"), arrange=cut("prepared/dataset.json")
    ),
    Bad(
        "dataset.json that lacks keys",
        TRAIN,
        ("dataset.json", "damaged", "--overwrite"),
        arrange=write("prepared/dataset.json", '{"format_version": 2}'),
    ),
    Bad(
        "newer format",
        TRAIN,
        ("dataset.json", "format 9", "reads 2", "update"),
        arrange=lambda: edit_json(Path("prepared/dataset.json"), format_version=9),
    ),
    Bad("missing split", [*TRAIN, "--set", "data.train_splits=[holdout]"], ("'holdout'", "train (8)", "val (2)")),
    Bad("missing split to score", [*MODEL, "--split", "dev"], ("'dev'", "train (8)", "test (3)")),
    Bad(
        "missing shard",
        MODEL,
        ("part-00000.parquet", "no such file"),
        arrange=remove("prepared/v-1/val/part-00000.parquet"),
    ),
    Bad(
        "torn shard",
        MODEL,
        ("part-00000.parquet", "bytes, dataset.json lists", "--overwrite"),
        arrange=cut("prepared/v-1/val/part-00000.parquet"),
    ),
    Bad(
        "torn training shard",
        TRAIN,
        ("part-00000.parquet", "bytes, dataset.json lists", "--overwrite"),
        arrange=cut("prepared/v-1/train/part-00000.parquet"),
    ),
    Bad(
        "less than one step",
        [*TRAIN, "--set", "train.epochs=0.01"],
        ("train.epochs = 0.01", "less than one update", "raise"),
    ),
]

RUNS = [
    Bad("run directory not empty", TRAIN, ("run", "not empty", "--resume"), arrange=write("run/notes.txt", "mine")),
    Bad(
        "resume of what is not a run",
        [*TRAIN, "--resume"],
        ("run", "no config.yaml"),
        arrange=write("run/notes.txt", "mine"),
    ),
    Bad(
        "resume with a changed configuration",
        [*TRAIN, "--set", "optim.lr=0.5", "--resume"],
        ("--resume", "optim.lr was 0.001, now 0.5", "another run.uri"),
        arrange=started_run(),
    ),
    Bad(
        "resume of a damaged run",
        [*TRAIN, "--resume"],
        ("run/config.yaml", "line 2", "YAML"),
        arrange=started_run(config="train: [1,\n"),
    ),
    Bad("a file as run directory", TRAIN, ("run is a file", "name a folder"), arrange=write("run", "mine")),
]

MODELS = [
    Bad("no checkpoint", ["predict", "nowhere", *PREDICT[2:]], ("nowhere", "manifest.json", "foodseg train")),
    Bad(
        "a directory without checkpoint",
        ["predict", "meals", *PREDICT[2:]],
        ("meals", "neither a checkpoint", "nor a run"),
    ),
    Bad("torn: no manifest", PREDICT, ("model", "manifest.json"), arrange=remove("model/manifest.json")),
    Bad(
        "torn: damaged manifest",
        PREDICT,
        ("model", "torn", "manifest.json", "damaged"),
        arrange=cut("model/manifest.json"),
    ),
    Bad(
        "torn: weights cut",
        PREDICT,
        ("model", "torn", "model.safetensors", "bytes"),
        arrange=cut("model/model.safetensors"),
    ),
    Bad(
        "torn: weights missing",
        PREDICT,
        ("torn", "model.safetensors is missing"),
        arrange=remove("model/model.safetensors"),
    ),
    Bad(
        "torn: one byte differs",
        PREDICT,
        ("torn", "model.safetensors", "sha256"),
        arrange=flip_byte("model/model.safetensors"),
    ),
    Bad(
        "newer checkpoint",
        PREDICT,
        ("model", "format 9", "reads 2", "update"),
        arrange=lambda: edit_json(Path("model/manifest.json"), format_version=9),
    ),
    Bad(
        "run with a torn best: no manifest",
        ["predict", "run", *PREDICT[2:]],
        ("step-00000002", "torn", "manifest.json"),
        arrange=torn_run(keep=False),
    ),
    Bad(
        "run with a torn best: cut",
        ["predict", "run", *PREDICT[2:]],
        ("step-00000002", "torn", "model.safetensors"),
        arrange=torn_run(keep=True),
    ),
    Bad(
        "damaged best.json",
        ["predict", "run", *PREDICT[2:]],
        ("run/best.json", "damaged"),
        arrange=write("run/best.json", "{"),
    ),
    Bad("another label space", MODEL, ("label space", "'salmon'", "'trout'", "--map"), arrange=rename_class),
    Bad("no map", [*MODEL, "--map", "m.tsv"], ("m.tsv", "no such file")),
    Bad("a map that is none", [*MODEL, "--map", "meals/classes.txt"], ("classes.txt, line 1", "header", "FROM_id")),
    Bad(
        "a map between other label spaces",
        [*MODEL, "--map", "m.tsv"],
        ("m.tsv", "the data set is neither", "'plate'", "'background'"),
        arrange=write("m.tsv", "a_id\ta_name\tb_id\tb_name\n0\tplate\t0\tplate\n"),
    ),
    Bad("classes without a map", [*MODEL, "--classes", "meals/classes.txt"], ("--classes", "--map")),
    Bad("a setting of the checkpoint changed", [*MODEL, "--set", "model.dropout=0"], ("model.dropout", "only eval.*")),
    Bad("missing image", ["predict", "model", "lunch.jpg", "--out", "out"], ("lunch.jpg", "no such file")),
    Bad(
        "no image",
        ["predict", "model", "meals/classes.txt", "--out", "out"],
        ("classes.txt", "this is plain text", "JPEG"),
        code=3,
    ),
    Bad("empty image", ["predict", "model", "e.jpg", "--out", "out"], ("e.jpg", "empty"), 3, write("e.jpg", b"")),
    Bad(
        "a folder without images",
        ["predict", "model", "meals", "--out", "out"],
        ("meals", "holds no image", "subfolders"),
    ),
    Bad("two images of one name", ["predict", "model", "a/x.jpg", "b/x.png", "--out", "out"], ("'x'", "rename")),
    Bad("a file as --out", [*PREDICT[:-1], "meals/classes.txt"], ("classes.txt is a file", "name a folder")),
]

SCORES = [
    Bad("neither checkpoint nor predictions", EVALUATE, ("CHECKPOINT", "--predictions")),
    Bad(
        "both checkpoint and predictions",
        [*MODEL, "--predictions", "maps"],
        ("CHECKPOINT", "--predictions", "not both"),
    ),
    Bad("no --out", ["evaluate", "model", "--data", "prepared"], ("--out is missing",)),
    Bad("no --data", ["evaluate", "model", "--out", "out"], ("--data is missing",)),
    Bad("label map missing", SCORE, ("maps/synthetic__0010.png", "missing"), 3, write_maps(synthetic__0010=None)),
    Bad(
        "label map of another size",
        SCORE,
        ("maps/synthetic__0010.png", "7 x 5"),
        code=3,
        arrange=write_maps(synthetic__0010=np.zeros((5, 7), np.uint8)),
    ),
    Bad("label map with a foreign id", SCORE, ("maps/synthetic__0010.png", "id 77", "goes to 12"), 3, foreign_map),
    Bad(
        "label map in colour",
        SCORE,
        ("maps/synthetic__0010.png", "in colours", "grey or palette PNG"),
        code=3,
        arrange=write_maps(synthetic__0010=np.arange(243, dtype=np.uint8).reshape(9, 9, 3)),
    ),
    Bad(
        "label map that is not an image",
        SCORE,
        ("maps/synthetic__0010.png", "this is plain text"),
        code=3,
        arrange=lambda: (write_maps()(), write("maps/synthetic__0010.png", "x")()),
    ),
    Bad(
        "subset with a foreign id",
        [*SCORE, "--subset", "s.txt"],
        ("s.txt", "id 99", "0 to 12"),
        arrange=write("s.txt", "99\tfoie gras\n"),
    ),
    Bad(
        "subset with another name",
        [*SCORE, "--subset", "s.txt"],
        ("s.txt", "id 3", "'trout'", "'salmon'"),
        arrange=write("s.txt", "3\ttrout\n"),
    ),
    Bad("subset missing", [*SCORE, "--subset", "s.txt"], ("s.txt", "no such file")),
    Bad(
        "unknown image id",
        [*SCORE, "--images", "p.txt"],
        ("p.txt", "'dinner'", "not in the split"),
        arrange=write("p.txt", "synthetic__0010\ndinner\n"),
    ),
    Bad("no image id", [*SCORE, "--images", "p.txt"], ("p.txt", "no image"), arrange=write("p.txt", "\n")),
    Bad("compare with nothing", ["evaluate", "--compare", "a", "b"], ("a/images.parquet", "no such file")),
    Bad(
        "compare with something else",
        ["evaluate", "--compare", "a", "b"],
        ("a/images.parquet", "Parquet"),
        arrange=write("a/images.parquet", "x"),
    ),
]

LOCATIONS = [
    Bad("unknown scheme", [*TRAIN, "--set", "data.uri=gs://b/meals"], ("gs://", "s3://bucket/key")),
    Bad(
        "unknown scheme of an image",
        ["predict", "model", "https://x/y.jpg", "--out", "out"],
        ("https://", "s3://bucket/key"),
    ),
    Bad("s3 without bucket", ["data", "prepare", "s3://", "out"], ("s3://", "bucket")),
    Bad("file:// with a host", ["data", "prepare", "file://meals", "out"], ("file://meals", "file:///")),
    Bad(
        "a secret in an unknown key", ["data", "prepare", "s3://b/p?secret_key=hidden", "out"], ("secret_key", "region")
    ),
]

TABLE = CONFIG + DATA + RUNS + MODELS + SCORES + LOCATIONS


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Runs a bad command, checks the form of its answer and returns the sentence."""
    # Handlers made in an earlier test write to that test's stderr, which is closed.
    logging.getLogger("foodseg").handlers.clear()
    monkeypatch.setattr(logging, "raiseExceptions", False)  # Ray's

    def ask(arguments: list[str], code: int) -> str:
        found = run([*arguments, "--json"])
        out, err = capsys.readouterr()
        return check_answer(found, out, err, code)

    yield ask
    logging.getLogger("foodseg").handlers.clear()


def check_answer(found: int, out: str, err: str, code: int) -> str:
    assert "Traceback" not in out + err, out + err
    assert found == code, (found, err)
    said = [line for line in err.splitlines() if line.startswith("foodseg: ")]
    assert len(said) == 1, err
    sentence = said[0].removeprefix("foodseg: ")
    assert json.loads(out) == {"error": {"message": sentence, "exit_code": code}}
    assert len(sentence) < 500, sentence
    return sentence


def check_words(sentence: str, words: tuple[str, ...]) -> None:
    missing = [word for word in words if word not in sentence]
    assert not missing, f"{missing} not in: {sentence}"


@pytest.mark.parametrize("bad", TABLE, ids=[bad.name for bad in TABLE])
def test_bad_input(bad: Bad, world: Path, answer: Callable[..., str]) -> None:
    bad.arrange()

    sentence = answer(bad.arguments, bad.code)

    check_words(sentence, bad.words)
    assert "hidden" not in sentence


def test_names_are_unique() -> None:
    assert len({bad.name for bad in TABLE}) == len(TABLE) >= 24


def test_without_json_nothing_is_on_stdout(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "show", "--set", "optim.lr=-1"]) == 2

    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("foodseg: optim.lr") and err.count("\n") == 1


def test_too_many_bad_records(ray_cluster: None, world: Path, answer: Callable[..., str]) -> None:
    cut("meals/images/synthetic__0002.jpg")()
    write("meals/masks/synthetic__0003.png", "no mask")()

    sentence = answer(PREPARE, 3)

    check_words(sentence, ("2 of 13 records", "--max-bad 0.01", "synthetic__0002", "out/v-1-"))
    assert len(list(Path("out").glob("v-1-*/quarantine.parquet"))) == 1 and not Path("out/dataset.json").exists()


def test_one_image_in_two_splits(ray_cluster: None, world: Path, answer: Callable[..., str]) -> None:
    write("meals/test.txt", "synthetic__0001\n")()

    check_words(
        answer(PREPARE, 3), ("1 of 11 records", "synthetic__0001", "of train", "is also in test, which keeps it")
    )


def test_missing_map_on_ray(ray_cluster: None, world: Path, answer: Callable[..., str]) -> None:
    """What a remote process refuses is said as if it were this one."""
    write_maps(synthetic__0010=None)()

    check_words(answer([*SCORE, "--workers", "1"], 3), ("maps/synthetic__0010.png", "missing"))


# --- storage and clusters that do not answer as they should ---


@pytest.fixture
def s3_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "some-key")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    return monkeypatch


@pytest.mark.parametrize(
    "arguments",
    [
        ["data", "prepare", "s3://nobucket/meals", "out"],
        [*TRAIN, "--set", "data.uri=s3://nobucket/meals"],
        [*TRAIN, "--set", "run.uri=s3://nobucket/run"],
        ["predict", "s3://nobucket/run", *PREDICT[2:]],
        [*PREDICT[:-1], "s3://nobucket/out"],
        ["data", "prepare", "meals", "s3://nobucket/out"],
    ],
    ids=["source", "data", "run", "checkpoint", "out", "target"],
)
def test_missing_bucket(
    arguments: list[str],
    world: Path,
    answer: Callable[..., str],
    moto_endpoint: str,
    s3_environment: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    s3_environment.setenv("AWS_ENDPOINT_URL", moto_endpoint)

    check_words(answer(arguments, 2), ("nobucket", moto_endpoint, "create it or correct the name"))


def test_only_half_of_the_credentials(
    world: Path, answer: Callable[..., str], s3_environment: pytest.MonkeyPatch
) -> None:
    s3_environment.delenv("AWS_SECRET_ACCESS_KEY")

    check_words(answer(["data", "prepare", "s3://b/meals", "out"], 2), ("AWS_SECRET_ACCESS_KEY", "set both"))


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
@pytest.mark.parametrize(
    "arguments",
    [["data", "prepare", "s3://foodseg/meals", "out"], [*TRAIN, "--set", "data.uri=s3://foodseg/meals"]],
    ids=["prepare", "train"],
)
def test_wrong_credentials(
    s3: S3Server,
    arguments: list[str],
    name: str,
    world: Path,
    answer: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(name, "wrong-one")

    sentence = answer(arguments, 2)

    check_words(sentence, ("s3://foodseg/meals", s3.endpoint, name, "correct"))
    assert "foodseg-test-secret" not in sentence


def test_unreachable_endpoint(world: Path, answer: Callable[..., str], s3_environment: pytest.MonkeyPatch) -> None:
    s3_environment.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3_environment.setattr(s3_client, "FIRST_CONTACT_SECONDS", 0.6)

    sentence = answer(["data", "prepare", "s3://b/meals", "out"], 2)

    check_words(sentence, ("http://127.0.0.1:9", "not reachable", "AWS_ENDPOINT_URL"))


@pytest.mark.parametrize(("address", "found"), [("127.0.0.1:9", "refused"), ("nonsense", "host:port")])
def test_no_cluster(address: str, found: str, world: Path) -> None:
    # a process of its own: this one may be connected to the tests' cluster already
    prepare = [*PREPARE[:-1], str(world / "out"), "--address", address, "--json"]
    command = [sys.executable, "-m", "foodseg", *prepare]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    child = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)

    sentence = check_answer(child.returncode, child.stdout, child.stderr, 2)

    check_words(sentence, (f"--address {address}", found, "ray start --head"))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (PREPARE, "DST 'out'"),
        (["data", "map", "prepared", "m.tsv", "out"], "DST 'out'"),
        (TRAIN, "run.uri 'run'"),
        (MODEL, "--out 'out'"),
        ([*EVALUATE, "model", "--out", "/far/out", "--test-log", "log.jsonl"], "--test-log 'log.jsonl'"),
    ],
)
@pytest.mark.parametrize("as_job", [False, True])
def test_relative_results_on_a_cluster(
    arguments: list[str],
    named: str,
    as_job: bool,
    world: Path,
    answer: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if as_job:
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")

    sentence = answer(arguments if as_job else [*arguments, "--address", "127.0.0.1:9"], 2)

    check_words(sentence, (named, "is relative", "name s3:// or an absolute path"))
