"""Lovasz-Softmax against the definition: the convex envelope of the Jaccard loss, by brute force on tiny arrays."""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from foodseg.config.loss import LossConfig
from foodseg.losses.lovasz import lovasz_sum
from foodseg.losses.segmentation import Lovasz, present_classes, segmentation_losses
from foodseg.losses.term import Outputs, Targets
from foodseg.models.segmenter import SegmenterOutput
from tests.support.compare import assert_close, close

IGNORE = 255


def jaccard_loss(truth: frozenset[int], wrong: frozenset[int]) -> float:
    """1 - IoU of a class whose mispredicted pixels are `wrong`: predicted are truth XOR wrong."""
    predicted = truth ^ wrong
    return 1 - len(truth & predicted) / len(truth | predicted)


def envelope(truth: frozenset[int], errors: np.ndarray) -> float:
    """The greatest convex function that is at most the Jaccard loss at each set, at `errors` within [0, 1]^n.

    That is the least mean loss of a distribution over sets whose mean is `errors`: a linear program over 2^n sets.
    """
    pixels = range(len(errors))
    sets = [frozenset(s) for size in range(len(errors) + 1) for s in itertools.combinations(pixels, size)]
    member = np.array([[float(pixel in s) for s in sets] for pixel in pixels])
    solved = linprog(
        [jaccard_loss(truth, s) for s in sets],
        A_eq=np.vstack([member, np.ones(len(sets))]), b_eq=[*errors, 1.0], method="highs",
    )  # fmt: skip
    assert solved.success
    return float(solved.fun)


def by_definition(logits: torch.Tensor, mask: torch.Tensor) -> float:
    total = 0.0
    for image, ids in zip(logits.softmax(1), mask, strict=True):
        kept = (ids != IGNORE).flatten()
        probability, own = image.flatten(1)[:, kept].double(), ids.flatten()[kept]
        for index in own.unique():
            truth = own == index
            errors = torch.where(truth, 1 - probability[index], probability[index])
            total += envelope(frozenset(truth.nonzero()[:, 0].tolist()), errors.numpy())
    return total


def sample(classes: int, shape: tuple[int, int, int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(shape[0], classes, *shape[1:], generator=generator)
    return logits, torch.randint(0, classes, shape, generator=generator)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("classes", "shape"), [(2, (1, 2, 3)), (3, (2, 2, 4)), (5, (1, 3, 3)), (4, (3, 1, 1))])
def test_it_is_the_convex_envelope_of_the_jaccard_loss(classes, shape, seed):
    logits, mask = sample(classes, shape, seed)
    assert lovasz_sum(logits, mask, IGNORE).item() == close(by_definition(logits, mask))
    mask[torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.4] = IGNORE
    assert lovasz_sum(logits, mask, IGNORE).item() == close(by_definition(logits, mask))


@pytest.mark.parametrize("wrong", [(), (0,), (1,), (0, 3), (0, 1, 2, 3)])
def test_of_hard_predictions_it_is_one_minus_the_iou(wrong):
    """Pixels 0 and 1 are class 1, 2 and 3 background."""
    mask = torch.tensor([[[1, 1, 0, 0]]])
    predicted = torch.tensor([[[1 - int(i) if n in wrong else int(i) for n, i in enumerate(mask[0, 0])]]])
    logits = 200 * torch.nn.functional.one_hot(predicted, 2).movedim(-1, 1).float()
    pairs = [frozenset({0, 1}), frozenset({2, 3})]
    expected = sum(jaccard_loss(truth, frozenset(wrong)) for truth in pairs)
    assert lovasz_sum(logits, mask, IGNORE).item() == close(expected)


def test_one_pixel_and_one_class_by_hand():
    """One pixel: its error. One class everywhere: the mean error."""
    logits = torch.tensor([0.2, 0.8]).log().view(1, 2, 1, 1)
    assert lovasz_sum(logits, torch.tensor([[[1]]]), IGNORE).item() == close(0.2)
    probability = torch.tensor([0.9, 0.5, 0.1, 0.7])
    logits = torch.stack([(1 - probability).log(), probability.log()]).view(1, 2, 2, 2)
    assert lovasz_sum(logits, torch.ones(1, 2, 2, dtype=torch.int64), IGNORE).item() == close(1 - 0.55)


@pytest.mark.parametrize("seed", range(3))
def test_gradients(seed):
    logits, mask = sample(4, (2, 3, 5), seed)
    mask[0, 0, :3] = IGNORE
    logits = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda values: lovasz_sum(values, mask, IGNORE), (logits,))
    (gradient,) = torch.autograd.grad(lovasz_sum(logits, mask, IGNORE), logits)
    assert (gradient[0, :, 0, :3] == 0).all() and (gradient[1] != 0).any()


def test_all_ignored_is_zero_with_a_gradient_of_zero():
    logits = torch.randn(2, 3, 2, 2).requires_grad_()
    value = lovasz_sum(logits, torch.full((2, 2, 2), IGNORE), IGNORE)
    value.backward()
    assert value.item() == 0 and torch.equal(logits.grad, torch.zeros_like(logits))


def test_it_is_a_sum_over_images():
    """With another number of classes on each: none, one, some."""
    logits, mask = sample(5, (4, 3, 3), 7)
    mask[1], mask[2] = 4, IGNORE
    logits.requires_grad_()
    parts = sum(lovasz_sum(logits[i : i + 1], mask[i : i + 1], IGNORE) for i in range(4))
    whole = lovasz_sum(logits, mask, IGNORE)
    assert_close(whole, parts)
    assert_close(*(torch.autograd.grad(value, logits)[0] for value in (whole, parts)))


# --- the term ---


def targets(mask: torch.Tensor, classes: int, unannotated: torch.Tensor | None = None) -> Targets:
    listed = torch.zeros(len(mask), classes, dtype=torch.bool)
    extent = torch.tensor([[0, 0, *mask.shape[1:]]] * len(mask), dtype=torch.int32)
    return Targets(mask, IGNORE, extent, unannotated, listed, listed.any(1), None)


def output(logits: torch.Tensor) -> Outputs:
    return Outputs(SegmenterOutput(logits, 4, None, logits))


def test_the_term_compares_the_middle_of_each_cell():
    """A class that no middle holds is neither summed nor counted."""
    term = Lovasz(0.5, 4)
    mask = torch.full((1, 8, 8), 2)
    mask[0, 2::4, 2::4] = torch.tensor([[0, 1], [1, IGNORE]])
    logits = torch.randn(1, 3, 2, 2)
    small = torch.tensor([[[0, 1], [1, IGNORE]]])
    assert term.count(targets(mask, 3)).item() == present_classes(small, IGNORE, 3).item() == 2
    assert_close(term.sum(targets(mask, 3), output(logits)), lovasz_sum(logits, small, IGNORE))
    (built,) = [t for t in segmentation_losses(LossConfig(lovasz=0.5), finest_stride=4, head_sees_conditioning=False)
                if t.name == "lovasz"]  # fmt: skip
    assert built == term


def test_calling_background_an_unannotated_id_costs_nothing():
    """Id 2 is annotated by nobody: its probability counts for background, and it has no term of its own."""
    term, hidden = Lovasz(1.0, 1), torch.tensor([[False, False, True]])
    mask = torch.tensor([[[0, 1]]])
    probability = torch.tensor([[0.5, 0.25, 0.25], [1 / 6, 1 / 3, 1 / 2]])
    swapped = probability.clone()
    swapped[0, 0], swapped[0, 2] = probability[0, 2], probability[0, 0]
    # merged, id 0 has 3/4 and 2/3, id 1 has 1/4 and 1/3
    merged = torch.tensor([[0.75, 0.25, 1e-9], [2 / 3, 1 / 3, 1e-9]])
    expected = lovasz_sum(merged.log().T[None, :, None, :], mask, IGNORE)
    for each in (probability, swapped):
        logits = each.log().T[None, :, None, :].clone().requires_grad_()
        found = term.sum(targets(mask, 3, hidden), output(logits))
        found.backward()
        assert_close(found, expected)
        assert torch.isfinite(logits.grad).all()
    # the mask has id 2, so that it is annotated after all
    logits, both = probability.log().T[None, :, None, :], torch.tensor([[[0, 2]]])
    assert_close(term.sum(targets(both, 3, hidden), output(logits)), lovasz_sum(logits, both, IGNORE))
