"""Plain ViTs and hybrids in the loop: what is trained, averaged, cached, saved, resumed and loaded again."""

import json
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import foodseg
from foodseg.checkpoint.checkpoint import Checkpoint, load_checkpoint, load_model
from foodseg.checkpoint.find import newest_checkpoint
from foodseg.config import ExperimentConfig
from foodseg.errors import UserError
from foodseg.models.backbones.vit import TokenEncoder
from foodseg.train.loop import Trainer
from foodseg.train.run import check_run, prepare_run
from tests.support.compare import close
from tests.support.gloo_rank import prepared
from tests.support.synthetic_set import synthetic_config, write_table

DISTILLED = ("loss.distill=1", "distill.ramp=0", "optim.warmup=0")
ENCODERS = {
    "frozen": ("model.backbone=test_vit",),
    "last": ("model.backbone=test_vit2", "model.vit={trained: last, last_blocks: 2}"),
    "full": ("model.backbone=test_vit", "model.vit.trained=full"),
    "hybrid": ("model.vit={backbone: test_vit4, weights: none}",),
}
FUSIONS = {
    "score_map": ("model.fusion=score_map", "loss.score_map=0.4"),
    "cross_attention": ("model.fusion=cross_attention", "model.fusion_stride=16"),
    "film": ("model.fusion=film", "model.ingredient_head=true", "loss.ingredients=0.2"),
}

pytestmark = pytest.mark.usefixtures("one_thread")


def config_of(data: str, run: object, *settings: str) -> ExperimentConfig:
    return synthetic_config(data, str(run), "data.val_split=null", "train.steps=2", *settings)


def trainer_of(config: ExperimentConfig, resume: bool = False) -> Trainer:
    run, context = prepared(config, resume)
    return Trainer(run.config, run.manifest, run.total_steps, context)


def newest(run: object) -> Checkpoint:
    return load_checkpoint(newest_checkpoint(str(run)) or "")


def same(one: dict[str, torch.Tensor] | None, other: dict[str, torch.Tensor] | None) -> bool:
    assert one is not None and other is not None and one.keys() == other.keys()
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["frozen", "last", "full", "hybrid"])
def test_what_is_frozen_is_neither_trained_nor_averaged_nor_copied(
    data: str, tmp_path: Any, kind: str, precision: str
) -> None:
    settings = (*ENCODERS[kind], *DISTILLED, f"train.precision={precision}", "train.ema_horizon=1")
    trainer = trainer_of(config_of(data, tmp_path / "r", *settings))
    frozen = {name for name, p in trainer.student.named_parameters() if not p.requires_grad}
    assert all(name.startswith("backbone.encoder.vit.") for name in frozen) and bool(frozen) == (kind != "full")
    before = {name: tensor.clone() for name, tensor in trainer.student.state_dict().items()}
    assert trainer.teacher is not None
    own = dict(trainer.teacher.module.named_parameters())
    assert all((own[name] is p) == (name in frozen) for name, p in trainer.student.named_parameters())
    trainer.run()
    after, averaged = trainer.student.state_dict(), trainer.teacher.state_dict()
    assert all(tensor.isfinite().all() for tensor in after.values())
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert not changed & frozen and not averaged.keys() & frozen and changed <= averaged.keys()
    vit = {name for name in changed if name.startswith("backbone.encoder.vit.")}
    assert bool(vit) == (kind in ("last", "full"))
    assert any(name.startswith("backbone.pyramid.") for name in changed)


def test_the_layers_of_the_pyramid_have_the_whole_rate(data: str, tmp_path: Any) -> None:
    trainer = trainer_of(config_of(data, tmp_path / "r", *ENCODERS["last"], "optim.backbone_lr_factor=0.01"))
    peaks = {id(p): g["max_lr"] for g in trainer.optimizer.param_groups for p in g["params"]}
    assert peaks.keys() == {id(p) for p in trainer.student.parameters() if p.requires_grad}
    for name, parameter in trainer.student.named_parameters():
        if parameter.requires_grad:
            part = name.removeprefix("backbone.encoder.vit.")
            factor = {"blocks.7": 0.01, "norm.wei": 0.01, "norm.bia": 0.01, "blocks.6": 0.0075}.get(part[:8], 1)
            assert peaks[id(parameter)] == close(1e-3 * factor), name


@pytest.mark.parametrize("kind", ["frozen", "full", "hybrid"])
def test_a_resumed_run_is_the_undisturbed_one(data: str, tmp_path: Any, kind: str) -> None:
    settings = [*ENCODERS[kind], *DISTILLED, "train.steps=4"]
    for name, stops in {"whole": [], "parts": [False, True]}.items():
        run, context = prepared(config_of(data, tmp_path / name, *settings))
        answers = iter(stops)
        context.stop_requested = lambda answers=answers: next(answers, False)  # type: ignore[method-assign,misc]
        Trainer(run.config, run.manifest, run.total_steps, context).run()
    assert trainer_of(config_of(data, tmp_path / "parts", *settings), resume=True).run().step == 4
    one, other = newest(tmp_path / "whole"), newest(tmp_path / "parts")
    assert same(one.student, other.student) and same(one.teacher, other.teacher)
    # as a student and as its average, which has the frozen weights from the student
    image = torch.rand(1, 3, 64, 64)
    for weights in ("student", "ema"):
        found, expected = (load_model(each, weights)(image).logits for each in (one, other))
        assert torch.equal(found, expected)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("kind", ["frozen", "last", "hybrid"])
def test_every_trained_parameter_gets_a_gradient(data: str, tmp_path: Any, kind: str, fusion: str) -> None:
    """DDP waits for the gradient of each."""
    names = f"model.text={{kind: table, table: {write_table(tmp_path / 'names.safetensors')}}}"
    trainer = trainer_of(config_of(data, tmp_path / "r", *ENCODERS[kind], names, *FUSIONS[fusion], *DISTILLED))
    (batch,) = trainer.context.batches(0, 1)
    assert trainer.teacher is not None
    torch.stack([*trainer.task.loss(trainer.student, batch, 0, trainer.teacher.module).values()]).sum().backward()
    trained = {name: p for name, p in trainer.student.named_parameters() if p.requires_grad}
    assert [name for name, p in trained.items() if p.grad is None] == []


@pytest.mark.parametrize("kind", ["frozen", "hybrid"])
def test_cached_tokens_change_nothing(data: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Student and teacher see the same pixels where colours stay, so each image is encoded once in all."""
    still = ("augment.longest_side=64", "augment.scale=[1, 1]", "augment.contrast=[1, 1]", "augment.brightness=0")
    made: list[int] = []
    real = TokenEncoder._encode
    monkeypatch.setattr(TokenEncoder, "_encode", lambda self, image: made.append(len(image)) or real(self, image))
    settings = (*ENCODERS[kind], *DISTILLED, *still, "train.steps=4", "augment.flip=0", "model.dropout=0")
    cache = f"train.latent_cache={tmp_path / 'tokens'}"
    trainer_of(config_of(data, tmp_path / "plain", *settings)).run()
    assert sum(made) == 1 + 2 * 16  # one to check the crop size
    made.clear()
    trainer_of(config_of(data, tmp_path / "cached", *settings, cache)).run()
    images = len(list((tmp_path / "tokens").rglob("*.safetensors")))
    assert sum(made) == 1 + images == 13  # all of the data set, in 16 rows that two networks see
    made.clear()
    trainer_of(config_of(data, tmp_path / "again", *settings, cache)).run()
    assert made == [1]
    assert same(newest(tmp_path / "cached").student, newest(tmp_path / "again").student)
    plain, cached = (
        [json.loads(line)["loss/cross_entropy"] for line in (tmp_path / run / "log.jsonl").read_text().splitlines()]
        for run in ("plain", "cached")
    )
    assert len(plain) == 4 and cached == close(plain)


def test_a_cache_without_a_frozen_encoder_is_refused(data: str, tmp_path: Any) -> None:
    still = ("augment.longest_side=64", "augment.scale=[1, 1]", "augment.contrast=[1, 1]", "augment.brightness=0")
    config = config_of(data, tmp_path / "r", *still, f"train.latent_cache={tmp_path / 'tokens'}")
    with pytest.raises(UserError, match=r"train\.latent_cache keeps .* the backbone has neither: leave it null"):
        check_run(config, resume=False)


def test_weights_of_both_parts_are_kept_in_the_run(data: str, tmp_path: Any, caplog: Any) -> None:
    """Workers and a run that is resumed before its first checkpoint need no file; neither does who loads the result."""
    torch.manual_seed(5)
    file = tmp_path / "vit.safetensors"
    weights = TokenEncoder("test_vit4", config_of(data, "r").model.vit, None).vit.state_dict()
    safetensors.torch.save_file(weights, file)
    vit = f"model.vit={{backbone: test_vit4, weights: {file}}}"
    config = config_of(data, tmp_path / "r", vit)
    prepare_run(config, resume=False)
    assert (
        "the weights of 'test_vit4' were trained with model.vit.mean = [0.5, 0.5, 0.5] and model.vit.std = [0.5"
        in caplog.text
    )
    assert "model.weights is none: the backbone starts" in caplog.text
    file.unlink()
    trainer = trainer_of(config, resume=True)
    own = trainer.student.backbone.encoder.vit.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in weights.items())
    trainer.run()
    model = foodseg.load(str(tmp_path / "r"))
    assert "test_efficientnet + test_vit4" in repr(model)
    assert model.predict(np.zeros((50, 70, 3), np.uint8)).ids.shape == (50, 70)
