"""Training of the real-time network: both stages, resumed across the switch, distilled, and what a checkpoint needs."""

from pathlib import Path

import numpy as np
import pytest
import torch

import foodseg
from foodseg.checkpoint.checkpoint import Checkpoint, load_checkpoint, load_model
from foodseg.checkpoint.find import newest_checkpoint
from foodseg.config import ExperimentConfig
from foodseg.errors import UserError
from foodseg.models.pixel_text import PixelTextHead
from foodseg.models.realtime import RealtimeNetwork
from foodseg.models.text import prompt_tower
from foodseg.models.text.embed import embed_names
from foodseg.train.loop import Trainer
from foodseg.train.run import check_run
from tests.support.gloo_rank import first_gradients, prepared
from tests.support.synthetic_set import synthetic_config, write_table
from tests.support.tiny_checkpoints import write_checkpoint, write_clip

pytestmark = pytest.mark.usefixtures("one_thread")
TEXT = ("loss.pixel_text=1", "loss.image_text=0.2")
STEPS, BEGINS = 6, 3  # updates; the first one of stage two


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_clip(tmp_path_factory.mktemp("clip") / "tiny")


def config_of(data: str, run: Path, text: str, *settings: str, tokens: int = 0) -> ExperimentConfig:
    """text: `model.text` as YAML."""
    model = (
        f"model={{kind: realtime, backbone: test_efficientnet, weights: none, decoder_channels: 16, text: {text}, "
        f"realtime: {{context_tokens: {tokens}}}}}"
    )
    steps = (f"train.steps={STEPS}", *(["optim.stage_two.begins=0.5"] if tokens else []), "data.val_split=null")
    return synthetic_config(data, run, model, *steps, *settings)


def prompted(data: str, run: Path, clip: str, *settings: str) -> ExperimentConfig:
    return config_of(data, run, f"{{kind: open_clip, model: {clip}}}", *TEXT, *settings, tokens=4)


def trainer_of(config: ExperimentConfig, resume: bool = False) -> Trainer:
    run, context = prepared(config, resume)
    return Trainer(run.config, run.manifest, run.total_steps, context)


def head_of(trainer: Trainer) -> PixelTextHead:
    head = trainer.student.head
    assert isinstance(head, PixelTextHead)
    return head


def newest(run: Path) -> Checkpoint:
    return load_checkpoint(newest_checkpoint(str(run)) or "", with_trainer=True)


def assert_same(found: object, expected: object) -> None:
    if isinstance(expected, torch.Tensor):
        assert isinstance(found, torch.Tensor) and torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert isinstance(found, dict) and found.keys() == expected.keys()
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert isinstance(found, list | tuple) and len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected


def test_stage_two_begins_at_its_update(data, tmp_path, clip):
    trainer = trainer_of(prompted(data, tmp_path / "r", clip))
    head, seen = head_of(trainer), []
    table, context = head.text.clone(), head.prompts.context.detach().clone()
    update = trainer._update

    def watched(window):
        found = update(window)
        moved = not torch.equal(head.prompts.context, context)
        seen.append((trainer.step, head.learns_prompts, moved, not torch.equal(head.text, table)))
        return found

    trainer._update = watched
    trainer.run()
    assert seen == [(step, step >= BEGINS, step >= BEGINS, step >= BEGINS) for step in range(STEPS)]
    # what is saved is what the context tokens say after the last update
    head.learns_prompts = True
    assert torch.equal(head.text, head.prompts())


def test_the_network_has_a_low_rate_in_stage_two(data, tmp_path, clip):
    trainer = trainer_of(prompted(data, tmp_path / "r", clip, "optim.schedule=poly", "optim.warmup=0"))
    rates = []
    step = trainer.schedule.step
    trainer.schedule.step = lambda: (rates.append(trainer.schedule.get_last_lr()), step())[1]
    trainer.run()
    context, backbone, rest = rates[0][0], rates[0][1], rates[0][-1]
    assert (context, backbone, rest) == (0, pytest.approx(1e-4), pytest.approx(1e-3))
    assert rates[BEGINS][0] == pytest.approx(2e-3) and rates[BEGINS][-1] == pytest.approx(1e-4)
    assert rates[BEGINS - 1][-1] < rates[0][-1] and rates[-1][0] < rates[BEGINS][0], "each stage has its own fall"


@pytest.mark.parametrize("stop", [2, 3, 4])
def test_resumed_across_the_switch_it_is_the_undisturbed_run(data, tmp_path, clip, stop):
    settings = ("model.dropout=0.2", "train.checkpoint_every=1", "optim.clip_norm=1")
    trainer_of(prompted(data, tmp_path / "whole", clip, *settings)).run()
    part = trainer_of(prompted(data, tmp_path / "parts", clip, *settings))
    part.context.stop_requested = lambda: part.step >= stop
    assert part.run().step == stop
    assert trainer_of(prompted(data, tmp_path / "parts", clip, *settings), resume=True).run().step == STEPS
    one, other = newest(tmp_path / "parts"), newest(tmp_path / "whole")
    for name in ("student", "teacher", "trainer"):
        assert_same(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("stage_two", [False, True])
@pytest.mark.parametrize("size", ["S", "M"])
def test_every_trained_parameter_gets_a_gradient_in_both_stages(data, tmp_path, clip, size, stage_two):
    """DDP waits for the gradient of each."""
    trainer = trainer_of(prompted(data, tmp_path / "r", clip, f"model.realtime.size={size}"))
    (batch,) = trainer.context.batches(0, 1)
    terms = trainer.task.loss(trainer.student, batch, BEGINS if stage_two else BEGINS - 1)
    assert terms.keys() == {"cross_entropy", "pixel_text", "image_text"}
    torch.stack([*terms.values()]).sum().backward()
    assert [name for name, p in trainer.student.named_parameters() if p.grad is None] == []
    context = head_of(trainer).prompts.context
    assert bool(context.grad.abs().sum() > 0) == stage_two


def test_a_checkpoint_needs_no_text_tower(data, tmp_path, clip, monkeypatch):
    trainer = trainer_of(prompted(data, tmp_path / "r", clip))
    trainer.run()
    monkeypatch.setattr(prompt_tower, "load_clip_towers", lambda *_: pytest.fail("the tower is for training alone"))
    state = newest(tmp_path / "r").student
    assert not [name for name in state if "tower" in name or "transformer" in name]
    image = torch.rand(1, 3, 64, 64)
    for weights, expected in {"student": trainer.student, "ema": trainer.teacher.module}.items():
        model = load_model(newest(tmp_path / "r"), weights)
        with torch.no_grad():
            difference = (model(image).logits - expected.eval()(image).logits).abs().max()
        assert difference < 1e-5, "text is folded when a checkpoint is loaded"
    segmenter = foodseg.load(str(tmp_path / "r"))
    assert segmenter.predict(np.zeros((50, 70, 3), np.uint8)).ids.shape == (50, 70)
    assert "real time" in repr(segmenter)


def test_permuted_names_are_permuted_in_both_stages(data, tmp_path):
    found = {}
    for name, permute in {"names": None, "permuted": 1}.items():
        embed_names(data, str(tmp_path / f"{name}.safetensors"), permute=permute)
        text = f"{{kind: table, table: {tmp_path / name}.safetensors}}"
        trainer = trainer_of(config_of(data, tmp_path / f"run-{name}", text, *TEXT, tokens=4))
        head = head_of(trainer)
        with torch.no_grad():
            found[name] = (head.text.clone(), head.prompts())
    order = [int((found["names"][0] - row).norm(dim=1).argmin()) for row in found["permuted"][0]]
    assert sorted(order) == list(range(len(order))) and all(own != other for own, other in enumerate(order))
    assert (found["names"][1][order] - found["permuted"][1]).abs().max() < 1e-5


def test_random_embeddings_have_no_stage_two(data, tmp_path):
    text = f"{{kind: table, table: {write_table(tmp_path / 'random.safetensors')}}}"
    with pytest.raises(UserError, match="tokens of the encoder that made"):
        check_run(config_of(data, tmp_path / "r", text, *TEXT, tokens=4), resume=False)


@pytest.mark.parametrize("text", ["names", "none"])
def test_it_is_distilled_from_another_model_and_teaches_one(data, tmp_path, text):
    teacher = write_checkpoint(tmp_path / "teacher", 1)
    named = f"{{kind: table, table: {write_table(tmp_path / 't.safetensors')}}}" if text == "names" else "{kind: none}"
    soft = ("loss.soft_labels=0.5", "loss.pixel_correlation=0.3", "loss.class_correlation=0.3", "optim.warmup=0")
    own = TEXT if text == "names" else ()
    trainer = trainer_of(config_of(data, tmp_path / "r", named, *own, *soft, f"distill.teacher={teacher}"))
    terms = set(trainer.task.weights_at(0))
    assert terms == {"cross_entropy", "soft_labels", "pixel_correlation", "class_correlation", "gate"} | (
        {"pixel_text", "image_text"} if own else set()
    )
    assert all(gradient.isfinite().all() for gradient in first_gradients(trainer).values())
    assert isinstance(load_model(newest(tmp_path / "r"), "student"), RealtimeNetwork)
    other = (*soft, f"distill.teacher={tmp_path / 'r'}", "train.steps=2", "data.val_split=null")
    assert trainer_of(synthetic_config(data, tmp_path / "other", *other)).run().step == 2


def test_self_distillation_from_averaged_weights(data, tmp_path):
    text = f"{{kind: table, table: {write_table(tmp_path / 't.safetensors')}}}"
    settings = ("loss.distill=0.5", "loss.features=0.5", "distill.ramp=0", "optim.warmup=0", "distill.same_mode=true")
    trainer = trainer_of(config_of(data, tmp_path / "r", text, *TEXT, *settings))
    assert trainer.run().step == STEPS
