"""Which names are told: the kinds of lists, how often each comes, and that the seed alone decides."""

import numpy as np
import pytest
import torch

from foodseg.config.distill import DistillConfig
from foodseg.train.conditioning import student_conditioning, teacher_conditioning

N, K, PRESENT = 4000, 401, 60
KINDS = {"all": (1, 0, 0, 0), "exact": (0, 1, 0, 0), "some": (0, 0, 1, 0), "missing": (0, 0, 0, 1)}


def drawn(count: int = N, seeds: torch.Tensor | None = None, **config: object) -> torch.Tensor:
    """The lists of images on which the ids 1..PRESENT of K are."""
    present = torch.zeros(count, K, dtype=torch.bool)
    present[:, 1 : PRESENT + 1] = True
    seeds = torch.arange(count) if seeds is None else seeds
    return student_conditioning(
        present, torch.ones(count, dtype=torch.bool), seeds, DistillConfig.model_validate(config)
    )


def test_how_often_each_kind_comes():
    lists = drawn()
    named, others = lists[:, 1 : PRESENT + 1], lists[:, PRESENT + 1 :]
    whole = lists.all(1)
    exact = named.all(1) & ~others.any(1)
    missing = ~named.all(1)
    shares = [float(kind.float().mean()) for kind in (whole, exact, ~(whole | exact | missing), missing)]
    # 4,000 draws: a standard deviation is 0.008 at most. With 340 absent names next to nobody draws all or none of them
    assert shares == pytest.approx([0.5, 0.15, 0.2, 0.15], abs=0.025)


def test_the_shares_are_those_of_the_config():
    lists = drawn(1000, conditioning_mix=(0.1, 0.9, 0, 0))
    assert lists.all(1).float().mean().item() == pytest.approx(0.1, abs=0.03)
    assert (lists.sum(1) == PRESENT + 1).float().mean().item() == pytest.approx(0.9, abs=0.03)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind(kind):
    lists = drawn(500, conditioning_mix=KINDS[kind])
    assert lists.dtype == torch.bool and lists.shape == (500, K) and lists[:, 0].all()
    named, others = lists[:, 1 : PRESENT + 1], lists[:, PRESENT + 1 :]
    kept = others.float().mean(1)
    if kind == "all":
        assert lists.all()
    elif kind == "exact":
        assert named.all() and not others.any()
    else:
        # how many others are left is drawn evenly between none and all
        assert kept.mean().item() == pytest.approx(0.5, abs=0.05)
        assert [float(kept.quantile(q)) for q in (0.1, 0.9)] == pytest.approx([0.1, 0.9], abs=0.05)
        assert named.float().mean().item() == pytest.approx(1.0 if kind == "some" else 0.9, abs=0.01)


def test_how_many_present_names_are_left_out_is_a_setting():
    assert drawn(500, conditioning_mix=KINDS["missing"], drop=0)[:, 1 : PRESENT + 1].all()
    named = drawn(500, conditioning_mix=KINDS["missing"], drop=0.5)[:, 1 : PRESENT + 1]
    assert named.float().mean().item() == pytest.approx(0.5, abs=0.02)


def test_the_seed_alone_decides_whatever_stands_beside():
    seeds = torch.tensor([7, 2**62, 9, 7])
    lists = drawn(4, seeds)
    assert torch.equal(lists[0], lists[3])
    assert torch.equal(drawn(1, seeds[1:2])[0], lists[1])
    assert torch.equal(drawn(4, seeds), lists)


def test_the_random_numbers_are_not_those_of_the_view():
    """Else a strong contrast would always come with the same kind of list."""
    first = [np.random.default_rng([seed, 1]).uniform() for seed in range(2000)]
    whole = drawn(2000).all(1).numpy()
    assert abs(np.corrcoef(first, whole)[0, 1]) < 0.08


def test_of_an_unlabelled_image_nothing_is_known():
    present = torch.tensor([[False, True, False], [False, False, False]])
    known = torch.tensor([True, False])
    config = DistillConfig(conditioning_mix=KINDS["exact"])
    assert student_conditioning(present, known, torch.arange(2), config).tolist() == [[True, True, False], [True] * 3]
    told = teacher_conditioning(present, known, config)
    assert told is not None and told.tolist() == [[True, True, False], [True] * 3]
    assert present.tolist() == [[False, True, False], [False] * 3]  # not written to


def test_an_image_of_no_ingredient_has_a_list_of_background():
    present, known = torch.zeros(1, 4, dtype=torch.bool), torch.ones(1, dtype=torch.bool)
    exact = DistillConfig(conditioning_mix=KINDS["exact"])
    assert student_conditioning(present, known, torch.zeros(1, dtype=torch.int64), exact).tolist() == [
        [True] + [False] * 3
    ]


def test_a_teacher_that_sees_the_vocabulary_is_told_nothing():
    present, known = torch.zeros(1, 4, dtype=torch.bool), torch.ones(1, dtype=torch.bool)
    assert teacher_conditioning(present, known, DistillConfig(teacher_conditioning="vocabulary")) is None
