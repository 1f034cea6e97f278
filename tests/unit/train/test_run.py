"""What is refused before the first step, and how long a run is."""

import json

import pytest
import safetensors.torch
import timm
import torch
from torch import nn

from foodseg import storage
from foodseg.checkpoint.checkpoint import load_checkpoint
from foodseg.checkpoint.run_layout import checkpoint_uri
from foodseg.config import ExperimentConfig, parse_config
from foodseg.data.reader import RowReader
from foodseg.data.shards import read_manifest
from foodseg.data.training_rows import held_out_rows
from foodseg.demo.synthetic import SYNTHETIC_CLASSES
from foodseg.errors import UserError
from foodseg.train import ray_trainer
from foodseg.train import run as run_module
from foodseg.train.context import LocalContext
from foodseg.train.loop import Trainer, train
from foodseg.train.results import TrainingResult
from foodseg.train.run import prepare_run, text_of_run, with_absolute_uris
from tests.support.gloo_rank import prepared
from tests.support.hub_server import HubServer
from tests.support.synthetic_set import synthetic_config, write_synthetic, write_table


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return write_synthetic(tmp_path_factory.mktemp("data"), val=2)


@pytest.mark.parametrize(
    ("epochs", "batch", "steps"), [(1, 4, 3), (2.5, 4, 7), (1, 5, 2), (0.5, 6, 1), (3, 12, 3), (100, 1, 1200)]
)
def test_epochs_to_steps(data, tmp_path, epochs, batch, steps):
    config = synthetic_config(data, tmp_path / "r", f"train.epochs={epochs}", f"train.global_batch={batch}")
    assert prepare_run(config, resume=False).total_steps == steps


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["train.epochs=0.2"], "train.epochs = 0.2 of 12 images is less than one update of 4"),
        (["data.train_splits=[training]"], r"has no split 'training'; it has train \(12\), val \(2\)"),
        (["data.val_split=dev"], r"no split 'dev', which data.val_split names; it has train \(12\).*val_split=null"),
        (["data.uri=/nowhere"], "no prepared data set at /nowhere"),
        (["model.backbone=resnet19"], "timm has no model 'resnet19'"),
        (["model.weights=/nowhere.safetensors"], "/nowhere.safetensors"),
        (
            ["model.backbone=test_vit_relpos", "model.strides=[16]"],
            r"model.backbone 'test_vit_relpos' does not take crops of augment.crop = 64 pixels \(.*160.*\): choose",
        ),
        (["train.mlflow_uri=gopher://nowhere"], "train.mlflow_uri gopher://nowhere: MLflow refuses it"),
        (["train.mlflow_uri=http://127.0.0.1:1"], "train.mlflow_uri http://127.0.0.1:1: no server answers there"),
        (["scaling.use_gpu=true"], "scaling.use_gpu is true and scaling.num_workers is 0, but torch finds no GPU here"),
    ],
)
def test_refusals(data, tmp_path, settings, expected, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match=expected):
        prepare_run(synthetic_config(data, tmp_path / "r", *settings), resume=False)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("batch", [13, 40])
def test_fewer_images_than_an_update_takes_are_taken_several_times(data, tmp_path, batch, caplog):
    with caplog.at_level("WARNING", "foodseg"):
        run = prepare_run(synthetic_config(data, tmp_path / "r", f"train.global_batch={batch}"), resume=False)
    assert f"an epoch of ['train'] has 12 images, fewer than train.global_batch = {batch}" in caplog.text
    epochs, rows = run.order.rows(0, 3 * batch)
    assert epochs.tolist() == [position // 12 for position in range(3 * batch)]
    assert sorted(rows[:12].tolist()) == sorted(rows[12:24].tolist()) == list(range(12))


def test_a_gpu_of_a_mac_trains_in_one_process_without_what_it_lacks(data, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    prepare_run(synthetic_config(data, tmp_path / "r", "scaling.use_gpu=true"), resume=False)
    for setting in ("train.precision=fp16", "train.batch_norm=sync"):
        with pytest.raises(UserError, match="need CUDA, and the GPU of this machine is of the kind mps"):
            prepare_run(synthetic_config(data, tmp_path / "s", "scaling.use_gpu=true", setting), resume=False)


def test_several_workers_on_the_gpu_of_a_mac_are_refused_before_ray_starts(data, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(ray_trainer, "ray_session", None)
    for mps, expected in ((True, r"mps, which several workers cannot share.*num_workers=0"), (False, "finds no GPU")):
        monkeypatch.setattr("torch.backends.mps.is_available", lambda mps=mps: mps)
        with pytest.raises(UserError, match=expected):
            ray_trainer.run_training(
                synthetic_config(data, tmp_path / "r", "scaling.use_gpu=true", "scaling.num_workers=2")
            )
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("val", [0, 1])
def test_a_val_without_labels_is_refused_before_training(tmp_path, val):
    uri = write_synthetic(tmp_path / "d", train=4, val=val, test=1)  # the last image of a split is unlabelled
    with pytest.raises(UserError, match=r"data.val_split 'val' holds no labelled pixel; set data.val_split=null"):
        prepare_run(synthetic_config(uri, tmp_path / "r"), resume=False)
    prepare_run(synthetic_config(uri, tmp_path / "r", "data.val_split=null"), resume=False)


def test_a_train_without_labels_is_refused(tmp_path):
    uri = write_synthetic(tmp_path / "d", train=1, val=2, test=1)
    with pytest.raises(UserError, match=r"hold no labelled pixel: nothing can be learned"):
        prepare_run(synthetic_config(uri, tmp_path / "r", "train.global_batch=1"), resume=False)


def without_food(tree: dict) -> None:
    counts = tree["counts"]["train"]
    counts["class_pixels"] = [sum(counts["class_pixels"]), *(0 for _ in counts["class_pixels"][1:])]


def without_val(tree: dict) -> None:
    del tree["counts"]["val"]
    tree["shards"] = [shard for shard in tree["shards"] if shard["split"] != "val"]


@pytest.mark.parametrize(
    ("change", "settings", "expected"),
    [
        (without_food, [], r"\['train'\] hold no pixel of a food, only background: nothing can be learned; look at"),
        (without_food, ["data.val_split=null"], "only background: nothing can be learned"),
        (without_val, [], r"has no split 'val', which data.val_split names; it has train \(4\), .*data.val_split=null"),
    ],
)
def test_sets_that_an_older_version_has_prepared(tmp_path, change, settings, expected):
    """Today `data prepare` refuses to make the first of them."""
    uri = write_synthetic(tmp_path / "d", train=4)
    tree = json.loads((tmp_path / "d" / "dataset.json").read_text())
    change(tree)
    (tmp_path / "d" / "dataset.json").write_text(json.dumps(tree))
    with pytest.raises(UserError, match=expected):
        prepare_run(synthetic_config(uri, tmp_path / "r", *settings), resume=False)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_one_image_without_validation_trains(tmp_path, batch):
    uri = write_synthetic(tmp_path / "d", train=1, val=0, test=0, unlabelled=False)
    settings = ["data.val_split=null", "train.steps=2", f"train.global_batch={batch}"]
    run, context = prepared(synthetic_config(uri, tmp_path / "r", *settings))
    assert train(run.config, run.manifest, run.total_steps, context) == TrainingResult(
        2, False, None, run.config.run.uri
    )


def test_resuming_needs_no_weights_file(data, tmp_path, monkeypatch):
    wanted = []
    build = lambda model, classes, pretrained=True, **rest: wanted.append(pretrained) or nn.Identity()  # noqa: E731
    monkeypatch.setattr(run_module, "build_model", build)
    prepare_run(synthetic_config(data, tmp_path / "r"), resume=False)
    prepare_run(synthetic_config(data, tmp_path / "r"), resume=True)
    uri = checkpoint_uri(str(tmp_path / "r"), 2)
    storage.write_text(storage.join(uri, "manifest.json"), "{}")
    prepare_run(synthetic_config(data, tmp_path / "r"), resume=True)  # torn, so the run starts again
    monkeypatch.setattr(run_module, "newest_checkpoint", lambda run_uri: uri)
    prepare_run(synthetic_config(data, tmp_path / "r"), resume=True)
    assert wanted == [True, True, True, False]


def test_the_names_are_embedded_once(data, tmp_path):
    """The run directory holds their embeddings; resuming does not need the table."""
    table = write_table(tmp_path / "t.safetensors")
    text = ("model.fusion=cross_attention", f"model.text={{kind: table, table: {table}}}")
    config = synthetic_config(data, tmp_path / "r", *text)
    made = text_of_run(config, SYNTHETIC_CLASSES)
    prepare_run(config, resume=False)
    (tmp_path / "t.safetensors").unlink()
    prepare_run(config, resume=True)
    kept = text_of_run(config, SYNTHETIC_CLASSES)
    assert torch.equal(kept.embeddings, made.embeddings) and (tmp_path / "r" / "text.safetensors").exists()
    assert text_of_run(synthetic_config(data, tmp_path / "r"), SYNTHETIC_CLASSES) is None
    with pytest.raises(UserError, match=r"t\.safetensors: no such file"):
        prepare_run(synthetic_config(data, tmp_path / "q", *text), resume=False)
    assert not (tmp_path / "q").exists()


def test_the_truth_chooses_no_checkpoint(data, tmp_path):
    config = synthetic_config(
        data, tmp_path / "r", "model.ingredient_head=true", "loss.ingredients=0.1",
        "eval.ingredients=provided", "eval.restrict=hard",
    )  # fmt: skip
    with pytest.raises(UserError, match=r"eval.ingredients = provided is for `evaluate` and `predict`"):
        prepare_run(config, resume=False)


def test_relative_paths_are_resolved_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = with_absolute_uris(synthetic_config("d", "r", "model.weights=w.safetensors"))
    assert (config.data.uri, config.run.uri, config.model.weights) == tuple(
        str(tmp_path / name) for name in ("d", "r", "w.safetensors")
    )
    still = ("augment.crop=64", "augment.longest_side=64", "augment.scale=[1, 1]", "augment.contrast=[1, 1]",
             "augment.brightness=0", "eval.longest_side=64")  # fmt: skip
    tiny = ("model.kind=diffusion", "model.backbone=tiny", "model.strides=[8, 16, 32, 64]", "train.latent_cache=l")
    assert with_absolute_uris(synthetic_config("d", "r", *still, *tiny)).train.latent_cache == str(tmp_path / "l")
    text = "model.text={kind: table, table: t.safetensors}"
    config = with_absolute_uris(synthetic_config("d", "r", "model.fusion=cross_attention", text))
    assert config.model.text.table == str(tmp_path / "t.safetensors")
    config = with_absolute_uris(synthetic_config("s3://b/d", "r", "model.weights=timm"))
    assert (config.data.uri, config.model.weights) == ("s3://b/d", "timm")
    config = with_absolute_uris(synthetic_config("d", "r", "data.uris=[{uri: a, weight: 2}, {uri: s3://b/d}]"))
    assert [(entry.uri, entry.weight) for entry in config.data.uris] == [(str(tmp_path / "a"), 2), ("s3://b/d", 1)]
    assert config.data.uri == ""


def test_several_data_sets(data, tmp_path, monkeypatch):
    other = write_synthetic(tmp_path / "other", train=4, val=1, test=1)
    monkeypatch.chdir(tmp_path)
    several = f"data.uris=[{{uri: {data}}}, {{uri: other, weight: 3}}]"
    run = prepare_run(synthetic_config("", tmp_path / "r", several, "train.epochs=1"), resume=False)
    assert (len(run.reader), run.order.epoch_length, run.total_steps) == (16, 24, 6)
    assert len(run.manifest.members) == 2
    prepare_run(synthetic_config("", tmp_path / "r", several, "train.epochs=1"), resume=True)
    with pytest.raises(UserError, match=r"data.uris was \[.*\"weight\": 3.0}\], now \[.*\"weight\": 2.0}\]"):
        prepare_run(
            synthetic_config("", tmp_path / "r", several.replace("weight: 3", "weight: 2"), "train.epochs=1"),
            resume=True,
        )
    with pytest.raises(
        UserError, match=r"data set 'synthetic\+synthetic#2' has no split 'dev', .*; it has train \(16\), val \(3\)"
    ):
        prepare_run(synthetic_config("", tmp_path / "x", several, "data.val_split=dev"), resume=False)
    assert other == str(tmp_path / "other")


# --- weights of the backbone ---


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that has weights for the backbone of `synthetic_config`, and an empty cache."""
    folder = tmp_path / "hub" / "timm" / "test_efficientnet.r160_in1k"
    folder.mkdir(parents=True)
    torch.manual_seed(7)
    safetensors.torch.save_file(timm.create_model("test_efficientnet").state_dict(), folder / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with HubServer(tmp_path / "hub") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


def test_published_weights_are_the_default():
    assert ExperimentConfig().model.weights == "timm"
    assert parse_config({"model": {"kind": "diffusion", "backbone": "tiny"}}).model.weights == "none"
    assert parse_config({"model": {"weights": None}}).model.weights == "none"  # as configurations were written before


def test_a_hub_out_of_reach_ends_a_run_before_it_begins(data, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    config = synthetic_config(data, tmp_path / "r", "model.weights=timm")
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:9 is not reachable .* or set model\.weights=none"):
        prepare_run(config, resume=False)
    assert not (tmp_path / "r").exists()


def test_workers_ask_neither_the_hub_nor_for_the_file(data, tmp_path, hub, monkeypatch):
    """They may run where the hub, the cache or the file of the machine that began the run is not there."""
    config = synthetic_config(data, tmp_path / "r", "model.weights=timm", "train.steps=1")
    run = prepare_run(config, resume=False)
    asked = len(hub.requests)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no-cache"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    again = prepare_run(config, resume=True)  # killed before its first checkpoint
    with LocalContext(again.config, again.manifest, again.reader, again.order) as context:
        trainer = Trainer(again.config, again.manifest, again.total_steps, context)
    published = safetensors.torch.load_file(next((tmp_path / "hub").rglob("model.safetensors")))
    own = trainer.student.backbone.backbone.state_dict()
    assert all(torch.equal(own[name], published[name]) for name in own) and len(hub.requests) == asked
    random = synthetic_config(data, tmp_path / "q", "train.steps=1")
    run = prepare_run(random, resume=False)
    with LocalContext(run.config, run.manifest, run.reader, run.order) as context:
        other = Trainer(run.config, run.manifest, run.total_steps, context)
    assert torch.equal(other.student.classifier.weight, trainer.student.classifier.weight)
    assert not (tmp_path / "q" / "backbone.safetensors").exists()


def test_random_weights_are_said(data, tmp_path, caplog):
    prepare_run(synthetic_config(data, tmp_path / "r"), resume=False)
    assert "model.weights is none: the backbone starts from random weights, so expect low scores" in caplog.text


def test_another_normalisation_than_that_of_the_weights_is_said(data, tmp_path, hub, caplog):
    prepare_run(synthetic_config(data, tmp_path / "r", "model.weights=timm"), resume=False)
    assert "were trained with model.mean = [0.485, 0.456, 0.406]" in caplog.text and "[0.5, 0.5, 0.5]" in caplog.text
    caplog.clear()
    same = ("model.mean=[0.485, 0.456, 0.406]", "model.std=[0.229, 0.224, 0.225]")
    prepare_run(synthetic_config(data, tmp_path / "q", "model.weights=timm", *same), resume=False)
    assert "were trained with" not in caplog.text


def test_what_is_held_out_counts_nowhere(data, tmp_path, caplog):
    caplog.set_level("INFO", logger="foodseg")
    reader = RowReader(data, read_manifest(data), ["train"])
    rows = reader.columns(["ingredients", "mask"]).to_pylist()
    for fold in (0, 1):
        caplog.clear()
        settings = ["data.folds=2", f"data.held_out={fold}", "data.val_split=null", "train.epochs=1"]
        run, context = prepared(synthetic_config(data, tmp_path / f"r{fold}", *settings))
        train(run.config, run.manifest, run.total_steps, context)
        held_out = held_out_rows(reader, run.config.data).tolist()
        kept = [row for number, row in enumerate(rows) if number not in held_out]
        assert (len(kept), run.total_steps) == (6, 1), "an epoch of them"
        trained = load_checkpoint(checkpoint_uri(str(tmp_path / f"r{fold}"), 1))
        assert set(trained.trained_ids) == {0}.union(*(row["ingredients"] for row in kept))
        assert any(message.startswith("training on 6 images") for message in caplog.messages)
        idle = any("of the training images have no mask" in message for message in caplog.messages)
        assert idle == any(row["mask"] is None for row in kept)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["data.folds=2"], "data.folds has no effect without data.held_out: give both, or neither"),
        (["data.held_out=0"], "data.held_out has no effect without data.folds"),
        (
            ["data.folds=2", "data.held_out=2"],
            "data.held_out must be one of the folds 0 to 1 of data.folds, or a list .*, found 2",
        ),
        (["data.folds=13", "data.held_out=0"], "form 12 groups of near-duplicates, too few for 13 folds"),
    ],
)
def test_folds_that_are_refused(data, tmp_path, settings, expected):
    with pytest.raises(UserError, match=expected):
        prepare_run(synthetic_config(data, tmp_path / "r", *settings), resume=False)
