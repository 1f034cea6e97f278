"""Checkpoint directories: exact round trips, and every way of being torn."""

import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch

from foodseg import storage
from foodseg.checkpoint.checkpoint import (
    Calibration,
    Checkpoint,
    calibration_of,
    load_checkpoint,
    load_model,
    save_checkpoint,
)
from foodseg.checkpoint.find import newest_checkpoint, resolve_checkpoint
from foodseg.checkpoint.history import Validation
from foodseg.checkpoint.node_copy import verify_checkpoint
from foodseg.checkpoint.run_layout import checkpoint_uri
from foodseg.demo.synthetic import SYNTHETIC_CLASSES
from foodseg.errors import UserError
from foodseg.models.build import build_segmenter
from foodseg.models.text.class_embeddings import TextTable, read_table
from tests.support.compare import assert_close
from tests.support.synthetic_set import synthetic_config

FILES = [
    "model.safetensors",
    "teacher.safetensors",
    "trainer.pt",
    "config.json",
    "classes.tsv",
    "history.jsonl",
    "calibration.json",
    "manifest.json",
]


def make(step: int = 3, teacher: bool = True) -> Checkpoint:
    config = synthetic_config("data", "run")
    model = build_segmenter(config.model, len(SYNTHETIC_CLASSES)).to(memory_format=torch.channels_last)
    other = build_segmenter(config.model, len(SYNTHETIC_CLASSES))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.rand(2, 3, 32, 32)).logits.sum().backward()
    optimizer.step()
    return Checkpoint(
        step=step,
        config=config,
        classes=SYNTHETIC_CLASSES,
        data="synthetic@v1-0123456789ab",
        trained_ids=(0, 2, 5),
        class_pixels=(900, 0, 7, 0, 0, 2**40),
        student=model.state_dict(),
        teacher=other.state_dict() if teacher else None,
        trainer={"optimizer": optimizer.state_dict(), "total_steps": 10},
        history=[Validation(2, 0.1, 0.5, 0.4, 0.1), Validation(3, 1 / 3, 0.6, 0.5, 0.2, 1 / 3)],
        calibration=Calibration(1.37, 0.9, 0.8, 4096, "val", step, config.eval.model_dump(mode="json")),
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[Checkpoint, dict[str, bytes]]:
    """A checkpoint and its files, to be spoiled by copies."""
    folder = tmp_path_factory.mktemp("checkpoint")
    checkpoint = make()
    save_checkpoint(str(folder), checkpoint)
    return checkpoint, {path.name: path.read_bytes() for path in folder.iterdir()}


def put(folder: Path, files: dict[str, bytes]) -> str:
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return str(folder)


def assert_same(found, expected) -> None:
    """Equal to the last bit, tensors at any depth."""
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype and torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected


def test_round_trip_is_exact(saved, tmp_path):
    checkpoint, files = saved
    assert sorted(files) == sorted(FILES)
    assert not checkpoint.student["decoder.upsample.0.0.0.weight"].is_contiguous()  # channels_last
    loaded = load_checkpoint(put(tmp_path / "c", files), with_trainer=True)
    assert_same(loaded.student, checkpoint.student)
    assert_same(loaded.teacher, checkpoint.teacher)
    assert_same(loaded.trainer, checkpoint.trainer)
    for name in ("step", "config", "classes", "data", "trained_ids", "class_pixels", "history", "calibration"):
        assert getattr(loaded, name) == getattr(checkpoint, name)


@pytest.mark.parametrize("fusion", ["score_map", "cross_attention", "film"])
def test_a_model_with_text_is_rebuilt_from_its_checkpoint_alone(tmp_path, fusion):
    head = ["model.ingredient_head=true", "loss.ingredients=0.1"] if fusion == "film" else []
    weight = ["loss.score_map=0.4"] if fusion == "score_map" else []
    table = "model.text={kind: table, table: /nowhere/t.safetensors}"
    config = synthetic_config("data", "run", f"model.fusion={fusion}", table, *head, *weight)
    text = TextTable(torch.randn(len(SYNTHETIC_CLASSES), 7), SYNTHETIC_CLASSES.names, "random unit vectors, seed 0")
    model = build_segmenter(config.model, len(SYNTHETIC_CLASSES), text=text.embeddings).eval()
    state = model.state_dict()
    checkpoint = replace(make(), config=config, student=state, teacher=state, text=text)
    save_checkpoint(str(tmp_path / "c"), checkpoint)
    loaded = load_checkpoint(str(tmp_path / "c"))
    assert torch.equal(loaded.text.embeddings, text.embeddings) and loaded.text.made_by == text.made_by
    assert read_table(str(tmp_path / "c" / "text.safetensors"), SYNTHETIC_CLASSES).names == SYNTHETIC_CLASSES.names
    image, names = torch.rand(1, 3, 64, 64), torch.zeros(1, len(SYNTHETIC_CLASSES), dtype=torch.bool)
    names[:, 2] = True
    for weights in ("student", "ema"):
        found = load_model(loaded, weights)(image, ingredients=names)
        assert_close(found.logits, model(image, ingredients=names).logits)
    (tmp_path / "c" / "text.safetensors").write_bytes(b"other")
    with pytest.raises(UserError, match=r"torn: text\.safetensors has 5 bytes"):
        load_checkpoint(str(tmp_path / "c"))


def test_without_trainer_its_file_is_not_needed(saved, tmp_path):
    _, files = saved
    uri = put(tmp_path / "c", {name: data for name, data in files.items() if name != "trainer.pt"})
    assert load_checkpoint(uri).trainer is None
    with pytest.raises(UserError, match=r"torn: trainer\.pt is missing"):
        load_checkpoint(uri, with_trainer=True)


def test_the_manifest_is_written_last(saved, tmp_path, monkeypatch):
    def full_disk(uri, tree):
        raise UserError("no space left")

    monkeypatch.setattr(storage, "write_json", full_disk)
    with pytest.raises(UserError):
        save_checkpoint(str(tmp_path / "c"), saved[0])
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == sorted(set(FILES) - {"manifest.json"})


def spoil(data: bytes, how: str) -> bytes | None:
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    half = data[: len(data) // 2]
    return {"missing": None, "empty": b"", "truncated": half, "longer": data + b" ", "altered": bytes(flipped)}[how]


# the manifest has no sum of its own: it is written in one go
WAYS = ["missing", "empty", "truncated", "longer", "altered"]
TORN = [(name, how) for name in FILES for how in (WAYS[:3] if name == "manifest.json" else WAYS)]


@pytest.mark.parametrize(("name", "how"), TORN)
def test_torn(saved, tmp_path, name, how):
    files = {**saved[1], name: spoil(saved[1][name], how)}
    uri = put(tmp_path / "step-3", {key: data for key, data in files.items() if data is not None})
    for read in (verify_checkpoint, lambda uri: load_checkpoint(uri, with_trainer=True)):
        with pytest.raises(UserError) as error:
            read(uri)
        assert uri in str(error.value) and name in str(error.value) and "torn" in str(error.value)


@pytest.mark.parametrize(
    "text",
    ["[]", "{}", "3", '{"format_version": 2, "files": {}}', '{"format_version": 2, "files": {"config.json": 3}}'],
)
def test_damaged_manifest(saved, tmp_path, text):
    uri = put(tmp_path / "c", {**saved[1], "manifest.json": text.encode()})
    with pytest.raises(UserError, match=r"torn: manifest\.json is damaged"):
        verify_checkpoint(uri)


def test_a_newer_format_is_refused(saved, tmp_path):
    manifest = {**json.loads(saved[1]["manifest.json"]), "format_version": 9}
    uri = put(tmp_path / "c", {**saved[1], "manifest.json": json.dumps(manifest).encode()})
    with pytest.raises(UserError, match=r"format 9, this foodseg reads 2"):
        load_checkpoint(uri)


def test_the_newest_that_verifies(saved, tmp_path, caplog):
    run = str(tmp_path)
    assert newest_checkpoint(run) is None
    for step in (3, 20, 100):
        put(Path(checkpoint_uri(run, step)), saved[1])
    assert newest_checkpoint(run) == checkpoint_uri(run, 100)
    Path(checkpoint_uri(run, 100), "trainer.pt").unlink()
    with caplog.at_level(logging.WARNING):
        assert newest_checkpoint(run) == checkpoint_uri(run, 20)
    assert "step-00000100 is torn: trainer.pt is missing; the checkpoint before it is used" in caplog.text
    Path(checkpoint_uri(run, 20), "manifest.json").write_text("{")
    Path(checkpoint_uri(run, 3), "classes.tsv").write_text("0\tx\n")
    assert newest_checkpoint(run) is None


def test_only_a_torn_one_is_passed_over(saved, tmp_path):
    run = str(tmp_path)
    for step in (3, 20):
        put(Path(checkpoint_uri(run, step)), saved[1])
    newer = {"format_version": 9, "files": "another way"}
    Path(checkpoint_uri(run, 20), "manifest.json").write_text(json.dumps(newer))
    with pytest.raises(UserError, match=r"step-00000020 has format 9, this foodseg reads 2: update foodseg"):
        newest_checkpoint(run)
    Path(checkpoint_uri(run, 20), "manifest.json").write_bytes(b"\xff")
    assert newest_checkpoint(run) == checkpoint_uri(run, 3)


def test_a_file_that_may_not_be_read_is_not_a_torn_checkpoint(saved, tmp_path, monkeypatch):
    put(Path(checkpoint_uri(str(tmp_path), 3)), saved[1])

    def refuse(uri):
        raise UserError(f"cannot read {uri}: not allowed")

    monkeypatch.setattr(storage, "read_bytes", refuse)
    with pytest.raises(UserError, match="not allowed"):
        newest_checkpoint(str(tmp_path))


def test_resolve(saved, tmp_path):
    run = str(tmp_path / "run")
    with pytest.raises(UserError, match=r"neither a checkpoint .* nor a run"):
        resolve_checkpoint(run)
    for step in (3, 20):
        put(Path(checkpoint_uri(run, step)), saved[1])
    assert resolve_checkpoint(checkpoint_uri(run, 3)) == checkpoint_uri(run, 3)
    assert resolve_checkpoint(f"file://{run}") == checkpoint_uri(run, 20)
    Path(run, "best.json").write_text('{"step": 3, "checkpoint": "checkpoints/step-00000003"}')
    assert resolve_checkpoint(run) == checkpoint_uri(run, 3)


@pytest.mark.parametrize("weights", ["student", "ema"])
def test_load_model_needs_no_download(saved, weights, monkeypatch):
    checkpoint = saved[0]
    config = checkpoint.config.model_copy(
        update={"model": checkpoint.config.model.model_copy(update={"weights": "/nowhere.safetensors"})}
    )
    plain = timm.create_model

    def refuse(*args, **kwargs):
        assert not kwargs.get("pretrained")
        return plain(*args, **kwargs)

    monkeypatch.setattr(timm, "create_model", refuse)
    loaded = Checkpoint(**{**checkpoint.__dict__, "config": config})
    model = load_model(loaded, weights)
    assert not model.training
    assert_same(dict(model.state_dict()), dict(checkpoint.student if weights == "student" else checkpoint.teacher))


def test_no_average_was_kept(saved):
    with pytest.raises(UserError, match=r"train\.ema_horizon was 0\): set eval\.weights=student"):
        load_model(Checkpoint(**{**saved[0].__dict__, "teacher": None}), "ema")


def test_a_checkpoint_without_average(tmp_path):
    checkpoint = make(teacher=False)
    save_checkpoint(str(tmp_path / "c"), checkpoint)
    assert load_checkpoint(str(tmp_path / "c")).teacher is None


def test_a_temperature_is_that_of_its_settings(saved, tmp_path):
    checkpoint = saved[0]
    settings = checkpoint.config.eval
    assert calibration_of(checkpoint, settings) == checkpoint.calibration
    for change in ({"weights": "student"}, {"longest_side": 64}, {"flip": True}, {"window": 32}):
        assert calibration_of(checkpoint, settings.model_copy(update=change)) is None
    save_checkpoint(str(tmp_path / "c"), Checkpoint(**{**checkpoint.__dict__, "calibration": None}))
    loaded = load_checkpoint(str(tmp_path / "c"))
    assert loaded.calibration is None and calibration_of(loaded, settings) is None
    assert "calibration.json" not in [path.name for path in (tmp_path / "c").iterdir()]


# Prints by how much memory grows, as a share of the state of 150 MiB in three files, while it is saved and while it is
# loaded and read to its end: each in a child, whose peak begins with what the parent has imported.
MEMORY = """
import os, resource, sys, torch
from dataclasses import replace
from foodseg.checkpoint.checkpoint import load_checkpoint, save_checkpoint
from tests.unit.checkpoint.test_checkpoint import make

torch.set_num_threads(1)
small, uri = make(), sys.argv[1]
save_checkpoint(uri + "-small", small)
load_checkpoint(uri + "-small", with_trainer=True)

def state():
    return {f"w{i}": torch.rand(1024, 128, 5, 5).to(memory_format=torch.channels_last) for i in range(4)}

def save():
    large = replace(small, student=state(), teacher=state(), trainer={"optimizer": state()})
    return lambda: save_checkpoint(uri, large)

def load():
    def read():
        loaded = load_checkpoint(uri, with_trainer=True)
        kept.extend((loaded.student, loaded.teacher, loaded.trainer["optimizer"]))
        sum(tensor.sum() for part in kept for tensor in part.values())
    kept = []
    return read

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

for prepare in (save, load):
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[1] == 0
        continue
    work = prepare()
    before = peak()
    work()
    print((peak() - before) / (12 * 1024 * 128 * 25 * 4), flush=True)
    os._exit(0)
"""


@pytest.mark.chaos  # a process of its own saves and loads 150 MiB
def test_a_large_checkpoint_is_in_memory_once(tmp_path):
    """Saving takes one set of weights in row-major order on top of the state; what is loaded is there once."""
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "c")]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    saving, loading = map(float, found.split())
    assert saving < 0.6
    assert loading < 1.3


def test_a_plain_vit_of_0_1_0_is_refused(tmp_path):
    old = timm.create_model("test_vit", features_only=True, out_indices=(5,)).state_dict()
    config = synthetic_config("data", "run", "model.backbone=test_vit", "model.strides=[16]")
    student = {f"backbone.backbone.{name}": tensor for name, tensor in old.items()}
    save_checkpoint(str(tmp_path / "c"), replace(make(), config=config, student=student))
    with pytest.raises(UserError, match=r"holds test_vit as foodseg 0\.1\.0 built it, without a feature pyramid"):
        load_checkpoint(str(tmp_path / "c"))
