"""An open-vocabulary model in the loop: the same sums however the images are cut up, resumed, saved and asked."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import foodseg
from foodseg.checkpoint.checkpoint import load_checkpoint, load_model
from foodseg.checkpoint.find import newest_checkpoint
from foodseg.config import ExperimentConfig, load_config
from foodseg.data.shards import read_manifest, write_manifest
from foodseg.errors import UserError
from foodseg.models.open_vocabulary import OpenVocabularyNetwork
from foodseg.train.loop import Trainer
from foodseg.train.moments import MomentsTask
from tests.support.compare import assert_close
from tests.support.gloo_rank import prepared
from tests.support.synthetic_set import synthetic_config, write_synthetic, write_table

pytestmark = pytest.mark.usefixtures("one_thread")
SUMS = ("sums", "counts", "food", "background")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_table(tmp_path_factory.mktemp("table") / "names.safetensors")


def config_of(data: str, run: Path, table: str, *settings: str) -> ExperimentConfig:
    return synthetic_config(
        data, run, "model={kind: open_vocabulary, backbone: test_vit, weights: none, text: {kind: table, table: "
        f"{table}}}}}", "train.ema_horizon=0", "eval.weights=student", "augment.crop=96", *settings,
    )  # fmt: skip


def trained(config: ExperimentConfig, resume: bool = False) -> OpenVocabularyNetwork:
    run, context = prepared(config, resume)
    trainer = Trainer(run.config, run.manifest, run.total_steps, context)
    trainer.run()
    assert isinstance(trainer.student, OpenVocabularyNetwork)
    return trainer.student


def assert_same_sums(one: OpenVocabularyNetwork, other: OpenVocabularyNetwork) -> None:
    assert one.counts.sum() > 5
    for name in SUMS:
        assert_close(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("micro_batch", [1, 2])
def test_accumulated(data: str, table: str, tmp_path: Path, micro_batch: int) -> None:
    whole = trained(config_of(data, tmp_path / "whole", table, "train.steps=2"))
    cut = trained(config_of(data, tmp_path / "cut", table, "train.steps=2", f"train.micro_batch={micro_batch}"))
    assert_same_sums(cut, whole)


def test_two_ranks(data: str, table: str, tmp_path: Path) -> None:
    """Each adds what both have; here one after the other, each with what the other one said."""
    run, context = prepared(config_of(data, tmp_path / "r", table, "train.steps=1"))
    whole = Trainer(run.config, run.manifest, 1, context)
    (batch,) = context.batches(0, 1)
    whole._update([batch])
    halves = [
        dataclasses.replace(batch, **{name: value[part] for name, value in _tensors(batch).items()})
        for part in (slice(0, 1), slice(1, 4))
    ]
    said: list[torch.Tensor] = []
    network = _unfitted(whole)
    task = MomentsTask(run.config, run.manifest.class_table, run.manifest.annotated, network)
    for half in halves:

        class Rank:
            device = torch.device("cpu")

            @staticmethod
            def all_reduce(tensor: torch.Tensor) -> torch.Tensor:
                said.append(tensor.clone())
                return tensor

        task.add([half], Rank())  # type: ignore[arg-type]
    assert isinstance(whole.student, OpenVocabularyNetwork)
    assert_same_sums(network, whole.student)
    assert float(said[1] + said[3]) == 4 and len(said[0]) == sum(getattr(network, name).numel() for name in SUMS)


def _tensors(batch: object) -> dict[str, torch.Tensor]:
    return {name: value for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}


def _unfitted(trainer: Trainer) -> OpenVocabularyNetwork:
    network = trainer.student
    assert isinstance(network, OpenVocabularyNetwork)
    fresh = OpenVocabularyNetwork(network.backbone, network.text_table, (0.5,) * 3, (0.5,) * 3)
    fresh.mean.copy_(network.mean), fresh.std.copy_(network.std)
    return fresh


def test_it_resumes_with_the_sums_of_its_checkpoint(data: str, table: str, tmp_path: Path) -> None:
    settings = ("train.steps=4", "train.checkpoint_every=2")
    whole = trained(config_of(data, tmp_path / "whole", table, *settings))
    run, context = prepared(config_of(data, tmp_path / "killed", table, *settings))
    trainer = Trainer(run.config, run.manifest, run.total_steps, context)
    asked = iter([False, False, True])
    context.stop_requested = lambda: next(asked)  # type: ignore[method-assign]
    assert trainer.run().stopped
    resumed = trained(config_of(data, tmp_path / "killed", table, *settings), resume=True)
    for name in SUMS:
        assert torch.equal(getattr(resumed, name), getattr(whole, name))


def test_background_of_a_source_that_does_not_annotate_all_is_not_known(table: str, tmp_path: Path) -> None:
    data = write_synthetic(tmp_path / "data", unlabelled=False)
    whole = trained(config_of(data, tmp_path / "whole", table, "train.steps=1", "data.val_split=null"))
    write_manifest(data, read_manifest(data).model_copy(update={"annotated": {"synthetic": (0, 1, 2, 3)}}))
    part = trained(config_of(data, tmp_path / "part", table, "train.steps=1", "data.val_split=null"))
    assert whole.counts[0] > 0 and part.counts[0] == 0
    assert torch.equal(part.counts[1:], whole.counts[1:])


def test_one_epoch_is_saved_loaded_and_asked_for_other_names(
    data: str, table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "r"
    network = trained(config_of(data, run, table, "train.steps=null", "train.epochs=1", "train.validate_every=1"))
    checkpoint = load_checkpoint(newest_checkpoint(str(run)) or "")
    assert checkpoint.step == 3 and checkpoint.teacher is None and checkpoint.history[-1].miou > 0
    loaded = load_model(checkpoint, "student")
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(loaded(image).logits, network.eval()(image).logits)

    model = foodseg.load(str(run), device="cpu")
    pixels = np.full((90, 60, 3), 200, np.uint8)
    assert model.predict(pixels).ids.shape == (90, 60)
    with pytest.raises(UserError, match="the class embeddings of this model are unknown: no encoder says"):
        model.with_names("kimchi")
    monkeypatch.setattr(
        "foodseg.predict.other_names.embed_words", lambda table, config, words: torch.ones(len(words), 16)
    )
    named = model.with_names("kimchi, carrot|carrots")
    assert named.classes == ("background", "kimchi", "carrot") and named.renamed and not model.renamed
    found = named.predict(pixels)
    assert found.ids.max() <= 2 and not found.calibrated
    assert named.with_names("rice").classes == ("background", "rice") and len(model.classes) > 3
    with pytest.raises(UserError, match="evaluate scores the classes that a model was trained on"):
        foodseg.evaluate(named, data)


def test_a_model_with_classes_takes_no_other_names(data: str, tmp_path: Path) -> None:
    run, context = prepared(synthetic_config(data, tmp_path / "r", "train.steps=1"))
    Trainer(run.config, run.manifest, 1, context).run()
    with pytest.raises(UserError, match="classes that it was trained on alone: other names need one of"):
        foodseg.load(str(tmp_path / "r"), device="cpu").with_names("kimchi")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["model.text={kind: none}"], "model.kind = open_vocabulary needs model.text.kind: table or open_clip"),
        (["model.dropout=0.5"], "model.dropout is not used by model.kind = open_vocabulary"),
        (["model.vit.trained=full"], "model.vit.trained must be frozen with model.kind = open_vocabulary"),
        (["model.vit.backbone=vit_small_patch14_dinov2"], "model.vit.backbone is used by model.kind = timm alone"),
        (["loss.dice=1"], "loss and distill are not used by model.kind = open_vocabulary"),
        (["train.ema_horizon=0.1"], "train.ema_horizon must be 0 with model.kind = open_vocabulary"),
    ],
)
def test_settings_that_do_not_fit(settings: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_config("jobs/configs/open_vocabulary.yaml", settings)


def test_an_encoder_that_is_no_plain_vit(data: str, table: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'test_efficientnet' is not a plain ViT"):
        trained(config_of(data, tmp_path / "r", table, "model.backbone=test_efficientnet"))


def test_defaults_of_the_kind() -> None:
    config = load_config("jobs/configs/open_vocabulary.yaml").config
    assert (config.train.epochs, config.train.steps, config.train.ema_horizon) == (1, None, 0)
    assert config.eval.weights == "student" and config.model.mean == (0.485, 0.456, 0.406)
