"""The mask decoder of Segment Anything for many clicks on one image, without a copy of the image for each click.

    decoder = ClickDecoder(sam, embedding.features)
    found = decoder.masks(clicks)       # (P, 2) x, y in the encoder's square

segment-anything's own decoder copies the embedding of the image for each click, and adds its position embeddings to
each copy in every layer. Here what all clicks share is computed once: the first layer's view of the image, and the
projections of the position embeddings. The upscaling, two transposed convolutions whose stride is their kernel, is a
matrix product of each grid cell. But for rounding the masks are the same.

Shape letters: P clicks; T tokens of a click; N grid cells of the image; C channels; A heads.
"""

from typing import Any, NamedTuple

import torch
from segment_anything.modeling import Sam
from torch.nn.functional import layer_norm, linear, scaled_dot_product_attention


class ClickMasks(NamedTuple):
    """Masks that the model rates well.

    logits: (n, 4 h, 4 w) float32. ratings: (n,) predicted IoU. clicks: (n,) int64, the number of the click of each.
    """

    logits: torch.Tensor
    ratings: torch.Tensor
    clicks: torch.Tensor


class ClickDecoder:
    """One image, ready to be clicked on."""

    def __init__(self, sam: Sam, features: torch.Tensor) -> None:
        """features: (1, C, h, w) of `SamEmbedding`."""
        self._prompts: Any = sam.prompt_encoder
        self._decoder: Any = sam.mask_decoder
        self._grid = (features.shape[2], features.shape[3])
        self._positions = self._prompts.get_dense_pe().flatten(2).mT
        # the embedding of "no mask was given", which belongs to each prompt without one
        self._image = features.flatten(2).mT + self._prompts.no_mask_embed.weight
        self._projected: dict[tuple[int, str], torch.Tensor] = {}

    def masks(self, clicks: torch.Tensor, least: float) -> ClickMasks:
        """Returns the masks that are rated above `least`, of the three that each click gets.

        Args:
            clicks: (P, 2) float32 x, y in the encoder's square, on the model's device.
        """
        labels = torch.ones(len(clicks), 1, dtype=torch.int, device=clicks.device)
        sparse, _ = self._prompts(points=(clicks[:, None], labels), boxes=None, masks=None)
        decoder = self._decoder
        own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        tokens = torch.cat([own.expand(len(clicks), -1, -1), sparse], 1)
        queries, cells = self._attend(tokens)
        ratings = decoder.iou_prediction_head(queries[:, 0])[:, 1:]
        rows, kinds = torch.nonzero(ratings > least, as_tuple=True)
        some, back = rows.unique(return_inverse=True)
        weights = [head(queries[some, 1 + index]) for index, head in enumerate(decoder.output_hypernetworks_mlps)]
        found = self._upscaled(cells[some] if len(some) < len(cells) else cells, torch.stack(weights[1:], 1))
        return ClickMasks(found[back, kinds], ratings[rows, kinds], rows)

    def _attend(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(P, T, C) tokens -> the same and (P, N, C) cells, after the two-way transformer."""
        transformer = self._decoder.transformer
        queries, cells = tokens, self._image
        for layer in transformer.layers:
            if layer.skip_first_layer_pe:
                queries = layer.self_attn(queries, queries, queries)
            else:
                placed = queries + tokens
                queries = queries + layer.self_attn(placed, placed, queries)
            queries = layer.norm1(queries)
            queries = layer.norm2(queries + self._to_image(layer.cross_attn_token_to_image, queries + tokens, cells))
            queries = layer.norm3(queries + layer.mlp(queries))
            cells = layer.norm4(cells + self._to_tokens(layer.cross_attn_image_to_token, cells, queries, tokens))
        final = transformer.final_attn_token_to_image
        queries = transformer.norm_final_attn(queries + self._to_image(final, queries + tokens, cells))
        return queries, cells

    def _to_image(self, attention: Any, placed: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        """Tokens attend to cells: (P, T, C), (1 or P, N, C) -> (P, T, C)."""
        query = _heads(attention.q_proj(placed), attention)
        key = _heads(attention.k_proj(cells) + self._placed(attention, "k_proj"), attention)
        value = _heads(attention.v_proj(cells), attention)
        return _joined(query, key.expand(len(query), -1, -1, -1), value.expand(len(query), -1, -1, -1), attention)

    def _to_tokens(
        self, attention: Any, cells: torch.Tensor, queries: torch.Tensor, tokens: torch.Tensor
    ) -> torch.Tensor:
        """Cells attend to tokens: (1 or P, N, C), (P, T, C) -> (P, N, C)."""
        query = _heads(attention.q_proj(cells) + self._placed(attention, "q_proj"), attention)
        key = _heads(attention.k_proj(queries + tokens), attention)
        value = _heads(attention.v_proj(queries), attention)
        return _joined(query.expand(len(key), -1, -1, -1), key, value, attention)

    def _placed(self, attention: Any, projection: str) -> torch.Tensor:
        """Returns the position embeddings of the cells as a projection makes them, without its bias."""
        name = (id(attention), projection)
        if name not in self._projected:
            self._projected[name] = linear(self._positions, getattr(attention, projection).weight)
        return self._projected[name]

    def _upscaled(self, cells: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """(n, N, C) cells, (n, 3, c) weights of the upscaled channels -> (n, 3, 4 h, 4 w)."""
        first, norm, act, second, act2 = self._decoder.output_upscaling
        x = act(_layer_norm(_per_cell(cells, first), norm))  # (n, N, 4, c1)
        x = act2(_per_cell(x, second))  # (n, N, 4, 4, c2)
        masks = torch.einsum("nkc,nxyzc->nkxyz", weights, x)
        height, width = self._grid
        # cell, then which of 2 x 2, then which of 2 x 2 of these
        masks = masks.reshape(*masks.shape[:2], height, width, 2, 2, 2, 2)
        return masks.permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(*masks.shape[:2], 4 * height, 4 * width)


def _heads(x: torch.Tensor, attention: Any) -> torch.Tensor:
    """(P, T, c) -> (P, A, T, c / A)."""
    return x.unflatten(2, (attention.num_heads, -1)).transpose(1, 2)


def _joined(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention: Any) -> torch.Tensor:
    mixed = scaled_dot_product_attention(query, key, value)
    joined: torch.Tensor = attention.out_proj(mixed.transpose(1, 2).flatten(2))
    return joined


def _per_cell(x: torch.Tensor, convolution: torch.nn.ConvTranspose2d) -> torch.Tensor:
    """A transposed convolution of 2 x 2 with stride 2: (..., c) -> (..., 4, c'), upper row first."""
    inputs, outputs = convolution.weight.shape[:2]
    weight = convolution.weight.permute(2, 3, 1, 0).reshape(4 * outputs, inputs)
    bias = None if convolution.bias is None else convolution.bias.repeat(4)
    return linear(x, weight, bias).unflatten(-1, (4, outputs))


def _layer_norm(x: torch.Tensor, norm: Any) -> torch.Tensor:
    """segment-anything's LayerNorm2d of channels that are last."""
    return layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps)
