"""From names to what a frozen ViT sees: a ridge regression of class prototypes on text embeddings, in closed form.

    moments = Moments.empty(classes, width)
    moments.add(cells, ids)                  # of each training image: (N, C) tokens and their class ids
    projection = Projection.of(moments, text)
    directions = projection.directions(text, projection.known)    # (K, C), of length 1

Nothing is trained by gradients: sums over the training images are enough, which can be taken in any order by any number
of processes. An image counts once for each class on it, however many cells the class has. In the space where the
scatter within the classes is the unit matrix (as in linear discriminant analysis, shrunk as by Ledoit and Wolf), the
prototype of a class is the mean of its tokens. The map from embeddings to prototypes is a ridge regression over the
classes that have any (zero-shot learning as by Romera-Paredes and Torr, 2015), its strength chosen by leaving out one
class at a time. Whether a cell is food at all is a linear regression on food and background cells.

With at most some dozen names a map that is learned by gradients overfits: `experiments/open_vocabulary` compares.

Shape letters: K classes; C channels of a token; D width of a text embedding; N cells.
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import normalize

from foodseg.classes import BACKGROUND

SHRINKAGE = 1.0  # of the mean eigenvalue of the scatter, added to all; between 0.3 and 3 nothing changes
PROBE_RIDGE = 0.01  # of the mean second moment
# cosine that a name without training images gets in addition, where names with prototypes compete: chosen on inner
# splits of experiments/open_vocabulary; without it hardly a cell would be given such a name
UNSEEN_OFFSET = 0.2
STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # of the ridge regression; embeddings have length 1


@dataclass
class Moments:
    """Sums over training images, each weighted 1 / (its cells of that class); all of one floating dtype.

    Attributes:
        sums: (K, C) of the tokens of each class. counts: (K,) images of each class.
        food, background: (C, C) second moments, sums of outer products, of the cells of foods and of background.
    """

    sums: torch.Tensor
    counts: torch.Tensor
    food: torch.Tensor
    background: torch.Tensor

    @classmethod
    def empty(cls, classes: int, width: int, device: torch.device | str = "cpu") -> "Moments":
        """Returns sums of nothing, float32."""
        zeros = torch.zeros(width, width, device=device)
        return cls(
            torch.zeros(classes, width, device=device), torch.zeros(classes, device=device), zeros, zeros.clone()
        )

    def add(self, cells: torch.Tensor, ids: torch.Tensor) -> None:
        """Adds one image.

        Args:
            cells: (N, C) float tokens. ids: (N,) int64 class of each, -1 = not known.
        """
        known = ids >= 0
        cells, ids = cells[known].to(self.sums.dtype), ids[known]
        each = torch.bincount(ids, minlength=len(self.counts))
        weights = 1 / each[ids].to(cells.dtype)
        weighted = cells * weights[:, None]
        self.sums.index_add_(0, ids, weighted)
        self.counts += (each > 0).to(self.counts.dtype)
        foods = ids != BACKGROUND
        self.food += weighted[foods].T @ cells[foods]
        self.background += weighted[~foods].T @ cells[~foods]


@dataclass(frozen=True, eq=False)
class Projection:
    """What `Moments` and text embeddings say; float32.

    Attributes:
        centre: (C,) mean token of food. whitening: (C, C).
        probe: (C + 1,) weights and bias: above 0 where a token less `centre` is food.
        prototypes: (K, C) whitened; known: (K,) bool, which classes have one (never background).
        text_centre: (D,) mean embedding of those. map: (D, C), from centred embeddings of length 1 to prototypes.
        strength: of the ridge regression.
    """

    centre: torch.Tensor
    whitening: torch.Tensor
    probe: torch.Tensor
    prototypes: torch.Tensor
    known: torch.Tensor
    text_centre: torch.Tensor
    map: torch.Tensor
    strength: float

    @classmethod
    def of(cls, moments: Moments, text: torch.Tensor) -> "Projection":
        """Solves in float64 on the CPU.

        Args:
            moments: with background and at least two foods. text: (K, D) raw embeddings; row 0 is not used.
        """
        sums, counts, food, background, text = (
            part.detach().cpu().double()
            for part in (moments.sums, moments.counts, moments.food, moments.background, text)
        )
        known = counts > 0
        known[BACKGROUND] = False
        means, images = sums[known] / counts[known, None], counts[known]
        centre = sums[known].sum(0) / images.sum()
        within = (food - (means * images[:, None]).T @ means) / images.sum()
        values, vectors = torch.linalg.eigh(within)
        values = values.clamp_min(0)
        whitening = (vectors * (values + SHRINKAGE * values.mean()) ** -0.5) @ vectors.T
        prototypes = torch.zeros_like(sums)
        prototypes[known] = (means - centre) @ whitening
        text_centre = text[known].mean(0)
        strength, mapped = _ridge(normalize(text[known] - text_centre, dim=1), prototypes[known])
        probe = _probe(sums, counts, food, background, centre)
        solved = (centre, whitening, probe, prototypes)
        centre, whitening, probe, prototypes = (part.float() for part in solved)
        return cls(centre, whitening, probe, prototypes, known, text_centre.float(), mapped.float(), strength)

    def directions(self, text: torch.Tensor, known: torch.Tensor | None = None) -> torch.Tensor:
        """Returns (n, C) directions of length 1 in the whitened space.

        Args:
            text: (n, D) raw embeddings. known: (n,) int64, the class whose prototype is taken instead, -1 = none.
        """
        found = normalize(text - self.text_centre, dim=1) @ self.map
        if known is not None:
            found = torch.where(known[:, None] >= 0, self.prototypes[known.clamp_min(0)], found)
        return normalize(found, dim=1)

    def to(self, device: torch.device) -> "Projection":
        """Returns it on another device."""
        parts = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        return Projection(**parts, strength=self.strength)


def _ridge(text: torch.Tensor, prototypes: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Returns the strength and the (D, C) map.

    Of (n, D) embeddings and (n, C) prototypes each class is predicted by a regression on the others, in closed form;
    that strength is taken at which the fewest prototypes of other classes are closer to it than its own.
    """
    kernel = text @ text.T
    best: tuple[float, float, torch.Tensor] | None = None
    for strength in STRENGTHS:
        inverse = torch.linalg.inv(kernel + strength * torch.eye(len(kernel), dtype=kernel.dtype))
        dual = inverse @ prototypes
        left_out = prototypes - dual / inverse.diagonal()[:, None]
        similar = normalize(left_out, dim=1) @ normalize(prototypes, dim=1).T
        closer = float((similar > similar.diagonal()[:, None]).double().mean())
        if best is None or closer < best[0]:
            best = closer, strength, text.T @ dual
    assert best is not None
    return best[1], best[2]


def _probe(
    sums: torch.Tensor, counts: torch.Tensor, food: torch.Tensor, background: torch.Tensor, centre: torch.Tensor
) -> torch.Tensor:
    """Returns (C + 1,) weights and bias of a least-squares fit: 1 on food, -1 on background, both with equal weight."""
    foods = counts[BACKGROUND + 1 :].sum()
    sides = [
        (food, sums[BACKGROUND + 1 :].sum(0), foods),
        (background, sums[BACKGROUND], counts[BACKGROUND]),
    ]
    second, means = [], []
    for moment, total, images in sides:
        outer = torch.outer(total, centre)
        second.append((moment - outer - outer.T) / images + torch.outer(centre, centre))
        means.append(total / images - centre)
    width = len(centre)
    normal = torch.zeros(width + 1, width + 1, dtype=centre.dtype)
    normal[:width, :width] = (second[0] + second[1]) / 2
    normal[:width, width] = normal[width, :width] = (means[0] + means[1]) / 2
    normal[width, width] = 1
    wanted = torch.cat([(means[0] - means[1]) / 2, torch.zeros(1, dtype=centre.dtype)])
    normal += PROBE_RIDGE * normal.diagonal().mean() * torch.eye(width + 1, dtype=centre.dtype)
    return torch.linalg.solve(normal, wanted)
