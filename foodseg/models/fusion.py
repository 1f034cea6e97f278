"""How the names of the ingredients enter the segmenter: as score map, as cross-attention, or as scale and shift.

Cross-attention is a block of our own on a level of a timm pyramid, or that of the diffusion UNet (`Tokens`).

All take the class embeddings (`NameVectors`) and a list of the names that may be on the image. A name that is not
on the list has no influence at all; background, and where names are pooled or attended to a learned null token, are
never masked: a list of one name would give it attention 1 everywhere, and an empty one NaN.

Shape letters: B images; K ids (0 = background); D width of the vectors; C channels; h, w grid of a level.
"""

import math

import torch
from torch import nn
from torch.nn.functional import normalize, scaled_dot_product_attention

WIDTH, HEADS, CONTEXT_LAYERS = 256, 8, 3
TEMPERATURE = 0.07  # CLIP's
OFF_LIST = math.log(100)  # at first, a name off the list is a hundred times less probable than the image says


class NameVectors(nn.Module):
    """The rows of a table of names, with a learned vector for background in row 0, and perhaps a null token behind."""

    def __init__(self, table: torch.Tensor, *, centre: bool, null: bool, length: float = 1.0) -> None:
        """`table` (K, D) float32; `centre`: subtract the mean of its names and bring each row to `length`.

        A name that is alone (K = 2) keeps its direction: less its own mean it would be 0, and say nothing.
        """
        super().__init__()
        self._centre, self._length = centre, length
        rows = self._rows(table, table)
        size = rows.norm(dim=1).mean() / table.shape[1] ** 0.5  # learned vectors start as long as the others
        self.background = nn.Parameter(torch.randn(table.shape[1]) * size)
        self.null = nn.Parameter(torch.randn(table.shape[1]) * size) if null else None

    def forward(self, text: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """Raw rows (K, D) -> (K, D), or (K + 1, D) with the null token last; `table` says what the mean of names is."""
        learned = [] if self.null is None else [self.null[None]]
        return torch.cat([self.background[None], self._rows(text, table), *learned])

    def _rows(self, text: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        if not self._centre:
            return text[1:]
        return self._length * normalize(text[1:] - table[1:].mean(0) if len(table) > 2 else text[1:], dim=1)


class Adapter(nn.Module):
    """vectors + gamma x MLP(vectors), as in VPD (Zhao et al., 2023); gamma, one per channel, is learned."""

    def __init__(self, width: int, gamma: float) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.gamma = nn.Parameter(torch.full((width,), gamma))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """(..., D) -> (..., D)."""
        return vectors + self.gamma * self.mlp(vectors)


class ContextDecoder(nn.Module):
    """What the image tells of each name: names attend to each other and to places (DenseCLIP, Rao et al., 2022)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.names = nn.Sequential(nn.Linear(width, WIDTH), nn.LayerNorm(WIDTH))
        self.places = nn.Sequential(nn.Linear(width, WIDTH), nn.LayerNorm(WIDTH))
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(
                WIDTH, HEADS, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(CONTEXT_LAYERS)
        )
        self.out = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, width))

    def forward(self, names: torch.Tensor, places: torch.Tensor, allowed: torch.Tensor | None) -> torch.Tensor:
        """Names (K, D), places (B, n, D), allowed (B, K) bool -> (B, K, D); names that are not allowed tell nothing."""
        own = self.names(names).expand(len(places), -1, -1)
        seen = self.places(torch.cat([places.mean(1, keepdim=True), places], 1))
        for layer in self.layers:
            own = layer(own, seen, tgt_key_padding_mask=None if allowed is None else ~allowed)
        return self.out(own)


class ScoreMap(nn.Module):
    """The cosines of each place and each name as K extra channels of a level (DenseCLIP, Rao et al., 2022).

    The decoder's 1x1 convolution of a level with K more channels is that of the level plus one of the K: the second
    one is here and starts at 0, so that the decoder is the image-only model's, its initial numbers too.
    """

    def __init__(self, channels: int, classes: int, width: int, pyramid_channels: int, gamma: float) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, width, 1)
        self.context = ContextDecoder(width)
        self.gamma = nn.Parameter(torch.full((width,), gamma))
        self.log_scale = nn.Parameter(torch.tensor(1 / TEMPERATURE).log())
        self.extra = nn.Conv2d(classes, pyramid_channels, 1, bias=False)
        nn.init.zeros_(self.extra.weight)

    def forward(
        self, level: torch.Tensor, names: torch.Tensor, allowed: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores a level.

        Args:
            level: (B, C, h, w). names: (K, D). allowed: (B, K) bool; None = all.

        Returns:
            (B, pyramid_channels, h, w), to be added to the decoder's view of the level; (B, K, h, w) learned scale x
            cosine, for an auxiliary cross entropy over all names: a pixel of a name that was left off still counts.
        """
        cosines = self.cosines(level, names, allowed)
        return self.extra(masked(cosines, allowed)), self.log_scale.exp() * cosines

    def cosines(self, level: torch.Tensor, names: torch.Tensor, allowed: torch.Tensor | None) -> torch.Tensor:
        """Returns (B, K, h, w) cosines in [-1, 1] of places and names; those of names off the list are not masked."""
        places = self.project(level)
        context = self.context(names, places.flatten(2).transpose(1, 2), allowed)
        refined = normalize(names + self.gamma * context, dim=2)
        return torch.einsum("bdhw,bkd->bkhw", normalize(places, dim=1), refined)


def masked(cosines: torch.Tensor, allowed: torch.Tensor | None) -> torch.Tensor:
    """Returns (B, K, h, w) cosines with -1, the least that there is, for the names that are not on the list."""
    return cosines if allowed is None else cosines.masked_fill(~allowed[:, :, None, None], -1.0)


class CrossAttention(nn.Module):
    """Every place of a level attends to the names on the list, to background and to the null token.

    What it finds is added to the level; the last layer starts at 0, so that the model starts as the image-only one.
    """

    def __init__(self, channels: int, width: int, gamma: float) -> None:
        super().__init__()
        self.adapter = Adapter(width, gamma)
        self.names = nn.Sequential(nn.Linear(width, WIDTH), nn.LayerNorm(WIDTH))
        self.places = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.value = nn.Linear(WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, level: torch.Tensor, names: torch.Tensor, allowed: torch.Tensor | None) -> torch.Tensor:
        """Level (B, C, h, w), names (K + 1, D) with the null token last, list (B, K) bool or None -> (B, C, h, w)."""
        query, key, value = self._projected(level, names)
        keys = None if allowed is None else _with_null(allowed)[:, None, None]
        found = scaled_dot_product_attention(query, key, value, attn_mask=keys)  # (B, heads, n, WIDTH / heads)
        added = self.out(found.transpose(1, 2).flatten(2))
        return level + added.transpose(1, 2).reshape(level.shape)

    def weights(self, level: torch.Tensor, names: torch.Tensor, allowed: torch.Tensor | None) -> torch.Tensor:
        """Returns (B, K + 1, h, w) float32, the attention of each place to each name, mean over heads; sums to 1."""
        query, key, _ = self._projected(level, names)
        scores = (query @ key.transpose(2, 3)).float() / query.shape[-1] ** 0.5
        if allowed is not None:
            scores = scores.masked_fill(~_with_null(allowed)[:, None, None], -torch.inf)
        shares = scores.softmax(-1).mean(1)
        return shares.transpose(1, 2).reshape(len(level), -1, *level.shape[2:])

    def _projected(self, level: torch.Tensor, names: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Query (B, heads, h w, d), key and value (B, heads, K + 1, d)."""
        places = self.query(self.places(level.flatten(2).transpose(1, 2)))
        told = self.names(self.adapter(names)).expand(len(level), -1, -1)
        query, key, value = (_by_head(x) for x in (places, self.key(told), self.value(told)))
        return query, key, value


class Tokens(nn.Module):
    """The class embeddings as the text of a diffusion UNet: vectors + gamma x MLP(vectors), as in VPD."""

    def __init__(self, width: int, gamma: float) -> None:
        super().__init__()
        self.adapter = Adapter(width, gamma)

    def forward(self, names: torch.Tensor, allowed: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Names (K + 1, D), the null token last, and list (B, K) bool or None -> tokens, (B, K + 1) bool or None."""
        return self.adapter(names), None if allowed is None else _with_null(allowed)


class Film(nn.Module):
    """Scale and shift of the features in front of the classifier, from the pooled names (FiLM, Perez et al., 2018).

    Names are pooled with the list; where all names are allowed, which says nothing, with the probabilities of the
    ingredient head. The last layer starts at 0, so that the model starts as the image-only one.
    """

    def __init__(self, channels: int, width: int, gamma: float) -> None:
        super().__init__()
        self.adapter = Adapter(width, gamma)
        self.hidden = nn.Sequential(nn.Linear(width, WIDTH), nn.GELU())
        self.scale_and_shift = nn.Linear(WIDTH, 2 * channels)
        nn.init.zeros_(self.scale_and_shift.weight)
        nn.init.zeros_(self.scale_and_shift.bias)

    def forward(
        self, features: torch.Tensor, names: torch.Tensor, allowed: torch.Tensor | None, guess: torch.Tensor
    ) -> torch.Tensor:
        """Features (B, C, h, w), names (K + 1, D), allowed (B, K) bool or None, guess (B, K) logits -> (B, C, h, w)."""
        pooled = self.pooled(self.adapter(names), allowed, guess)
        scale, shift = self.scale_and_shift(self.hidden(pooled))[..., None, None].chunk(2, 1)
        return features * (1 + scale) + shift

    @staticmethod
    def pooled(names: torch.Tensor, allowed: torch.Tensor | None, guess: torch.Tensor) -> torch.Tensor:
        """Returns (B, D), the mean of the names by weight; background and the null token always weigh 1."""
        weights = guess.sigmoid()
        if allowed is not None:
            weights = torch.where(allowed.all(1, keepdim=True), weights, allowed.to(weights.dtype))
        ones = torch.ones_like(weights[:, :1])
        weights = torch.cat([ones, weights[:, 1:], ones], 1)
        return (weights @ names) / weights.sum(1, keepdim=True)


class OffList(nn.Module):
    """Lowers the class scores of names off the list by a learned amount, the same for all of them.

    Ours, beside every kind of fusion: through the features alone a training of some hundred updates does not learn to
    hear the list, and then neither a guess nor a teacher's knowledge can help.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_amount = nn.Parameter(torch.tensor(OFF_LIST).log())

    def forward(self, logits: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        """Logits (B, K, h, w), allowed (B, K) bool -> (B, K, h, w)."""
        return logits - self.log_amount.exp() * ~allowed[:, :, None, None]


class IngredientHead(nn.Module):
    """Which ingredients are on the image, from the mean and the maximum of the coarsest level."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * channels, classes)

    def forward(self, level: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) -> (B, K) logits; that of background means nothing."""
        return self.linear(torch.cat([level.mean((2, 3)), level.amax((2, 3))], 1))


def allowed_names(ingredients: torch.Tensor | None) -> torch.Tensor | None:
    """Returns the list (B, K) bool with background on it; None = all names."""
    if ingredients is None:
        return None
    background = torch.zeros_like(ingredients)
    background[:, 0] = True
    return ingredients | background


def _with_null(allowed: torch.Tensor) -> torch.Tensor:
    return torch.cat([allowed, torch.ones_like(allowed[:, :1])], 1)


def _by_head(x: torch.Tensor) -> torch.Tensor:
    """(B, n, WIDTH) -> (B, heads, n, WIDTH / heads)."""
    return x.unflatten(2, (HEADS, -1)).transpose(1, 2)
