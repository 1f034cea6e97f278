"""How the segmenter is conditioned on ingredient classes: by a score map, cross-attention, or scale and shift.

Cross-attention is a block of our own on a level of a timm pyramid, or that of the diffusion UNet (`Tokens`).

Each fusion takes the class embeddings (`ClassEmbeddings`) and the conditioning classes: those that may be on the image.
A class outside the conditioning has no influence at all. Background is never masked, and neither is the learned null
token, which exists where classes are pooled or attended to: without it a single conditioning class would get attention
1 everywhere, and an empty conditioning would give NaN.

Shape letters: B images; K ids (0 = background); D width of the embeddings; C channels; h, w grid of a level.
"""

import torch
from torch import nn
from torch.nn.functional import normalize, scaled_dot_product_attention

WIDTH, HEADS, CONTEXT_LAYERS = 256, 8, 3
TEMPERATURE = 0.07  # CLIP's


class ClassEmbeddings(nn.Module):
    """The text embeddings of the classes, with a learned one of background in row 0, and optionally a null token."""

    def __init__(self, table: torch.Tensor, *, centre: bool, null: bool, length: float = 1.0) -> None:
        """`table` (K, D) float32; `centre`: subtract the mean over the classes and scale each row to `length`.

        A single class (K = 2) is not centred: its embedding minus its own mean would be 0.
        """
        super().__init__()
        self._centre, self._length = centre, length
        rows = self._rows(table, table)
        size = rows.norm(dim=1).mean() / table.shape[1] ** 0.5  # learned embeddings start as long as the others
        self.background = nn.Parameter(torch.randn(table.shape[1]) * size)
        self.null = nn.Parameter(torch.randn(table.shape[1]) * size) if null else None

    def forward(self, text: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """Raw rows (K, D) -> (K, D), or (K + 1, D) with the null token last; `table` is what is centred by."""
        learned = [] if self.null is None else [self.null[None]]
        return torch.cat([self.background[None], self._rows(text, table), *learned])

    def _rows(self, text: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        if not self._centre:
            return text[1:]
        return self._length * normalize(text[1:] - table[1:].mean(0) if len(table) > 2 else text[1:], dim=1)


class Adapter(nn.Module):
    """x + gamma x MLP(x), as in VPD (Zhao et al., 2023); gamma, one per channel, is learned."""

    def __init__(self, width: int, gamma: float) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.gamma = nn.Parameter(torch.full((width,), gamma))

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """(..., D) -> (..., D)."""
        return embeddings + self.gamma * self.mlp(embeddings)


class ContextDecoder(nn.Module):
    """Image context for each class: classes attend to each other and to grid cells (DenseCLIP, Rao et al., 2022)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.class_projection = nn.Sequential(nn.Linear(width, WIDTH), nn.LayerNorm(WIDTH))
        self.cell_projection = nn.Sequential(nn.Linear(width, WIDTH), nn.LayerNorm(WIDTH))
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(
                WIDTH, HEADS, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(CONTEXT_LAYERS)
        )
        self.out = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, width))

    def forward(self, embeddings: torch.Tensor, cells: torch.Tensor, allowed: torch.Tensor | None) -> torch.Tensor:
        """Embeddings (K, D), cells (B, n, D), allowed (B, K) bool -> (B, K, D); other classes are not attended to."""
        own = self.class_projection(embeddings).expand(cells.shape[0], -1, -1)
        seen = self.cell_projection(torch.cat([cells.mean(1, keepdim=True), cells], 1))
        for layer in self.layers:
            own = layer(own, seen, tgt_key_padding_mask=None if allowed is None else ~allowed)
        return self.out(own)


class ScoreMap(nn.Module):
    """The cosines of grid cells and class embeddings as K extra channels of a level (DenseCLIP, Rao et al., 2022).

    The decoder's 1x1 convolution of a level with K more channels is the sum of two: one of the level and one of the K.
    The second one is here and starts at 0. So the decoder is that of the image-only model, with its initial weights.
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
        self, level: torch.Tensor, embeddings: torch.Tensor, allowed: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores a level.

        Args:
            level: (B, C, h, w). embeddings: (K, D). allowed: (B, K) bool; None = all.

        Returns:
            (B, pyramid_channels, h, w), to be added to the decoder's lateral of the level; (B, K, h, w) learned scale x
            cosine, for an auxiliary cross entropy over all classes: pixels of classes outside the conditioning count.
        """
        cosines = self.cosines(level, embeddings, allowed)
        return self.extra(masked(cosines, allowed)), self.log_scale.exp() * cosines

    def cosines(self, level: torch.Tensor, embeddings: torch.Tensor, allowed: torch.Tensor | None) -> torch.Tensor:
        """Returns (B, K, h, w) cosines in [-1, 1] of grid cells and classes; those of other classes are not masked."""
        cells = self.project(level)
        context = self.context(embeddings, cells.flatten(2).transpose(1, 2), allowed)
        refined = normalize(embeddings + self.gamma * context, dim=2)
        return torch.einsum("bdhw,bkd->bkhw", normalize(cells, dim=1), refined)


class Privileged(nn.Module):
    """Scales and shifts features by the classes that are on the image, which only a training knows.

    Both begin at 0: the features that come out are at first those that go in.
    """

    table: torch.Tensor

    def __init__(self, table: torch.Tensor, channels: int, *, centre: bool) -> None:
        super().__init__()
        self.register_buffer("table", table.clone())
        self.class_embeddings = ClassEmbeddings(table, centre=centre, null=False)
        self.project = nn.Sequential(nn.Linear(table.shape[1], channels), nn.GELU())
        self.scale_and_shift = nn.Linear(channels, 2 * channels)
        nn.init.zeros_(self.scale_and_shift.weight)
        nn.init.zeros_(self.scale_and_shift.bias)

    def forward(self, features: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Features (B, C, h, w), the classes on each image with background (B, K) bool -> (B, C, h, w)."""
        projected = self.project(self.class_embeddings(self.table, self.table))
        mean = present.to(projected.dtype) @ projected / present.sum(1, keepdim=True)
        scale, shift = self.scale_and_shift(mean)[:, :, None, None].chunk(2, 1)
        return features * (1 + scale) + shift


def masked(cosines: torch.Tensor, allowed: torch.Tensor | None) -> torch.Tensor:
    """Returns (B, K, h, w) cosines with -1, the least possible, for classes outside the conditioning."""
    return cosines if allowed is None else cosines.masked_fill(~allowed[:, :, None, None], -1.0)


class CrossAttention(nn.Module):
    """Each grid cell of a level attends to the conditioning classes, to background and to the null token.

    The result is added to the level. The last layer starts at 0, so that the model starts as the image-only one.
    """

    def __init__(self, channels: int, width: int, gamma: float) -> None:
        super().__init__()
        self.adapter = Adapter(width, gamma)
        self.class_projection = nn.Sequential(nn.Linear(width, WIDTH), nn.LayerNorm(WIDTH))
        self.cell_norm = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.value = nn.Linear(WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, level: torch.Tensor, embeddings: torch.Tensor, allowed: torch.Tensor | None) -> torch.Tensor:
        """Level (B, C, h, w), embeddings (K + 1, D), null token last, allowed (B, K) bool or None -> (B, C, h, w)."""
        query, key, value = self._projected(level, embeddings)
        keys = None if allowed is None else _with_null(allowed)[:, None, None]
        found = scaled_dot_product_attention(query, key, value, attn_mask=keys)  # (B, heads, n, WIDTH / heads)
        added = self.out(found.transpose(1, 2).flatten(2))
        return level + added.transpose(1, 2).reshape(level.shape)

    def weights(self, level: torch.Tensor, embeddings: torch.Tensor, allowed: torch.Tensor | None) -> torch.Tensor:
        """Returns (B, K + 1, h, w) float32, the attention of each cell to each class, mean over heads; sums to 1."""
        query, key, _ = self._projected(level, embeddings)
        scores = (query @ key.transpose(2, 3)).float() / query.shape[-1] ** 0.5
        if allowed is not None:
            scores = scores.masked_fill(~_with_null(allowed)[:, None, None], -torch.inf)
        shares = scores.softmax(-1).mean(1)
        return shares.transpose(1, 2).reshape(level.shape[0], -1, *level.shape[2:])

    def _projected(
        self, level: torch.Tensor, embeddings: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Query (B, heads, h w, d), key and value (B, heads, K + 1, d)."""
        cells = self.query(self.cell_norm(level.flatten(2).transpose(1, 2)))
        classes = self.class_projection(self.adapter(embeddings)).expand(level.shape[0], -1, -1)
        query, key, value = (_by_head(x) for x in (cells, self.key(classes), self.value(classes)))
        return query, key, value


class Tokens(nn.Module):
    """The class embeddings as text tokens of a diffusion UNet: x + gamma x MLP(x), as in VPD."""

    def __init__(self, width: int, gamma: float) -> None:
        super().__init__()
        self.adapter = Adapter(width, gamma)

    def forward(
        self, embeddings: torch.Tensor, allowed: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embeddings (K + 1, D), null token last, allowed (B, K) bool or None -> tokens, (B, K + 1) bool or None."""
        return self.adapter(embeddings), None if allowed is None else _with_null(allowed)


class Film(nn.Module):
    """Scale and shift of the classifier's input, from pooled class embeddings (FiLM, Perez et al., 2018).

    The conditioning classes are pooled with equal weights. Where all classes are allowed, each is weighted with its
    probability from the ingredient head. The last layer starts at 0, so that the model starts as the image-only one.
    """

    def __init__(self, channels: int, width: int, gamma: float) -> None:
        super().__init__()
        self.adapter = Adapter(width, gamma)
        self.hidden = nn.Sequential(nn.Linear(width, WIDTH), nn.GELU())
        self.scale_and_shift = nn.Linear(WIDTH, 2 * channels)
        nn.init.zeros_(self.scale_and_shift.weight)
        nn.init.zeros_(self.scale_and_shift.bias)

    def forward(
        self,
        features: torch.Tensor,
        embeddings: torch.Tensor,
        allowed: torch.Tensor | None,
        ingredient_logits: torch.Tensor,
    ) -> torch.Tensor:
        """Features (B, C, h, w), embeddings (K + 1, D), allowed (B, K) bool or None, logits (B, K) -> (B, C, h, w)."""
        pooled = self.pooled(self.adapter(embeddings), allowed, ingredient_logits)
        scale, shift = self.scale_and_shift(self.hidden(pooled))[..., None, None].chunk(2, 1)
        return features * (1 + scale) + shift

    @staticmethod
    def pooled(embeddings: torch.Tensor, allowed: torch.Tensor | None, ingredient_logits: torch.Tensor) -> torch.Tensor:
        """Returns (B, D), the weighted mean of the embeddings; background and the null token always weigh 1."""
        weights = ingredient_logits.sigmoid()
        if allowed is not None:
            weights = torch.where(allowed.all(1, keepdim=True), weights, allowed.to(weights.dtype))
        ones = torch.ones_like(weights[:, :1])
        weights = torch.cat([ones, weights[:, 1:], ones], 1)
        return (weights @ embeddings) / weights.sum(1, keepdim=True)


class IngredientHead(nn.Module):
    """Which ingredients are on the image, from the mean and the maximum of the coarsest level."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * channels, classes)

    def forward(self, level: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) -> (B, K) logits; that of background is not used."""
        return self.linear(torch.cat([level.mean((2, 3)), level.amax((2, 3))], 1))


def allowed_classes(ingredients: torch.Tensor | None) -> torch.Tensor | None:
    """Returns the conditioning (B, K) bool with background added; None = all classes."""
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
