"""A tiny diffusion model in the loop: what is trained, averaged, saved and distilled."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from foodseg.checkpoint.checkpoint import Checkpoint, load_checkpoint, load_model
from foodseg.checkpoint.find import newest_checkpoint
from foodseg.config import ExperimentConfig
from foodseg.config.evaluation import EvalConfig
from foodseg.data.batch import Batch
from foodseg.demo.synthetic import SYNTHETIC_CLASSES
from foodseg.errors import UserError
from foodseg.losses.distillation import attention_divergence_sum, deeper_distance_sum, feature_distance_sum
from foodseg.models.backbones.diffusion import Diffusion
from foodseg.models.segmenter import SegmenterOutput
from foodseg.predict.predictor import Predictor
from foodseg.train.conditioning import student_conditioning
from foodseg.train.loop import Trainer
from tests.support.compare import assert_close, close
from tests.support.gloo_rank import prepared
from tests.support.synthetic_set import synthetic_config, write_table

K = len(SYNTHETIC_CLASSES)
DISTILLED = (
    "loss.distill=1", "loss.features=0.5", "loss.stages=0.5", "loss.deeper=0.2", "loss.attention=0.3",
    "distill.ramp=0", "optim.warmup=0",
)  # fmt: skip
PREDICTS = ("model.ingredient_head=true", "loss.ingredients=0.2")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> str:
    table = write_table(tmp_path_factory.mktemp("table") / "names.safetensors")
    return f"model.text={{kind: table, table: {table}, centre: false}}"


def tiny(data: str, run: object, names: str, *settings: str) -> ExperimentConfig:
    return synthetic_config(
        data, str(run), "model.kind=diffusion", "model.backbone=tiny", "model.strides=[8, 16, 32, 64]", names,
        "model.fusion=cross_attention", "augment.longest_side=64", "eval.longest_side=64", "train.steps=2",
        "data.val_split=null", *settings,
    )  # fmt: skip


def trainer_of(config: ExperimentConfig, resume: bool = False) -> Trainer:
    run, context = prepared(config, resume)
    return Trainer(run.config, run.manifest, run.total_steps, context)


def newest(run: object) -> Checkpoint:
    return load_checkpoint(newest_checkpoint(str(run)) or "")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("unet", ["full", "frozen", "lora"])
def test_what_is_frozen_is_neither_trained_nor_averaged_nor_copied(data, names, tmp_path, unet):
    settings = (f"model.diffusion.unet={unet}", "train.ema_horizon=1", *DISTILLED)
    trainer = trainer_of(tiny(data, tmp_path / "r", names, *settings))
    frozen = {name: p for name, p in trainer.student.named_parameters() if not p.requires_grad}
    assert all(name.startswith("backbone.") for name in frozen)
    assert any(name.startswith("backbone.unet.") for name in frozen) == (unet != "full")
    before = {name: tensor.clone() for name, tensor in trainer.student.state_dict().items()}
    grouped = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert grouped == {id(p) for p in trainer.student.parameters() if p.requires_grad}
    own = dict(trainer.teacher.module.named_parameters())
    assert all((own[name] is p) == (name in frozen) for name, p in trainer.student.named_parameters())
    seen = []
    trainer.teacher.module.register_forward_hook(
        lambda module, args, output: seen.append(
            torch.is_grad_enabled() or module.training or any(maps.requires_grad for maps in output.maps)
        )
    )
    trainer.run()
    assert seen == [False] * 2
    assert all(p.grad is None and not p.requires_grad for p in own.values())
    after, averaged = trainer.student.state_dict(), trainer.teacher.state_dict()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed and not changed & frozen.keys() and not averaged.keys() & frozen.keys()
    assert changed <= averaged.keys()
    assert not [name for name in changed if "classifier" in name and torch.equal(averaged[name], after[name])]
    unets = {name for name in changed if name.startswith("backbone.unet.")}
    assert bool(unets) == (unet != "frozen")


def test_half_precision(data, names, tmp_path):
    """Of bfloat16, which both recipes use: all losses stay finite, weights stay float32."""
    settings = ("train.precision=bf16", "model.diffusion.gradient_checkpointing=true", *PREDICTS, *DISTILLED)
    trainer = trainer_of(tiny(data, tmp_path / "r", names, *settings))
    before = {name: tensor.clone() for name, tensor in trainer.student.named_parameters()}
    dtypes = set()
    trainer.student.register_forward_hook(lambda module, args, output: dtypes.add(output.features.dtype))
    trainer.run()
    assert dtypes == {torch.bfloat16}
    after = dict(trainer.student.named_parameters())
    assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in after.values())
    moved = [name for name, tensor in after.items() if tensor.requires_grad and not torch.equal(tensor, before[name])]
    assert len(moved) > 0.9 * sum(tensor.requires_grad for tensor in after.values())


def test_a_resumed_run_is_the_undisturbed_one(data, names, tmp_path):
    settings = [
        "train.steps=4", "train.checkpoint_every=2", "train.micro_batch=2", "model.diffusion.unet=lora",
        "model.diffusion.gradient_checkpointing=true", "model.diffusion.learn_timestep=true", *DISTILLED,
    ]  # fmt: skip
    trainer_of(tiny(data, tmp_path / "whole", names, *settings)).run()
    part = trainer_of(tiny(data, tmp_path / "parts", names, *settings))
    answers = iter([False, True])
    part.context.stop_requested = lambda: next(answers)  # type: ignore[method-assign]
    assert part.run().stopped
    trainer_of(tiny(data, tmp_path / "parts", names, *settings), resume=True).run()
    one, other = newest(tmp_path / "whole"), newest(tmp_path / "parts")
    assert one.step == other.step == 4
    assert same(one.student, other.student) and same(one.teacher, other.teacher)


@pytest.mark.parametrize("unet", ["full", "lora"])
def test_a_checkpoint_is_a_whole_model(data, names, tmp_path, unet):
    """Also of the averaged weights, of which it holds no more than was trained."""
    trainer = trainer_of(tiny(data, tmp_path / "r", names, f"model.diffusion.unet={unet}"))
    trainer.run()
    checkpoint = newest(tmp_path / "r")
    assert not any(name.startswith("backbone.vae.") for name in checkpoint.teacher)
    torn = {name: tensor for name, tensor in checkpoint.teacher.items() if name != "classifier.bias"}
    with pytest.raises(UserError, match=r"are incomplete: classifier\.bias is missing"):
        load_model(replace(checkpoint, teacher=torn), "ema")
    image = torch.rand(1, 3, 64, 64)
    for weights, own in (("student", trainer.student.eval()), ("ema", trainer.teacher.module)):
        model = load_model(checkpoint, weights)
        with torch.no_grad():
            assert torch.equal(model(image).logits, own(image).logits)


def test_every_parameter_is_trained(data, names, tmp_path):
    """DDP waits for the gradient of each that is trained."""
    trainer = trainer_of(tiny(data, tmp_path / "r", names, *DISTILLED, *PREDICTS))
    (batch,) = trainer.context.batches(0, 1)
    sum(trainer.task.loss(trainer.student, batch, 0, trainer.teacher.module).values()).backward()
    assert [n for n, p in trainer.student.named_parameters() if (p.grad is None) == p.requires_grad] == []


def test_rates(data, names, tmp_path):
    """The UNet has a smaller one; the adapter of the names has the whole one."""
    trainer = trainer_of(tiny(data, tmp_path / "r", names, "optim.lr=1e-3", "optim.backbone_lr_factor=0.1"))
    rates = {id(p): group["max_lr"] for group in trainer.optimizer.param_groups for p in group["params"]}
    for name, parameter in trainer.student.named_parameters():
        if parameter.requires_grad:
            assert rates[id(parameter)] == close(1e-4 if name.startswith("backbone.unet.") else 1e-3)


# --- the teacher's terms ---


def a_batch() -> Batch:
    """Two images of 64 x 64, of the second one the upper half is real."""
    ingredients = np.zeros((2, K), bool)
    ingredients[0, 3] = True
    return Batch.from_arrays(
        {
            "image": np.zeros((2, 64, 64, 3), np.uint8),
            "mask": np.zeros((2, 64, 64), np.uint8),
            "extent": np.array([[0, 0, 64, 64], [0, 0, 32, 64]], np.int32),
            "seed": np.arange(2, dtype=np.int64),
            "position": np.arange(2, dtype=np.int64),
            "source": np.zeros(2, np.int16),
            "ingredients": ingredients,
            "ingredients_known": np.array([True, True]),
        }
    )


def test_terms_are_sums_over_stages_and_maps(data, names, tmp_path):
    """Each is divided by the pixels of every map that it compares."""
    settings = (*DISTILLED, "distill.stages=[16, 32, 64]")
    trainer = trainer_of(tiny(data, tmp_path / "r", names, *settings))
    batch = a_batch()
    counts = {name: int(count) for name, count in trainer.task.counts(batch, 1).items()}
    real = 64 * 64 + 32 * 64
    once = {"distill": real, "features": real}
    several = {"stages": 3 * real, "deeper": 2 * real, "attention": 2 * real}
    assert counts == {"cross_entropy": 2 * 64 * 64, **once, **several}
    teacher = copy.deepcopy(trainer.teacher.module)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    outputs: dict[str, SegmenterOutput] = {}
    trainer.student.register_forward_hook(lambda module, args, output: outputs.update(student=output))
    teacher.register_forward_hook(lambda module, args, output: outputs.update(teacher=output))
    found = trainer.task.loss(trainer.student, batch, 1, teacher)
    student, teacher = outputs["student"], outputs["teacher"]

    def weights(side: int) -> torch.Tensor:
        pixels = torch.full((2, side, side), float(64 // side) ** 2)
        pixels[1, side // 2 :] = 0
        if side == 1:
            pixels[1] = 32 * 64
        return pixels

    by_hand = {
        "stages": sum(feature_distance_sum(student.stages[i], teacher.stages[i], weights(8 >> i)) for i in (1, 2, 3)),
        "deeper": sum(deeper_distance_sum(student.stages[i], teacher.stages[i + 1], weights(8 >> i)) for i in (1, 2)),
        "attention": sum(attention_divergence_sum(student.maps[i], teacher.maps[i], weights(4 >> i)) for i in (0, 1)),
    }
    for name, expected in by_hand.items():
        assert_close(found[name], expected)
        assert expected > 0


def test_the_head_learns_from_images_conditioned_on_all_classes(data, names, tmp_path):
    """The features depend on the conditioning: from the other images the head would learn to repeat it."""
    trainer = trainer_of(tiny(data, tmp_path / "r", names, *PREDICTS, "distill.conditioning_mix=[0.5, 0.5, 0, 0]"))
    seeds = torch.arange(16)
    batch = a_batch()
    known = batch.ingredients_known[:1]
    on_all = [
        student_conditioning(batch.ingredients[:1], known, seed[None], trainer.config.distill)[0].all()
        for seed in seeds
    ]
    assert 0 < sum(map(int, on_all)) < 16
    whole, on_some = int(seeds[on_all.index(True)]), int(seeds[on_all.index(False)])
    for first, second, learned in ((whole, whole, 2), (whole, on_some, 1), (on_some, on_some, 0)):
        batch.seed[0], batch.seed[1] = first, second
        assert trainer.task.counts(batch, 0)["ingredients"] == learned * (K - 1)


# --- prediction ---


@pytest.fixture(scope="module")
def trained(data, names, tmp_path_factory) -> Checkpoint:
    run = tmp_path_factory.mktemp("run") / "r"
    trainer_of(tiny(data, run, names, *PREDICTS)).run()
    return newest(run)


@pytest.mark.parametrize("mode", ["vocabulary", "predicted", "provided"])
@pytest.mark.parametrize("window", [None, 64])
def test_every_mode_of_conditioning(trained, mode, window):
    """Whole and in windows, padded to multiples of 64; a batch gives the same."""
    settings = EvalConfig(longest_side=100, window=window, ingredients=mode, ingredients_threshold=0.5)
    model = load_model(trained, "ema")
    image = np.random.default_rng(0).integers(0, 256, (75, 100, 3), np.uint8)
    provided = [[2, 3]] if mode == "provided" else None
    predictor = Predictor(model, settings, torch.device("cpu"))
    (alone,) = predictor.logits([image], [(75, 100)], provided)
    assert alone.values.shape == (K, 16, 16) and alone.ids().shape == (75, 100)
    if mode == "provided":
        assert np.flatnonzero(alone.conditioning).tolist() == [0, 2, 3]
    for other in predictor.logits([image] * 2, [(75, 100)] * 2, None if provided is None else provided * 2):
        assert_close(alone.values, other.values)


def test_conditioning_changes_the_scores(trained):
    model = load_model(trained, "ema")
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    predictor = Predictor(model, EvalConfig(longest_side=64, ingredients="provided"), torch.device("cpu"))
    one, other = (answer.values for answer in predictor.logits([image] * 2, [(64, 64)] * 2, [[1], [2]]))
    assert not torch.allclose(one, other)


def test_cached_latents_change_nothing(data, names, tmp_path, monkeypatch):
    """Student and teacher see the same pixels where colours stay, so each image goes through the VAE once in all."""
    still = ("augment.crop=64", "augment.scale=[1, 1]", "augment.contrast=[1, 1]", "augment.brightness=0")
    made = []
    real = Diffusion._latents
    monkeypatch.setattr(Diffusion, "_latents", lambda model, image: made.append(len(image)) or real(model, image))
    settings = (*DISTILLED, *still, "train.steps=4", "augment.flip=0")
    trainer_of(tiny(data, tmp_path / "plain", names, *settings)).run()
    assert sum(made) == 2 * 16
    made.clear()
    cached = tiny(data, tmp_path / "cached", names, *settings, f"train.latent_cache={tmp_path / 'latents'}")
    trainer_of(cached).run()
    images = len(list((tmp_path / "latents").rglob("*.safetensors")))
    assert sum(made) == images == 12  # all of the data set, in 16 rows that two networks see
    made.clear()
    trainer_of(tiny(data, tmp_path / "again", names, *settings, f"train.latent_cache={tmp_path / 'latents'}")).run()
    assert made == []
    assert same(newest(tmp_path / "cached").student, newest(tmp_path / "again").student)
    # latents of one image and of a batch may round otherwise, of which Adam makes weights where a gradient is 0
    plain, cached = (
        [json.loads(line)["loss/cross_entropy"] for line in (tmp_path / run / "log.jsonl").read_text().splitlines()]
        for run in ("plain", "cached")
    )
    assert len(plain) == 4 and cached == close(plain)
