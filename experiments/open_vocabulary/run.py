"""Can a name without training images be found, by its text embedding alone? `python -m experiments open_vocabulary`.

`unseen` compares ways from text to image among held-out names and background; `generalised` has all names compete;
`images` draws some. The protocol is in `held_out.py`, the method in `foodseg/models/text/projection.py`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import torch
from torch.nn.functional import cross_entropy, normalize

from experiments.foodmix import class_embeddings
from experiments.item_queue import Bench, Item
from experiments.open_vocabulary.held_out import (
    Image,
    counted,
    moments_without,
    predicted_ids,
    read_images,
    read_pixels,
    splits_of,
)
from foodseg.classes import BACKGROUND, ClassTable
from foodseg.models.text.class_embeddings import read_table
from foodseg.models.text.projection import UNSEEN_OFFSET, Moments, Projection
from foodseg.report.overlay import contact_sheet, overlay

PERMUTATIONS = 10_000
DRAWS = 5  # of random embeddings, and of one labelled image per class
OFFSETS = (0.1, 0.15, 0.2, 0.25, 0.3)
TEMPERATURES = (0.02, 0.05, 0.1, 0.2, 0.5)
STEPS = (10, 30, 100, 300)  # of the learned map; chosen on the next split
SCALE, RATE, CELLS = 40.0, 1e-3, 2048


class Split(NamedTuple):
    """Classes that are held out, the images that hold any of them, and what was fitted to the others."""

    held_out: list[int]
    images: list[Image]
    moments: Moments
    projection: Projection


def _open(bench: Bench) -> tuple[list[Image], tuple[str, ...], int, torch.Tensor, list[list[int]]]:
    images, names, ignore = read_images(bench)
    text = read_table(str(class_embeddings(bench)["names"])).embeddings
    return images, names, ignore, text, splits_of(images)


def _fitted(images: Sequence[Image], held_out: list[int], text: torch.Tensor, also: Sequence[int] = ()) -> Split:
    moments = moments_without(images, [*held_out, *also], len(text))
    shown = [image for image in images if image.classes & set(held_out)]
    return Split(held_out, shown, moments, Projection.of(moments, text))


Directions = Callable[[Split], torch.Tensor]
"""(n, C) of the held-out classes of a split."""


def unseen(bench: Bench) -> dict[str, Any]:
    """mIoU of held-out names with background as the only other candidate, and whether it depends on the names."""
    images, names, ignore, text, held_out = _open(bench)
    splits = [_fitted(images, own, text) for own in held_out]
    following = [_fitted(images, held_out[(i + 1) % len(held_out)], text, own) for i, own in enumerate(held_out)]
    steps = [_best_steps(split, images, text, ignore) for split in following]
    learned = {id(split): chosen for split, chosen in zip(splits, steps, strict=True)}
    ways: dict[str, list[Directions]] = {
        "ridge (shipped)": [lambda split: split.projection.directions(text[split.held_out])],
        "mix of prototypes": [lambda split: _mix(split.projection, text, split.held_out)],
        "learned map": [lambda split: _learned(split, images, text, learned[id(split)])],
        "random embeddings": [
            lambda split, seed=seed: _of_other_text(split, _random(text, seed)) for seed in range(DRAWS)
        ],
        "one labelled image per class": [
            lambda split, seed=seed: _of_images(split, seed) for seed in range(DRAWS)
        ],
        "all labelled images (oracle)": [lambda split: _of_images(split, None)],
    }  # fmt: skip
    figures: dict[str, Any] = {}
    for way, makers in ways.items():
        found = [
            [counted(split.images, split.projection, make(split), split.held_out, ignore)[0.0] for split in splits]
            for make in makers
        ]
        scores = [np.concatenate([_ious(matrix)[1:] for matrix in matrices]) for matrices in found]
        null = _permuted(found[0])
        figures[way] = {
            "miou": round(float(np.mean(scores)), 4),
            "draws": [round(float(score.mean()), 4) for score in scores],
            "permuted names": round(float(null.mean()), 4),
            "p": round(float((1 + (null >= scores[0].mean() - 1e-12).sum()) / (1 + len(null))), 5),
            "background": round(float(np.mean([_ious(matrix)[BACKGROUND] for matrix in found[0]])), 4),
            "classes": {
                names[own]: round(float(score), 4)
                for own, score in zip((own for split in held_out for own in split), np.mean(scores, 0), strict=True)
            },
        }
    figures["nearest trained name"] = {
        names[own]: _nearest(split.projection, text, own, names) for split in splits for own in split.held_out
    }
    figures["steps of the learned map"] = steps
    figures["images"] = len(images)
    return figures


def generalised(bench: Bench) -> dict[str, Any]:
    """mIoU of held-out and of trained names when all names compete, by whole cells; the offset is chosen on the next
    split."""
    images, _, ignore, text, held_out = _open(bench)
    rows: list[dict[str, Any]] = []
    for index, own in enumerate(held_out):
        following = held_out[(index + 1) % len(held_out)]
        inner = _all_names(_fitted(images, following, text, own), images, text, ignore, following, own)
        chosen = max(inner, key=lambda offset: inner[offset][2])
        outer = _all_names(_fitted(images, own, text), images, text, ignore, own, [])
        rows.append({"offset": chosen, "chosen": outer[chosen], "shipped": outer[UNSEEN_OFFSET]})
    names = ("held out", "trained", "harmonic")
    means = {kind: np.mean([row[kind] for row in rows], 0).round(4).tolist() for kind in ("chosen", "shipped")}
    return {"splits": rows, **{kind: dict(zip(names, mean, strict=True)) for kind, mean in means.items()}}


def images(bench: Bench) -> dict[str, Any]:
    """Draws the two images of each split with the most held-out classes: truth, and what the names find."""
    shown, names, ignore, text, held_out = _open(bench)
    classes = ClassTable(names)
    drawn = []
    for own in held_out:
        split = _fitted(shown, own, text)
        directions = split.projection.directions(text[own])
        for image in sorted(split.images, key=lambda image: -len(image.classes & set(own)))[:2]:
            ids = np.array([BACKGROUND, *own], np.uint8)[predicted_ids(image, split.projection, directions)]
            truth = np.where(np.isin(image.mask, [BACKGROUND, *own]), image.mask, ignore)
            pixels = read_pixels(bench, image)
            drawn += [overlay(pixels, mask, classes) for mask in (truth, ids)]
    where = bench.work / "open_vocabulary.png"
    PIL.Image.fromarray(contact_sheet(drawn, columns=4)).save(where)
    return {"images": len(drawn) // 2}


def _all_names(
    split: Split,
    images: Sequence[Image],
    text: torch.Tensor,
    ignore: int,
    unseen: Sequence[int],
    left_out: Sequence[int],
) -> dict[float, tuple[float, float, float]]:
    """Returns by offset the mIoU of unseen and of trained names, and their harmonic mean; `left_out` do not compete."""
    projection = split.projection
    ids = [own for own in range(1, len(text)) if own not in left_out]
    known = torch.tensor([own if projection.known[own] else -1 for own in ids])
    directions = projection.directions(text[ids], known)
    offsets = {offset: offset * (known < 0).float() for offset in OFFSETS}
    found = counted(images, projection, directions, ids, ignore, offsets, whole_cells=True)
    answer = {}
    for offset, matrix in found.items():
        ious = dict(zip(ids, _ious(matrix)[1:], strict=True))
        occurring = dict(zip(ids, matrix.sum(1)[1:] > 0, strict=True))
        of_unseen = float(np.mean([ious[own] for own in unseen]))
        of_trained = float(np.mean([ious[own] for own in ids if projection.known[own] and occurring[own]]))
        answer[offset] = (of_unseen, of_trained, 2 * of_unseen * of_trained / (of_unseen + of_trained))
    return answer


def _ious(matrix: np.ndarray) -> np.ndarray:
    hit = np.diag(matrix)
    return hit / np.maximum(matrix.sum(0) + matrix.sum(1) - hit, 1)


def _permuted(matrices: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the mean IoU over the classes of all splits for each permutation of the names within their split.

    The model never saw the names, so that exchanging their embeddings exchanges columns of the confusion matrix.
    """
    rng = np.random.default_rng(0)
    total, classes = np.zeros(PERMUTATIONS), 0
    for matrix in matrices:
        names = matrix[1:, 1:]
        union = matrix.sum(1)[1:, None] + matrix.sum(0)[None, 1:] - names
        exchanged = names / np.maximum(union, 1)
        orders = rng.permuted(np.tile(np.arange(len(names)), (PERMUTATIONS, 1)), axis=1)
        total += exchanged[np.arange(len(names)), orders].sum(1)
        classes += len(names)
    return total / classes


def _nearest(projection: Projection, text: torch.Tensor, own: int, names: Sequence[str]) -> dict[str, Any]:
    """The trained name whose embedding is closest, as it is and after centring."""
    trained = projection.known.nonzero()[:, 0]
    raw = normalize(text, dim=1)
    cosines = raw[trained] @ raw[own]
    best = int(cosines.argmax())
    centred = normalize(text - projection.text_centre, dim=1)
    return {
        "name": names[int(trained[best])],
        "cosine": round(float(cosines[best]), 3),
        "centred": round(float(centred[trained[best]] @ centred[own]), 3),
    }


def _mix(projection: Projection, text: torch.Tensor, held_out: Sequence[int]) -> torch.Tensor:
    """Mean of the trained prototypes, weighted by the softmax of the names' cosines; sharpness by leave-one-out."""
    centred = normalize(text - projection.text_centre, dim=1)
    trained, prototypes = centred[projection.known], projection.prototypes[projection.known]
    similar = trained @ trained.T
    similar.fill_diagonal_(-torch.inf)

    def closer(temperature: float) -> float:
        left_out = normalize((similar / temperature).softmax(1) @ prototypes, dim=1)
        cosines = left_out @ normalize(prototypes, dim=1).T
        return float((cosines > cosines.diagonal()[:, None]).float().mean())

    best = min(TEMPERATURES, key=closer)
    return normalize((centred[held_out] @ trained.T / best).softmax(1) @ prototypes, dim=1)


def _random(text: torch.Tensor, seed: int) -> torch.Tensor:
    return torch.randn(text.shape, generator=torch.Generator().manual_seed(seed))


def _of_other_text(split: Split, text: torch.Tensor) -> torch.Tensor:
    return Projection.of(split.moments, text).directions(text[split.held_out])


def _of_images(split: Split, seed: int | None) -> torch.Tensor:
    """Prototypes of labelled images of the held-out classes: one of each, or all (None)."""
    rng = np.random.default_rng(seed)
    means = []
    for own in split.held_out:
        cells = [image.tokens[:, image.cells == own].float() for image in split.images if (image.cells == own).any()]
        chosen = cells if seed is None else [cells[rng.integers(len(cells))]]
        means.append(torch.stack([each.mean(1) for each in chosen]).mean(0))
    projection = split.projection
    return normalize((torch.stack(means) - projection.centre) @ projection.whitening, dim=1)


def _learned(split: Split, images: Sequence[Image], text: torch.Tensor, steps: int) -> torch.Tensor:
    """A linear map trained by cross entropy over the cells of trained classes, each class as often as any other."""
    projection = split.projection
    trained = projection.known.nonzero()[:, 0]
    centred = normalize(text - projection.text_centre, dim=1)
    cells, labels = [], []
    for image in images:
        usable = torch.isin(image.cells, trained)
        cells.append(image.tokens[:, usable].T)
        labels.append(torch.searchsorted(trained, image.cells[usable]))
    features, wanted = torch.cat(cells), torch.cat(labels)
    weights = 1 / torch.bincount(wanted).float()[wanted]
    generator = torch.Generator().manual_seed(0)
    learned = torch.randn(text.shape[1], features.shape[1], generator=generator) * 0.02
    learned.requires_grad_(True)
    optimizer = torch.optim.Adam([learned], lr=RATE)
    for _ in range(steps):
        chosen = torch.multinomial(weights, CELLS, replacement=True, generator=generator)
        shown = normalize((features[chosen].float() - projection.centre) @ projection.whitening, dim=1)
        logits = SCALE * shown @ normalize(centred[trained] @ learned, dim=1).T
        optimizer.zero_grad()
        cross_entropy(logits, wanted[chosen]).backward()
        optimizer.step()
    return normalize(centred[split.held_out] @ learned.detach(), dim=1)


def _best_steps(split: Split, images: Sequence[Image], text: torch.Tensor, ignore: int) -> int:
    def score(steps: int) -> float:
        directions = _learned(split, images, text, steps)
        matrix = counted(split.images, split.projection, directions, split.held_out, ignore)[0.0]
        return float(_ious(matrix)[1:].mean())

    return max(STEPS, key=score)


ITEMS: list[Item] = [("unseen", unseen), ("generalised", generalised), ("images", images)]
