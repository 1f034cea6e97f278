"""Self-distillation in the loop: nothing changes while it is off, and what it does while it is on."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from foodseg.checkpoint.checkpoint import load_checkpoint, load_model
from foodseg.checkpoint.find import newest_checkpoint
from foodseg.config import ExperimentConfig
from foodseg.data.augment.photometric import jittered_view, plain_view
from foodseg.data.reader import RowReader
from foodseg.data.rng import dropout_seed
from foodseg.demo.synthetic import SYNTHETIC_CLASSES
from foodseg.losses import pseudo_labels
from foodseg.losses.cross_entropy import cross_entropy_sum
from foodseg.models.build import build_segmenter
from foodseg.train.loop import Trainer
from foodseg.train.optim import build_optimizer, build_schedule
from foodseg.train.validation import validate
from tests.support.gloo_rank import prepared
from tests.support.synthetic_set import synthetic_config, write_synthetic

ON = ("loss.distill=1", "loss.features=0.5", "distill.ramp=0", "optim.warmup=0")


pytestmark = pytest.mark.usefixtures("one_thread")


def trainer_of(config: ExperimentConfig, resume: bool = False) -> Trainer:
    run, context = prepared(config, resume)
    return Trainer(run.config, run.manifest, run.total_steps, context)


def trained(config: ExperimentConfig) -> dict[str, torch.Tensor]:
    trainer = trainer_of(config)
    trainer.run()
    return {name: tensor.clone() for name, tensor in trainer.student.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


# --- off ---


def by_hand(config: ExperimentConfig) -> dict[str, torch.Tensor]:
    """Plain training written out: no task, no teacher, no terms."""
    run, context = prepared(config)
    torch.manual_seed(config.train.seed)
    model = build_segmenter(config.model, len(SYNTHETIC_CLASSES)).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(config.optim, model)
    schedule = build_schedule(config.optim, optimizer, run.total_steps)
    mean = torch.tensor(config.model.mean).view(1, 3, 1, 1)
    for step, batch in enumerate(context.batches(0, run.total_steps)):
        torch.manual_seed(dropout_seed(config.train.seed, step, 0))
        model.train()
        mask = batch.mask.long()
        logits = model(jittered_view(batch.image, batch.extent, mean, batch.seed, config.augment)).logits
        count = (mask != SYNTHETIC_CLASSES.ignore_id).sum().double()
        (cross_entropy_sum(logits, mask, SYNTHETIC_CLASSES.ignore_id) * (1 / count)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
    return model.state_dict()


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["distill.temperature=5", "distill.ramp=0", "distill.teacher_conditioning=vocabulary", "distill.drop=0.5"],
        ["train.ema_horizon=0", "eval.weights=student"],
        # on, but the warm-up lasts longer than the run
        ["loss.distill=1", "optim.warmup=0.99", "train.ema_horizon=0.5", "optim.schedule=one_cycle"],
    ],
    ids=["default", "settings", "no teacher", "in the warm-up"],
)
def test_with_all_weights_at_zero_it_is_plain_training_to_the_bit(data, tmp_path, settings):
    plain = ["train.steps=3", "data.val_split=null", "model.dropout=0.2"]
    config = synthetic_config(data, tmp_path / "r", *plain, *settings)
    expected = by_hand(synthetic_config(data, tmp_path / "hand", *plain, f"optim.warmup={config.optim.warmup}"))
    assert same(trained(config), expected)


def test_an_unused_teacher_does_not_run(data, tmp_path, monkeypatch):
    trainer = trainer_of(synthetic_config(data, tmp_path / "r", "train.steps=2", "data.val_split=null"))
    asked = []
    monkeypatch.setattr(trainer.teacher.module, "forward", lambda *args, **kwargs: asked.append(args))
    trainer.run()
    assert trainer.step == 2 and not asked


# --- on ---


def test_it_learns_something_else_and_says_so(data, tmp_path):
    plain = ["train.steps=4", "data.val_split=null"]
    found = trained(synthetic_config(data, tmp_path / "on", *plain, *ON))
    assert not same(found, trained(synthetic_config(data, tmp_path / "off", *plain, "optim.warmup=0")))
    lines = [json.loads(line) for line in (tmp_path / "on" / "log.jsonl").read_text().splitlines()]
    assert all(line["loss/distill"] > 0 and 0 < line["loss/features"] < 2 for line in lines)


def test_the_divergence_joins_after_the_warm_up(data, tmp_path):
    settings = ("train.steps=6", "loss.distill=2", "optim.warmup=0.34", "distill.ramp=0.34", "data.val_split=null")
    trainer = trainer_of(synthetic_config(data, tmp_path / "r", *settings))
    weights = [trainer.task.weights_at(step).get("distill") for step in range(6)]
    assert weights == [None, None, 1.0, 2.0, 2.0, 2.0]
    trainer.run()
    lines = [json.loads(line) for line in (tmp_path / "r" / "log.jsonl").read_text().splitlines()]
    assert ["loss/distill" in line for line in lines] == [False, False, True, True, True, True]


def test_the_teacher_never_gets_a_gradient(data, tmp_path):
    trainer = trainer_of(synthetic_config(data, tmp_path / "r", "train.steps=3", "data.val_split=null", *ON))
    teacher = trainer.teacher.module
    seen: list[bool] = []
    teacher.register_forward_hook(
        lambda module, args, output: seen.append(
            torch.is_grad_enabled() or module.training or output.logits.requires_grad or output.features.requires_grad
        )
    )
    trainer.run()
    assert seen == [False] * 3
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    listed = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert not listed & {id(p) for p in teacher.parameters()}


def test_student_and_teacher_see_one_crop_in_two_views(data, tmp_path):
    trainer = trainer_of(synthetic_config(data, tmp_path / "r", "train.steps=1", "data.val_split=null", *ON))
    (batch,) = trainer.context.batches(0, 1)
    seen: dict[str, torch.Tensor] = {}

    def watch(name: str, module: nn.Module) -> None:
        module.register_forward_pre_hook(lambda _, args: seen.update({name: args[0].clone()}))

    watch("student", trainer.student)
    watch("teacher", trainer.teacher.module)
    trainer.run()
    mean = torch.full((1, 3, 1, 1), 0.5)
    augment = trainer.config.augment
    assert torch.equal(seen["student"], jittered_view(batch.image, batch.extent, mean, batch.seed, augment))
    assert torch.equal(seen["teacher"], plain_view(batch.image, batch.extent, mean))


def test_the_teachers_forward_is_in_mixed_precision(data, tmp_path):
    settings = ("train.steps=1", "data.val_split=null", "train.precision=bf16", *ON)
    trainer = trainer_of(synthetic_config(data, tmp_path / "r", *settings))
    seen = []
    trainer.teacher.module.register_forward_hook(lambda module, args, output: seen.append(output.logits.dtype))
    trainer.run()
    assert seen == [torch.bfloat16]


@pytest.mark.parametrize("settings", [[], ["train.micro_batch=2"]], ids=["whole", "accumulated"])
def test_a_resumed_run_is_the_undisturbed_one(data, tmp_path, settings):
    settings = ["train.steps=6", "train.checkpoint_every=2", "data.val_split=null", "optim.warmup=0.2",
                "loss.distill=1", "loss.features=0.5", "model.dropout=0.2", *settings]  # fmt: skip
    trainer_of(synthetic_config(data, tmp_path / "whole", *settings)).run()
    part = trainer_of(synthetic_config(data, tmp_path / "parts", *settings))
    answers = iter([False, False, True])
    part.context.stop_requested = lambda: next(answers)
    assert part.run().stopped
    trainer_of(synthetic_config(data, tmp_path / "parts", *settings), resume=True).run()
    one, other = (load_checkpoint(newest_checkpoint(str(tmp_path / name))) for name in ("whole", "parts"))
    assert one.step == other.step == 6
    assert same(one.student, other.student) and same(one.teacher, other.teacher)


# --- images without masks ---


def gradient_of(trainer: Trainer, batch: Any) -> float:
    """Sum of the sizes of all gradients of one batch."""
    trainer._train_mode()
    terms = trainer.task.loss(trainer.student, batch, trainer.total_steps - 1, trainer.teacher.module)
    sum(terms.values()).backward()
    size = sum(float(p.grad.abs().sum()) for p in trainer.student.parameters())
    trainer.student.zero_grad()
    return size


def test_from_an_image_without_a_mask_only_distillation_learns(data, tmp_path, monkeypatch):
    monkeypatch.setattr(pseudo_labels, "CONFIDENT", 0.0)  # nothing is after no training
    bare = write_synthetic(tmp_path / "bare", train=8, val=1, test=1, masks=False)
    several = f"data.uris=[{{uri: {data}}}, {{uri: {bare}}}]"
    steps = ("train.steps=5", "train.micro_batch=1", "data.val_split=null")
    sizes = {}
    for name, settings in {"off": [], "on": ON, "labelled": ["loss.pseudo_labels=1"]}.items():
        config = synthetic_config("", tmp_path / name, several, *steps, *settings)
        trainer = trainer_of(config)
        unlabelled = [batch for batch in trainer.context.batches(0, 5) if not batch.ingredients_known.any()]
        assert len(unlabelled) == 9  # of 20: the others have masks
        assert all((batch.mask == SYNTHETIC_CLASSES.ignore_id).all() for batch in unlabelled)
        assert trainer.task.counts(unlabelled[0], 4)["cross_entropy"] == 0
        sizes[name] = gradient_of(trainer, unlabelled[0])
        assert trainer.run().step == 5
    assert sizes["off"] == 0 and sizes["on"] > 0 and sizes["labelled"] > 0


def test_unlabelled_images_without_distillation_are_named(data, tmp_path, caplog):
    config = synthetic_config(data, tmp_path / "r")
    prepared(config)
    without_masks = [said for said in caplog.messages if "no mask" in said]
    assert without_masks == [
        "1 of the training images have no mask: nothing is learned from them while loss.distill, loss.soft_labels and "
        "the other distillation terms are 0"
    ]
    caplog.clear()
    prepared(synthetic_config(data, tmp_path / "on", *ON))
    prepared(synthetic_config(data, tmp_path / "features", "loss.features=0.5"))
    assert not any("no mask" in said for said in caplog.messages)


# --- both kinds of weights are scored ---


@pytest.mark.parametrize("weights", ["ema", "student"])
def test_student_and_teacher_are_both_scored_and_kept(data, tmp_path, weights):
    """Each validation has both scores; the run is steered by the weights that eval.weights names."""
    settings = ("train.steps=4", "train.validate_every=2", f"eval.weights={weights}", "optim.lr=0.01",
                "train.ema_horizon=1", *ON)  # fmt: skip
    run, context = prepared(synthetic_config(data, tmp_path / "r", *settings))
    Trainer(run.config, run.manifest, run.total_steps, context).run()
    checkpoint = load_checkpoint(newest_checkpoint(str(tmp_path / "r")))
    assert [each.step for each in checkpoint.history] == [2, 4]
    line = checkpoint.history[-1]
    assert line.miou == getattr(line, f"miou_{weights}")
    reader = RowReader(run.config.data.uri, run.manifest, ["val"])
    for name in ("student", "ema"):
        models = {name: load_model(checkpoint, name)}
        again, fitted = validate(models, reader, run.manifest, run.config, context, 4)[name]
        assert getattr(line, f"miou_{name}") == again.miou
        assert (fitted == checkpoint.calibration) == (name == weights)
    best = json.loads(Path(tmp_path, "r", "best.json").read_text())
    assert best["miou"] == max(entry.miou for entry in checkpoint.history)


def test_without_an_average_the_student_alone_is_scored(data, tmp_path):
    config = synthetic_config(data, tmp_path / "r", "train.ema_horizon=0", "eval.weights=student")
    trainer = trainer_of(config)
    trainer.run()
    (line,) = trainer.history
    assert line.miou == line.miou_student and line.miou_ema is None


def test_scoring_both_does_not_disturb_the_training(data, tmp_path):
    often = trained(synthetic_config(data, tmp_path / "often", "train.steps=4", "train.validate_every=1", *ON))
    assert same(often, trained(synthetic_config(data, tmp_path / "never", "train.steps=4", "data.val_split=null", *ON)))
