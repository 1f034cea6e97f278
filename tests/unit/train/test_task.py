"""The segmentation task: partial labels reach the loss by the source of each image, and cost nothing elsewhere."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from foodseg.data.batch import Batch
from foodseg.demo.synthetic import SYNTHETIC_CLASSES
from foodseg.losses import segmentation
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


def a_batch() -> Batch:
    """Two images of 16 x 16 pixels: the first from `all`, the second from `some`, with the ids that it annotates."""
    rng = np.random.default_rng(0)
    masks = np.stack([rng.choice([0, 1, 2, 3, IGNORE], (16, 16)), rng.choice([0, 0, 2, 4, IGNORE], (16, 16))])
    return Batch.from_arrays(
        {
            "image": rng.integers(0, 256, (2, 16, 16, 3), np.uint8),
            "mask": masks.astype(np.uint8),
            "extent": np.array([[0, 0, 16, 16]] * 2, np.int32),
            "seed": np.arange(2, dtype=np.int64),
            "position": np.arange(2, dtype=np.int64),
            "source": np.array([0, 1], np.int16),
            "ingredients": np.zeros((2, K), bool),
            "ingredients_known": np.ones(2, bool),
        }
    )


def a_model(logits: torch.Tensor):
    return lambda image: SimpleNamespace(logits=logits)


def a_task(config, annotated=ANNOTATED) -> SegmentationTask:
    return SegmentationTask(config, SYNTHETIC_CLASSES, annotated, pretrained=False, total_steps=10)


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
    monkeypatch.setattr(segmentation, "_absorbed", None)
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
