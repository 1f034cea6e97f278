"""The conditioning drawn in training: its kinds, their shares, and that the seed alone decides."""

import numpy as np
import pytest
import torch

from foodseg.config.distill import DistillConfig
from foodseg.train.conditioning import student_conditioning, teacher_conditioning, within

N, K, PRESENT = 4000, 401, 60
KINDS = {"all": (1, 0, 0, 0), "exact": (0, 1, 0, 0), "some": (0, 0, 1, 0), "missing": (0, 0, 0, 1)}


def draw(count: int = N, seeds: torch.Tensor | None = None, **config: object) -> torch.Tensor:
    """The conditioning of images that contain the ids 1..PRESENT of K."""
    present = torch.zeros(count, K, dtype=torch.bool)
    present[:, 1 : PRESENT + 1] = True
    seeds = torch.arange(count) if seeds is None else seeds
    return student_conditioning(
        present, torch.ones(count, dtype=torch.bool), seeds, DistillConfig.model_validate(config)
    )


def test_how_often_each_kind_comes():
    conditioning = draw()
    named, others = conditioning[:, 1 : PRESENT + 1], conditioning[:, PRESENT + 1 :]
    whole = conditioning.all(1)
    exact = named.all(1) & ~others.any(1)
    missing = ~named.all(1)
    shares = [float(kind.float().mean()) for kind in (whole, exact, ~(whole | exact | missing), missing)]
    # 4,000 draws: a standard deviation is 0.008 at most. With 340 absent names next to nobody draws all or none of them
    assert shares == pytest.approx([0.5, 0.15, 0.2, 0.15], abs=0.025)


def test_the_shares_are_those_of_the_config():
    conditioning = draw(1000, conditioning_mix=(0.1, 0.9, 0, 0))
    assert conditioning.all(1).float().mean().item() == pytest.approx(0.1, abs=0.03)
    assert (conditioning.sum(1) == PRESENT + 1).float().mean().item() == pytest.approx(0.9, abs=0.03)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind(kind):
    conditioning = draw(500, conditioning_mix=KINDS[kind])
    assert conditioning.dtype == torch.bool and conditioning.shape == (500, K) and conditioning[:, 0].all()
    named, others = conditioning[:, 1 : PRESENT + 1], conditioning[:, PRESENT + 1 :]
    kept = others.float().mean(1)
    if kind == "all":
        assert conditioning.all()
    elif kind == "exact":
        assert named.all() and not others.any()
    else:
        # how many others are left is drawn evenly between none and all
        assert kept.mean().item() == pytest.approx(0.5, abs=0.05)
        assert [float(kept.quantile(q)) for q in (0.1, 0.9)] == pytest.approx([0.1, 0.9], abs=0.05)
        assert named.float().mean().item() == pytest.approx(1.0 if kind == "some" else 0.9, abs=0.01)


def test_how_many_present_names_are_left_out_is_a_setting():
    assert draw(500, conditioning_mix=KINDS["missing"], drop=0)[:, 1 : PRESENT + 1].all()
    named = draw(500, conditioning_mix=KINDS["missing"], drop=0.5)[:, 1 : PRESENT + 1]
    assert named.float().mean().item() == pytest.approx(0.5, abs=0.02)


def test_the_seed_alone_decides_whatever_else_is_in_the_batch():
    seeds = torch.tensor([7, 2**62, 9, 7])
    conditioning = draw(4, seeds)
    assert torch.equal(conditioning[0], conditioning[3])
    assert torch.equal(draw(1, seeds[1:2])[0], conditioning[1])
    assert torch.equal(draw(4, seeds), conditioning)


def test_the_random_numbers_are_not_those_of_the_view():
    """Else a strong contrast would always come with the same kind of conditioning."""
    first = [np.random.default_rng([seed, 1]).uniform() for seed in range(2000)]
    whole = draw(2000).all(1).numpy()
    assert abs(np.corrcoef(first, whole)[0, 1]) < 0.08


def test_of_an_unlabelled_image_nothing_is_known():
    present = torch.tensor([[False, True, False], [False, False, False]])
    known = torch.tensor([True, False])
    config = DistillConfig(conditioning_mix=KINDS["exact"])
    assert student_conditioning(present, known, torch.arange(2), config).tolist() == [[True, True, False], [True] * 3]
    teacher = teacher_conditioning(present, known, config)
    assert teacher is not None and teacher.tolist() == [[True, True, False], [True] * 3]
    assert present.tolist() == [[False, True, False], [False] * 3]  # not written to


def test_an_image_without_ingredients_is_conditioned_on_background():
    present, known = torch.zeros(1, 4, dtype=torch.bool), torch.ones(1, dtype=torch.bool)
    exact = DistillConfig(conditioning_mix=KINDS["exact"])
    assert student_conditioning(present, known, torch.zeros(1, dtype=torch.int64), exact).tolist() == [
        [True] + [False] * 3
    ]


def test_a_teacher_of_the_vocabulary_is_unconditioned():
    present, known = torch.zeros(1, 4, dtype=torch.bool), torch.ones(1, dtype=torch.bool)
    assert teacher_conditioning(present, known, DistillConfig(teacher_conditioning="vocabulary")) is None


def test_pixels_of_classes_outside_the_conditioning_are_ignored():
    mask = torch.tensor([[[0, 1, 2, 255]], [[0, 1, 2, 255]]])
    conditioning = torch.tensor([[True, True, False], [True, False, False]])
    assert within(mask, conditioning, 255).tolist() == [[[0, 1, 255, 255]], [[0, 255, 255, 255]]]
    assert mask.tolist() == [[[0, 1, 2, 255]]] * 2
