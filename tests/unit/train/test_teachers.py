"""Which teacher labels which image, what would leak is refused, and the labels reach the training as the teacher's."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from foodseg.checkpoint.checkpoint import load_checkpoint, load_model
from foodseg.checkpoint.find import newest_checkpoint
from foodseg.config.data import DataConfig
from foodseg.data.image_io import decode_image
from foodseg.data.reader import RowReader
from foodseg.data.shards import read_manifest
from foodseg.data.soft_labels import SCHEMA, SoftLabels
from foodseg.data.training_rows import fold_of_rows
from foodseg.errors import UserError
from foodseg.predict.predictor import Predictor
from foodseg.train.loop import Trainer
from foodseg.train.teachers import Teacher, assign_teachers, read_teachers, soft_labels_uri
from tests.support.compare import close
from tests.support.gloo_rank import prepared
from tests.support.synthetic_set import synthetic_config
from tests.support.tiny_checkpoints import write_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")
DISTILLED = ("loss.soft_labels=0.5", "loss.pixel_correlation=0.3", "loss.class_correlation=0.3", "optim.warmup=0")


def a_teacher(name: str, identity: str, **data: object) -> Teacher:
    config = synthetic_config("data", "run")
    given = {"val_split": None, **data}
    return Teacher(name, name, identity, config.model_copy(update={"data": DataConfig(uri="data", **given)}))


def assigned(teachers: list[Teacher], uri: str, **data: object) -> np.ndarray:
    manifest = read_manifest(uri)
    own = DataConfig(uri=uri, **{"val_split": None, **data})
    return assign_teachers(teachers, RowReader(uri, manifest, own.train_splits), own, manifest.identity)


def test_each_image_is_labelled_by_the_teacher_that_held_it_out(data):
    identity = read_manifest(data).identity
    teachers = [a_teacher(str(fold), identity, folds=3, held_out=fold) for fold in (2, 0, 1)]
    found = assigned(teachers, data)
    folds = fold_of_rows(RowReader(data, read_manifest(data), ["train"]), 3)
    assert [(2, 0, 1)[index] for index in found] == folds.tolist()


def test_one_teacher_labels_all_also_what_it_was_trained_on(data):
    assert assigned([a_teacher("a", read_manifest(data).identity)], data).tolist() == [0] * 12
    assert assigned([a_teacher("a", "elsewhere@v1-0"), a_teacher("b", "elsewhere@v1-0")], data).tolist() == [0] * 12


def test_teachers_without_two_folds_teach_a_run_without_one_of_them(data):
    """Of those of a cross-validation by pairs, each run takes the ones that held out what it holds out."""
    identity, folds = read_manifest(data).identity, fold_of_rows(RowReader(data, read_manifest(data), ["train"]), 3)
    pairs = [(0, 1), (1, 2), (0, 2)]
    teachers = [a_teacher(str(pair), identity, folds=3, held_out=pair) for pair in pairs]
    for held_out in range(3):
        found = assigned(teachers, data, folds=3, held_out=held_out)
        assert (found[folds == held_out] == -1).all()
        for row in np.flatnonzero(folds != held_out):
            assert set(pairs[found[row]]) == {held_out, int(folds[row])}


def test_what_would_leak_is_refused(data):
    identity = read_manifest(data).identity
    seen = a_teacher("runs/seen", identity)
    with pytest.raises(UserError, match=r"runs/seen was trained on images of fold 1 of 3, held out here"):
        assigned([seen], data, folds=3, held_out=1)
    with pytest.raises(UserError, match=r"runs/seen was trained on images of 'val', validated on here"):
        teachers = [a_teacher("runs/seen", identity, train_splits=("train", "val"))]
        assigned(teachers, data, val_split="val")
    unseen = a_teacher("runs/unseen", identity, folds=3, held_out=1)
    found = assigned([seen, unseen], data, folds=3, held_out=1)
    assert set(found.tolist()) == {1, -1}


def test_a_teacher_of_other_classes_is_refused(tmp_path):
    uri = write_checkpoint(tmp_path / "teacher", 1)
    classes = load_checkpoint(uri).classes
    read_teachers([uri], classes)
    other = replace(classes, names=(*classes.names[:-1], "durian"))
    with pytest.raises(UserError, match=r"knows other classes than the data set, '.*' where the data has 'durian'"):
        read_teachers([uri], other)
    with pytest.raises(UserError, match=f"another number|{len(classes)} of them"):
        read_teachers([uri], replace(classes, names=classes.names[:-1]))
    with pytest.raises(UserError, match="neither a checkpoint"):
        read_teachers([str(tmp_path / "nothing")], classes)


def test_an_exported_model_is_no_teacher(data, tmp_path):
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(UserError, match=r"is an exported model, .*: name the checkpoint that it was exported from"):
        read_teachers([str(tmp_path)], read_manifest(data).class_table)


def test_other_teachers_or_rows_have_other_labels():
    data, rows = DataConfig(uri="data"), np.array([0, 1])
    one, two = a_teacher("a", "x"), a_teacher("b", "x")
    found = {
        soft_labels_uri("f", [one], rows, data, "x"),
        soft_labels_uri("f", [two], rows, data, "x"),
        soft_labels_uri("f", [one], rows[::-1], data, "x"),
        soft_labels_uri("f", [one], rows, data, "y"),
    }
    assert len(found) == 4 and soft_labels_uri("f", [one], rows, data, "x") in found


def test_labels_are_what_the_teacher_says_of_the_whole_image(data, tmp_path):
    teacher = write_checkpoint(tmp_path / "teacher", 1, "eval.flip=true")
    config = synthetic_config(data, tmp_path / "run", f"distill.teacher={teacher}", *DISTILLED)
    run, _ = prepared(config)
    checkpoint = load_checkpoint(teacher)
    predictor = Predictor(load_model(checkpoint, "student"), checkpoint.config.eval, torch.device("cpu"))
    labels = run.reader.soft_labels.take([3], SCHEMA.names).to_pylist()[0]
    row = run.reader.take([3], ["image_id", "image", "height", "width"]).to_pylist()[0]
    assert labels["image_id"] == row["image_id"]
    found = SoftLabels.from_row(labels)
    image = decode_image(row["image"])
    scores = predictor.logits([image], [image.shape[:2]])[0].values.softmax(0)
    height, width = found.ids.shape[:2]
    assert (height, width) == (round(row["height"] / 4), round(row["width"] / 4)), "96 px fit the model's own size"
    shares = np.zeros(scores[:, :height, :width].shape)
    np.put_along_axis(shares, found.ids.transpose(2, 0, 1).astype(int), found.scores.transpose(2, 0, 1), 0)
    assert np.abs(shares - scores[:, :height, :width].numpy()).max() < 2e-3
    assert np.array_equal(found.ids[..., 0], scores[:, :height, :width].argmax(0).numpy())


def test_labels_are_made_once_for_any_number_of_runs(data, tmp_path, monkeypatch):
    teacher = write_checkpoint(tmp_path / "teacher", 1)
    settings = (f"distill.teacher={teacher}", f"distill.labels={tmp_path / 'labels'}", *DISTILLED)
    prepared(synthetic_config(data, tmp_path / "a", *settings))
    (folder,) = (tmp_path / "labels").iterdir()
    first, rest = sorted(folder.glob("*.parquet"))[0], (folder / "soft_labels.json").read_text()
    before = first.read_bytes()
    prepared(synthetic_config(data, tmp_path / "b", *settings))
    assert [each.name for each in (tmp_path / "labels").iterdir()] == [folder.name]
    # a run that is killed while it labels leaves the shards that are complete
    (folder / "soft_labels.json").unlink()
    sorted(folder.glob("*.parquet"))[1].unlink()
    prepared(synthetic_config(data, tmp_path / "c", *settings))
    assert (folder / "soft_labels.json").read_text() == rest and first.read_bytes() == before


def test_a_resumed_run_with_a_teacher_is_the_undisturbed_one(data, tmp_path):
    teacher = write_checkpoint(tmp_path / "teacher", 1)
    settings = (f"distill.teacher={teacher}", *DISTILLED, "model.dropout=0.2", "train.checkpoint_every=2")

    def trained(uri: Path, steps: int, resume: bool) -> dict[str, torch.Tensor]:
        run, context = prepared(synthetic_config(data, uri, *settings, "train.steps=4"), resume)
        trainer = Trainer(run.config, run.manifest, run.total_steps, context)
        context.stop_requested = lambda: trainer.step >= steps
        trainer.run()
        return load_checkpoint(newest_checkpoint(str(uri))).student

    whole = trained(tmp_path / "whole", 4, False)
    trained(tmp_path / "stopped", 2, False)
    resumed = trained(tmp_path / "stopped", 4, True)
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    lines = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    for line in (line for line in lines if "positions" in line):
        assert line["loss/soft_labels"] > 0 and 0 <= line["loss/gate"] <= 1


def test_what_the_teacher_gets_is_taken_from_the_mask(data, tmp_path):
    teacher = write_checkpoint(tmp_path / "teacher", 1)
    settings = (f"distill.teacher={teacher}", "loss.soft_labels=0.4", "optim.warmup=0", "model.dropout=0")
    run, context = prepared(synthetic_config(data, tmp_path / "r", *settings))
    trainer = Trainer(run.config, run.manifest, run.total_steps, context)
    batch = next(context.batches(0, 1))
    terms = trainer.task.loss(trainer.student, batch, 0)
    counts = trainer.task.counts(batch, 0)
    assert terms.keys() == {"cross_entropy", "soft_labels", "gate"}
    gate = terms["gate"].item() / counts["gate"].item()
    plain = trainer.task.loss(trainer.student, replace(batch, soft_scores=batch.soft_scores * 0), 0)
    assert plain["soft_labels"].item() == 0 and plain["gate"].item() == 0
    assert 0 < gate < 1 and terms["cross_entropy"].item() < plain["cross_entropy"].item()
    assert trainer.task.weights_at(0) == {"cross_entropy": 1.0, "soft_labels": close(0.4), "gate": 0.0}
