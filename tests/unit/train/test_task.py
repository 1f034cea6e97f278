"""The segmentation task: partial labels reach the loss by the source of each image, and cost nothing elsewhere."""

import contextlib
import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from foodseg.data.batch import Batch
from foodseg.demo.synthetic import SYNTHETIC_CLASSES
from foodseg.losses import cross_entropy, segmentation
from foodseg.models.build import build_segmenter
from foodseg.train.loop import Trainer
from foodseg.train.task import SegmentationTask
from tests.support.compare import close
from tests.support.gloo_rank import prepared
from tests.support.synthetic_set import IGNORE, synthetic_config, write_synthetic

K = len(SYNTHETIC_CLASSES)
ANNOTATED = {"all": None, "some": (0, 2, 4)}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return synthetic_config("data", tmp_path_factory.mktemp("run"), "loss.dice=0.5")


def a_batch(side: int = 16) -> Batch:
    """Two square images: the first from `all`, the second from `some`, with the ids that it annotates."""
    rng = np.random.default_rng(0)
    masks = np.stack([rng.choice([0, 1, 2, 3, IGNORE], (side, side)), rng.choice([0, 0, 2, 4, IGNORE], (side, side))])
    return Batch.from_arrays(
        {
            "image": rng.integers(0, 256, (2, side, side, 3), np.uint8),
            "mask": masks.astype(np.uint8),
            "extent": np.array([[0, 0, side, side]] * 2, np.int32),
            "seed": np.arange(2, dtype=np.int64),
            "position": np.arange(2, dtype=np.int64),
            "source": np.array([0, 1], np.int16),
            "ingredients": np.zeros((2, K), bool),
            "ingredients_known": np.ones(2, bool),
        }
    )


def a_model(logits: torch.Tensor):
    return lambda image: SimpleNamespace(logits=logits, undropped=None, linear_logits=None)


def a_task(config, annotated=ANNOTATED) -> SegmentationTask:
    text = torch.randn(K, 16) if config.model.fusion != "none" else None
    model = build_segmenter(config.model, K, pretrained=False, text=text)
    return SegmentationTask(config, SYNTHETIC_CLASSES, annotated, model, total_steps=10)


def test_the_loss_of_each_image_is_that_of_its_source(config):
    logits = torch.randn(2, K, 16, 16, generator=torch.Generator().manual_seed(0))
    batch = a_batch()
    found = a_task(config).loss(a_model(logits), batch, 0)
    p = logits.double().softmax(1).numpy()
    mask = batch.mask.numpy()
    cross_entropy = dice = 0.0
    for image, annotated in enumerate([range(K), ANNOTATED["some"]]):
        own = p[image].copy()
        own[0] += sum(own[k] for k in range(K) if k not in annotated)
        for y, x in zip(*np.nonzero(mask[image] != IGNORE), strict=True):
            cross_entropy -= np.log(own[mask[image, y, x], y, x])
        for k in set(mask[image].ravel().tolist()) - {IGNORE}:
            valid, truth = mask[image] != IGNORE, mask[image] == k
            dice += 1 - 2 * own[k][truth].sum() / (own[k][valid].sum() + truth.sum())
    assert found["cross_entropy"].item() == close(cross_entropy)
    assert found["dice"].item() == close(dice)


@pytest.mark.parametrize("annotated", [{"all": None, "some": None}, {"all": None, "some": tuple(range(K))}])
def test_where_everything_is_annotated_nothing_is_computed_for_it(config, annotated, monkeypatch):
    monkeypatch.setattr(cross_entropy, "_uncertain_ids", None)
    monkeypatch.setattr(segmentation, "_merged", None)
    logits = torch.randn(2, K, 16, 16, generator=torch.Generator().manual_seed(0))
    plain = a_task(config, annotated).loss(a_model(logits), a_batch(), 0)
    assert all(torch.isfinite(value) for value in plain.values())


def test_the_counts_are_those_of_the_masks(config):
    counts = [a_task(config, annotated).counts(a_batch(), 0) for annotated in (ANNOTATED, {"all": None, "some": None})]
    assert counts[0] == counts[1]


def test_the_trainer_takes_what_the_manifest_says(tmp_path):
    run, context = prepared(
        synthetic_config(write_synthetic(tmp_path / "d", 4, 1, 1), tmp_path / "r", "data.val_split=null")
    )
    manifest = run.manifest.model_copy(update={"annotated": {"synthetic": (0, 1)}})
    for source_manifest, expected in [(run.manifest, None), (manifest, [[False, False] + [True] * (K - 2)])]:
        table = Trainer(run.config, source_manifest, run.total_steps, context).task._unannotated
        assert (table if table is None else table.tolist()) == expected


TEXT = "model.text={kind: table, table: names.safetensors, centre: false}"
HEAD = ("model.ingredient_head=true", "loss.ingredients=0.2", "loss.dice=0.5", "loss.lovasz=0.5")
TEACHER = ("loss.distill=1", "loss.features=1", "loss.stages=1", "loss.deeper=1", "distill.ramp=0", "optim.warmup=0")
COLOURS = ("augment.blur=1.5", "augment.light=0.1", "augment.saturation=[0.5, 1.5]", "augment.brightness=0.1")
EVERY_TERM = {
    "score_map": (TEXT, *HEAD, *TEACHER, *COLOURS, "model.fusion=score_map", "loss.score_map=1"),
    "diffusion": (
        TEXT, *HEAD, *TEACHER, *COLOURS, "model.fusion=cross_attention", "loss.attention=1", "model.kind=diffusion",
        "model.backbone=tiny", "model.strides=[8, 16, 32]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("annotated", [ANNOTATED, {"all": None, "some": None}], ids=["partial", "whole"])
@pytest.mark.parametrize("settings", EVERY_TERM.values(), ids=EVERY_TERM)
def test_the_cpu_waits_for_no_value_of_the_device(settings, annotated, monkeypatch):
    """On the device `meta` tensors have no values: reading one is an error, as are two devices in one operation."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())  # knows no `meta`
    config = synthetic_config("data", "run", *settings)
    task, meta = a_task(config, annotated), torch.device("meta")
    teacher = copy.deepcopy(task.module).eval().requires_grad_(False).to(meta)
    module, batch = task.module.to(meta), a_batch(64).to(meta)
    weights = task.weights_at(5)
    assert len(weights) == 9
    counts, sums = task.counts(batch, 5), task.loss(module, batch, 5, teacher)
    assert {value.device for value in (*counts.values(), *sums.values())} == {meta}
    torch.stack([weights[name] * sums[name] / counts[name] for name in weights]).sum().backward()
    assert all(p.grad is not None for p in module.parameters() if p.requires_grad)


STILL = ("augment.contrast=[1, 1]", "augment.brightness=0")
WITH_DROPOUT = ("model.dropout=0.5", "loss.distill=1", "loss.features=1", "distill.ramp=0", "optim.warmup=0", *STILL)


@pytest.mark.parametrize("same_mode", [False, True])
def test_a_teacher_of_the_same_weights_differs_from_the_student_in_its_mode_alone(same_mode):
    """What of the divergence is dropout and the statistics of the batch, and not what the teacher knows."""
    task = a_task(synthetic_config("data", "run", *WITH_DROPOUT, f"distill.same_mode={str(same_mode).lower()}"))
    teacher = copy.deepcopy(task.module).eval()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    terms = task.loss(task.module.train(), a_batch(64), 0, teacher)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert not any(module.training for module in teacher.modules())
    if same_mode:
        assert abs(terms["distill"].item()) < 1e-3 * 2 * 64 * 64
        assert abs(terms["features"].item()) < 1e-3 * 2 * 64 * 64
    else:
        assert terms["features"].item() > 0.1 * 2 * 64 * 64
