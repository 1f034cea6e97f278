"""Sums over training images and what follows from them, against the formulas written out."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from foodseg.models.text.projection import PROBE_RIDGE, SHRINKAGE, STRENGTHS, Moments, Projection

K, C, D = 12, 6, 5


Images = list[tuple[torch.Tensor, torch.Tensor]]


def world(seed: int = 0, images: int = 40) -> tuple[Images, torch.Tensor, torch.Tensor]:
    """Images whose foods look as their names say: tokens around a linear map of the embeddings; and background."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(K, D, generator=generator)
    looks = text @ torch.randn(D, C, generator=generator) * 3 + 10
    looks[0] = -10
    found = []
    for index in range(images):
        ids = torch.tensor([0, 1 + index % (K - 1), 1 + (index + 3) % (K - 1), -1]).repeat_interleave(5 + index % 4)
        cells = looks[ids.clamp_min(0)] + 0.3 * torch.randn(len(ids), C, generator=generator)
        found.append((cells, ids))
    return found, text, looks


def summed(images: Images) -> Moments:
    moments = Moments.empty(K, C)
    for cells, ids in images:
        moments.add(cells, ids)
    return moments


def test_an_image_counts_once_for_each_class_on_it() -> None:
    moments = Moments.empty(3, 2)
    moments.add(torch.tensor([[1.0, 0], [3, 2], [5, 5], [9, 9]]), torch.tensor([1, 1, 0, -1]))
    moments.add(torch.tensor([[4.0, 4]]), torch.tensor([1]))
    assert moments.counts.tolist() == [1, 2, 0]
    assert moments.sums.tolist() == [[5, 5], [6, 5], [0, 0]]
    assert moments.food.tolist() == [[(1 + 9) / 2 + 16, (0 + 6) / 2 + 16], [(0 + 6) / 2 + 16, (0 + 4) / 2 + 16]]
    assert moments.background.tolist() == [[25, 25], [25, 25]]


def test_the_order_of_the_images_and_their_split_do_not_matter() -> None:
    images, _, _ = world()
    whole, halves = summed(images), [summed(images[1::2]), summed(images[::2])]
    for name, value in vars(whole).items():
        torch.testing.assert_close(sum(getattr(half, name) for half in halves), value)


def test_nothing_on_an_image() -> None:
    moments = Moments.empty(3, 2)
    moments.add(torch.ones(4, 2), torch.full((4,), -1))
    assert not moments.counts.any() and not moments.sums.any()


def test_scatter_within_the_classes_is_shrunk_to_the_unit_matrix() -> None:
    images, text, _ = world()
    found = Projection.of(summed(images), text)
    within, total = np.zeros((C, C)), 0
    by_class = {k: [cells[ids == k].double().numpy() for cells, ids in images if (ids == k).any()] for k in range(1, K)}
    for parts in by_class.values():
        mean = np.mean([part.mean(0) for part in parts], axis=0)
        within += sum((part - mean).T @ (part - mean) / len(part) for part in parts)
        total += len(parts)
    within /= total
    values, vectors = np.linalg.eigh(within)
    expected = vectors @ np.diag(1 / np.sqrt(values + SHRINKAGE * values.mean())) @ vectors.T
    # sums are float32, and a mean of 10 with a scatter of 0.3 leaves four digits of them
    np.testing.assert_allclose(found.whitening.numpy(), expected, rtol=1e-3, atol=1e-3)
    centre = np.mean([part.mean(0) for parts in by_class.values() for part in parts], axis=0)
    np.testing.assert_allclose(found.centre.numpy(), centre, rtol=1e-5)
    mean = np.mean([part.mean(0) for part in by_class[3]], axis=0)
    np.testing.assert_allclose(found.prototypes[3].numpy(), (mean - centre) @ expected, rtol=1e-3, atol=1e-3)
    assert found.known.tolist() == [False] + [True] * (K - 1)


def test_the_strength_is_that_of_leaving_out_one_class_at_a_time() -> None:
    images, text, _ = world()
    found = Projection.of(summed(images), text)
    rows = normalize(text[1:] - text[1:].mean(0), dim=1).double().numpy()
    prototypes = found.prototypes[1:].double().numpy()

    def ridge(rows: np.ndarray, prototypes: np.ndarray, strength: float) -> np.ndarray:
        return np.linalg.solve(rows.T @ rows + strength * np.eye(D), rows.T @ prototypes)

    def closer(strength: float) -> float:
        share = []
        for left in range(K - 1):
            rest = np.arange(K - 1) != left
            guess = rows[left] @ ridge(rows[rest], prototypes[rest], strength)
            cosines = prototypes @ guess / np.linalg.norm(prototypes, axis=1)
            share.append((cosines > cosines[left]).mean())
        return float(np.mean(share))

    best = min(STRENGTHS, key=closer)
    assert found.strength == best
    np.testing.assert_allclose(found.map.numpy(), ridge(rows, prototypes, best), rtol=1e-3, atol=1e-3)


def test_the_probe_is_a_regression_on_food_and_background() -> None:
    images, text, _ = world()
    found = Projection.of(summed(images), text)
    rows, wanted, weights = [], [], []
    sides = {1.0: 0.0, -1.0: 0.0}
    for cells, ids in images:
        for k in ids[ids >= 0].unique().tolist():
            own = cells[ids == k].double() - found.centre.double()
            side = -1.0 if k == 0 else 1.0
            sides[side] += 1
            rows += [np.append(row, 1) for row in own.numpy()]
            wanted += [side] * len(own)
            weights += [1 / len(own)] * len(own)
    design, target = np.array(rows), np.array(wanted)
    weight = np.array(weights) / np.array([2 * sides[side] for side in wanted])
    normal = design.T @ (design * weight[:, None])
    normal += PROBE_RIDGE * np.trace(normal) / len(normal) * np.eye(C + 1)
    np.testing.assert_allclose(
        found.probe.numpy(), np.linalg.solve(normal, design.T @ (weight * target)), rtol=1e-3, atol=1e-5
    )


def test_a_name_that_was_never_seen_points_to_what_it_looks_like() -> None:
    images, text, looks = world(images=60)
    hidden = torch.tensor([4, 9])
    images = [(cells, torch.where(torch.isin(ids, hidden), -1, ids)) for cells, ids in images]
    found = Projection.of(summed(images), text)
    assert not found.known[hidden].any()
    truth = normalize((looks[hidden] - found.centre) @ found.whitening, dim=1)
    directions = found.directions(text[hidden])
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(2))
    cosines = directions @ truth.T
    assert cosines.argmax(1).tolist() == [0, 1] and float(cosines.diagonal().min()) > 0.7
    exchanged = found.directions(text[hidden.flip(0)])
    torch.testing.assert_close(exchanged, directions.flip(0))


def test_a_name_of_a_trained_class_has_its_prototype() -> None:
    images, text, _ = world()
    found = Projection.of(summed(images), text)
    both = found.directions(text[[3, 3]], torch.tensor([3, -1]))
    torch.testing.assert_close(both[0], normalize(found.prototypes[3], dim=0))
    torch.testing.assert_close(both[1:], found.directions(text[[3]]))


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_size_of_the_tokens_does_not_matter(scale: float) -> None:
    images, text, _ = world()
    plain = Projection.of(summed(images), text).directions(text[1:])
    scaled = Projection.of(summed([(cells * scale, ids) for cells, ids in images]), text).directions(text[1:])
    torch.testing.assert_close(scaled, plain, rtol=1e-3, atol=1e-3)
