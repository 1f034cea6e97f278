"""A segmenter for any names that was fitted to some: cells of a frozen ViT compared with what names should look like.

    network = OpenVocabularyNetwork(encoder, text, mean, std)
    moments = network.new_moments()
    network.accumulate(moments, image, mask, ignore_id=255)    # each training image once
    network.add(moments)                             # then it is fitted
    network(image).logits                            # (B, K, h, w), the classes that it was fitted to
    NamedSegmenter(network, embeddings, known)       # the same for other names

`models/text/projection.py` has the method. It is not CLIP: the text embeddings were never trained with images, and what
they mean for images is learned from the names of the training classes alone.

Shape letters: B images; H, W of an image; h, w grid of tokens; C channels of a token; K classes; n names.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import normalize

from foodseg.classes import BACKGROUND
from foodseg.errors import UserError
from foodseg.models.backbones.vit import STRIDE, TokenEncoder
from foodseg.models.segmenter import SegmenterOutput
from foodseg.models.text.projection import UNSEEN_OFFSET, Moments, Projection

SCALE = 20.0  # of the cosines; the calibration's temperature corrects it
FOOD_SCALE = 5.0  # of what says whether a cell is food, which is about 1 or -1
SAMPLE = 4  # pixels from one sample of the mask to the next
PURE = 0.75  # share of a cell's pixels that must have one class for the cell to count in training


class OpenVocabularyNetwork(nn.Module):
    """A frozen ViT and sums over its training images, from which the class scores follow in closed form.

    Attributes:
        stride, size_multiple: 16. text_table: (K, D) raw class embeddings; row 0 is not used.
    """

    fusion = None
    mean: torch.Tensor
    std: torch.Tensor
    text_table: torch.Tensor
    sums: torch.Tensor
    counts: torch.Tensor
    food: torch.Tensor
    background: torch.Tensor

    def __init__(
        self, encoder: TokenEncoder, text: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.backbone = encoder
        self.stride = self.size_multiple = STRIDE
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("text_table", text.clone())
        for name, value in vars(Moments.empty(len(text), encoder.channels)).items():
            self.register_buffer(name, value)
        self._projection: Projection | None = None
        self.register_load_state_dict_post_hook(_forget)

    @property
    def moments(self) -> Moments:
        """The sums, which `projection` follows from."""
        return Moments(self.sums, self.counts, self.food, self.background)

    def new_moments(self) -> Moments:
        """Returns sums of nothing, where the model is."""
        return Moments.empty(len(self.counts), self.backbone.channels, self.counts.device)

    def add(self, moments: Moments) -> None:
        """Adds sums over other images."""
        for name, value in vars(moments).items():
            getattr(self, name).add_(value)
        self._projection = None

    @torch.no_grad()
    def accumulate(self, moments: Moments, image: torch.Tensor, mask: torch.Tensor, ignore_id: int) -> int:
        """Adds some images to sums that are not the model's yet; returns how many cells had one class.

        Args:
            image: (B, 3, H, W) float in [0, 1]. mask: (B, H, W) int64 class ids; padding is `ignore_id`.
        """
        tokens = self._tokens(image).float()
        ids = cell_ids(mask, tokens.shape[2:], len(self.counts), ignore_id)
        for cells, own in zip(tokens.flatten(2).mT, ids.flatten(1), strict=True):
            moments.add(cells, own)
        return int((ids >= 0).sum())

    @property
    def projection(self) -> Projection:
        """What the sums say; UserError: they hold no background, or fewer than two foods."""
        if self._projection is None or self._projection.centre.device != self.counts.device:
            counts = self.counts.cpu()
            foods = int((counts[BACKGROUND + 1 :] > 0).sum())
            if counts[BACKGROUND] == 0 or foods < 2:
                raise UserError(
                    f"model.kind = open_vocabulary learns from cells of {STRIDE} pixels that have one class: it needs "
                    f"background and two foods, and found {foods} foods and {int(counts[BACKGROUND])} images with "
                    "background; larger images (augment.longest_side) have more such cells"
                )
            self._projection = Projection.of(self.moments, self.text_table).to(self.counts.device)
        return self._projection

    def forward(self, image: torch.Tensor) -> SegmenterOutput:
        """(B, 3, H, W) float in [0, 1] -> logits of the classes that it was fitted to; zeros where it is not yet."""
        tokens = self._tokens(image)
        if not self.counts.any():
            return SegmenterOutput(
                tokens.new_zeros(len(tokens), len(self.counts), *tokens.shape[2:]), STRIDE, None, tokens
            )
        known = torch.where(self.projection.known, torch.arange(len(self.counts), device=image.device), -1)[1:]
        return self._scored(tokens, self.text_table[1:], known)

    def scored(self, image: torch.Tensor, text: torch.Tensor, known: torch.Tensor) -> SegmenterOutput:
        """Scores names.

        Args:
            image: (B, 3, H, W) float in [0, 1]. text: (n, D) raw embeddings. known: (n,) int64, for each name the class
                whose prototype it has, -1 = none.

        Returns:
            Logits (B, 1 + n, h, w), background first.
        """
        return self._scored(self._tokens(image), text, known)

    def _scored(self, tokens: torch.Tensor, text: torch.Tensor, known: torch.Tensor) -> SegmenterOutput:
        offsets = UNSEEN_OFFSET * (known < 0) if (known >= 0).any() else torch.zeros_like(known, dtype=torch.float32)
        logits = token_logits(tokens, self.projection, self.projection.directions(text, known), offsets)
        return SegmenterOutput(logits, STRIDE, None, tokens)

    def _tokens(self, image: torch.Tensor) -> torch.Tensor:
        tokens: torch.Tensor = self.backbone((image - self.mean) / self.std)
        return tokens


class NamedSegmenter(nn.Module):
    """An open-vocabulary network for other names than its classes. Id 0 is background, id i the i-th name.

    The classes that it was fitted to and that are not among the names compete, too; background is where one of them
    wins, which is "none of these".

    Attributes:
        stride, size_multiple: 16.
    """

    fusion = None

    def __init__(self, network: OpenVocabularyNetwork, text: torch.Tensor, owners: Sequence[int], known: Sequence[int]):
        """Takes words for names.

        Args:
            text: (w, D) raw embeddings of words. owners: of each word the index of its name, from 1 on.
            known: of each word the class that it is the name of, -1 = none.
        """
        super().__init__()
        device = network.counts.device
        self.network = network
        self.stride = self.size_multiple = network.stride
        self.classes = 1 + max(owners)
        prototypes = network.projection.known
        given = [own if own >= 0 and prototypes[own] else -1 for own in known]
        others = [own for own in prototypes.nonzero()[:, 0].tolist() if own not in known]
        self._known = torch.tensor([*given, *others], device=device)
        self._owners = torch.tensor([0, *owners, *[0] * len(others)], device=device)
        self._text = torch.cat([text.to(device), network.text_table[others]])

    @property
    def mean(self) -> torch.Tensor:
        """(1, 3, 1, 1), as of the network."""
        return self.network.mean

    def forward(self, image: torch.Tensor) -> SegmenterOutput:
        """(B, 3, H, W) float in [0, 1] -> logits (B, 1 + n, h, w)."""
        found = self.network.scored(image, self._text, self._known)
        batch, _, height, width = found.logits.shape
        logits = found.logits.new_full((batch, self.classes, height, width), -torch.inf)
        owners = self._owners.view(1, -1, 1, 1).expand_as(found.logits)
        return found._replace(logits=logits.scatter_reduce_(1, owners, found.logits, "amax"))


def token_logits(
    tokens: torch.Tensor, projection: Projection, directions: torch.Tensor, offsets: torch.Tensor
) -> torch.Tensor:
    """Returns (B, 1 + n, h, w) float32 logits, background first.

    Args:
        tokens: (B, C, h, w). directions: (n, C) of length 1, whitened. offsets: (n,), added to the cosines.
    """
    with torch.autocast(tokens.device.type, enabled=False):
        centred = tokens.float().permute(0, 2, 3, 1) - projection.centre
        food = (centred @ projection.probe[:-1] + projection.probe[-1])[..., None]
        cosines = normalize(centred @ projection.whitening, dim=-1) @ directions.T + offsets
        # the best name is level with food, so that background is where a cell is none, however many names there are
        names = SCALE * (cosines - cosines.amax(-1, keepdim=True)) + FOOD_SCALE * food
        return torch.cat([-FOOD_SCALE * food, names], -1).permute(0, 3, 1, 2)


def cell_ids(mask: torch.Tensor, grid: Sequence[int], classes: int, ignore_id: int) -> torch.Tensor:
    """Returns (B, h, w) int64, the class that at least `PURE` of a cell's pixels have, -1 where there is none.

    Args:
        mask: (B, H, W) int64. grid: h, w of cells of `STRIDE` pixels; what is beyond the mask counts as not known.
    """
    samples = mask[:, SAMPLE // 2 :: SAMPLE, SAMPLE // 2 :: SAMPLE]
    side = STRIDE // SAMPLE
    height, width = (cells * side for cells in grid)
    padded = samples.new_full((len(mask), height, width), ignore_id)
    padded[:, : samples.shape[1], : samples.shape[2]] = samples
    cells = padded.view(len(mask), grid[0], side, grid[1], side).permute(0, 1, 3, 2, 4).flatten(3)
    cells = torch.where(cells == ignore_id, classes, cells)
    counts = torch.zeros(*cells.shape[:3], classes + 1, device=mask.device)
    counts.scatter_add_(3, cells, torch.ones_like(cells, dtype=counts.dtype))
    most, ids = counts[..., :classes].max(-1)
    return torch.where(most >= PURE * side**2, ids, -1)


def _forget(network: Any, _: object) -> None:
    network._projection = None
