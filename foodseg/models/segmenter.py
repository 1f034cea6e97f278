"""The segmenter: an image in, a logit for each class at each grid cell out."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from foodseg.errors import UserError
from foodseg.models.backbones.diffusion import Diffusion
from foodseg.models.backbones.hybrid import Hybrid
from foodseg.models.backbones.timm_pyramid import Pyramid
from foodseg.models.backbones.vit import PlainViT, TokenEncoder
from foodseg.models.classifier import CosineClassifier
from foodseg.models.decoder import FPNDecoder
from foodseg.models.fusion import (
    ClassEmbeddings,
    CrossAttention,
    Film,
    IngredientHead,
    Privileged,
    ScoreMap,
    Tokens,
    allowed_classes,
    masked,
)

Backbone = Pyramid | PlainViT | Hybrid | Diffusion
Fusion = ScoreMap | CrossAttention | Film | Tokens
INITIAL_PENALTY = math.log(100)  # a class outside the conditioning starts a hundred times less probable than without it


class SegmenterOutput(NamedTuple):
    """The result of a forward pass. h, w = image size / stride.

    Attributes:
        logits: (B, K, h, w) float.
        stride: image pixels per logit.
        ingredient_logits: (B, K) float, which ingredients are on the image; None without an ingredient head.
        features: (B, C, h, w) float, what the classifier sees, after dropout.
        score_map: (B, K, h', w') float, class scores for an auxiliary cross entropy at the stride of the fused level:
            learned scale x cosine of each grid cell and class, whatever the conditioning; None unless fusion is
            score_map.
        stages: (B, P, h_i, w_i) float each, the decoder's top-down path, one for each stride of the backbone.
        maps: (B, K + 1, h, w) float32 each, the attention of each grid cell to each class, background and (last) the
            null token, at the backbone's `map_strides`; only a diffusion backbone has any.
        stage_logits: (B, K, h_i, w_i) float each, the logits of the stages but the finest; none without stage heads.
        privileged: (B, K, h, w) float, the logits of features that the classes on the image have scaled and shifted,
            without dropout; None where these were not given.
        undropped: the logits without dropout, and the features that they are made of, both before logits are lowered
            by the conditioning; None unless the network `gives_undropped`.
        linear_logits: (B, K, h, w) float, those of a linear classifier that only training has; None without one.
    """

    logits: torch.Tensor
    stride: int
    ingredient_logits: torch.Tensor | None
    features: torch.Tensor
    score_map: torch.Tensor | None = None
    stages: Sequence[torch.Tensor] = ()
    maps: Sequence[torch.Tensor] = ()
    stage_logits: Sequence[torch.Tensor] = ()
    privileged: torch.Tensor | None = None
    undropped: tuple[torch.Tensor, torch.Tensor] | None = None
    linear_logits: torch.Tensor | None = None


class TextBranch(NamedTuple):
    """What a segmenter with text fusion has in addition to its backbone and decoder.

    Attributes:
        table: (K, D) float32 raw class embeddings.
        class_embeddings, fusion: parts of `models.fusion`.
        at: index of the level that a ScoreMap or a CrossAttention acts on.
        penalty: whether the logits of classes outside the conditioning are lowered.
    """

    table: torch.Tensor
    class_embeddings: ClassEmbeddings
    fusion: Fusion
    at: int
    penalty: bool = True


class TrainingHeads(NamedTuple):
    """Heads that only a training uses.

    stages: a classifier for each stage of the decoder but the finest; None = none.
    """

    stages: nn.ModuleList | None
    privileged: Privileged | None


class SegmenterNetwork(nn.Module):
    """Backbone, decoder, classifier, and perhaps a text branch; the parts are built in `models/build.py`."""

    mean: torch.Tensor
    std: torch.Tensor
    text_table: torch.Tensor
    classifier: nn.Conv2d | CosineClassifier

    def __init__(
        self,
        backbone: Backbone,
        decoder: FPNDecoder,
        classifier: nn.Conv2d | CosineClassifier,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        dropout: float,
        ingredient_head: IngredientHead | None = None,
        text: TextBranch | None = None,
        heads: TrainingHeads = TrainingHeads(None, None),
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.decoder = decoder
        self.dropout = nn.Dropout2d(dropout)
        self.gives_undropped = False
        self.classifier = classifier
        self.stride = backbone.strides[0]
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.ingredient_head = ingredient_head
        self.stage_heads, self.privileged = heads
        self.fusion = text.fusion if text is not None else None
        if text is not None:
            self.class_embeddings, self._at = text.class_embeddings, text.at
            self.conditioning_penalty = ConditioningPenalty() if text.penalty else None
            self.register_buffer("text_table", text.table.clone())

    @property
    def classes(self) -> int:
        """K."""
        return self.classifier.out_channels

    @property
    def size_multiple(self) -> int:
        """Height and width of an image should be multiples of this many pixels."""
        return self.backbone.size_multiple

    def forward(
        self,
        image: torch.Tensor,
        text: torch.Tensor | None = None,
        ingredients: torch.Tensor | None = None,
        present: torch.Tensor | None = None,
    ) -> SegmenterOutput:
        """Runs the model.

        Args:
            image: (B, 3, H, W) float in [0, 1]; padding holds the channel means.
            text: (K, D) float raw class embeddings; None = those that the model was built with.
            ingredients: (B, K) bool, the conditioning classes, to which background is added; None = all. The logits of
                the other classes are lowered by a learned amount. The image-only segmenter takes neither text nor
                these.
            present: (B, K) bool, the classes on each image, background among them, for a privileged head.
        """
        allowed = allowed_classes(ingredients)
        levels, maps = self._levels(image, text, allowed)
        predicted = None if self.ingredient_head is None else self.ingredient_head(levels[-1])
        score_map = None
        if self.fusion is None:
            assert text is None and ingredients is None, "the image-only segmenter has no text fusion"
            features, stages = self.decoder(levels)
        elif isinstance(self.fusion, Tokens):
            features, stages = self.decoder(self._with_maps(levels, maps))
        elif isinstance(self.fusion, ScoreMap):
            extra, score_map = self.fusion(levels[self._at], self._embeddings(text), allowed)
            features, stages = self.decoder(levels, extra, self._at)
        elif isinstance(self.fusion, CrossAttention):
            levels[self._at] = self.fusion(levels[self._at], self._embeddings(text), allowed)
            features, stages = self.decoder(levels)
        else:
            assert predicted is not None, "film is built with an ingredient head"
            decoded, stages = self.decoder(levels)
            features = self.fusion(decoded, self._embeddings(text), allowed, predicted)
        dropped = self.dropout(features)
        logits = self.classifier(dropped)
        undropped = (self.classifier(features), features) if self.gives_undropped else None
        if allowed is not None and self.conditioning_penalty is not None:
            logits = self.conditioning_penalty(logits, allowed)
        of_stages: list[torch.Tensor] = []
        if self.stage_heads is not None and self.training:
            of_stages = [head(stage) for head, stage in zip(self.stage_heads, stages[1:], strict=True)]
        privileged = None
        if self.privileged is not None and present is not None:
            privileged = self.classifier(self.privileged(features, present))
        return SegmenterOutput(
            logits, self.stride, predicted, dropped, score_map, stages, maps, of_stages, privileged, undropped
        )

    def predict_ingredients(self, image: torch.Tensor) -> torch.Tensor:
        """Image-level prediction: (B, 3, H, W) as for `forward` -> (B, K) probabilities; that of background is 1."""
        assert self.ingredient_head is not None, "the model has no ingredient head"
        levels, _ = self._levels(image, None, None)
        probabilities = self.ingredient_head(levels[-1]).float().sigmoid()
        return torch.cat([torch.ones_like(probabilities[:, :1]), probabilities[:, 1:]], 1)

    def class_maps(self, image: torch.Tensor, ingredients: torch.Tensor | None = None) -> torch.Tensor:
        """Returns how well each grid cell fits each class, to look at; `image` and `ingredients` as for `forward`.

        Returns:
            score_map: (B, K, h, w) cosines, -1 for classes outside the conditioning. cross_attention: (B, K + 1, h, w)
            attention, which sums to 1 over classes, background and (last) the null token. The grid is that of the fused
            level, or with a diffusion backbone that of its finest maps.
        """
        allowed = allowed_classes(ingredients)
        levels, maps = self._levels(image, None, allowed)
        if isinstance(self.fusion, Tokens):
            assert maps, "model.diffusion.maps is false, or neither 16 nor 32 is among model.strides"
            return maps[0]
        level = levels[self._at]
        if isinstance(self.fusion, ScoreMap):
            return masked(self.fusion.cosines(level, self._embeddings(None), allowed), allowed)
        assert isinstance(self.fusion, CrossAttention), (
            "only score_map and cross_attention compare grid cells with classes"
        )
        return self.fusion.weights(level, self._embeddings(None), allowed)

    def _levels(
        self, image: torch.Tensor, text: torch.Tensor | None, allowed: torch.Tensor | None
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The backbone's features and maps. A diffusion backbone is conditioned on classes, others are not."""
        normalised = (image - self.mean) / self.std
        if not isinstance(self.backbone, Diffusion):
            return list(self.backbone(normalised)), []
        if not isinstance(self.fusion, Tokens):
            levels, maps = self.backbone(normalised)
        else:
            levels, maps = self.backbone(normalised, *self.fusion(self._embeddings(text), allowed))
        return levels, maps

    def _with_maps(self, levels: list[torch.Tensor], maps: list[torch.Tensor]) -> list[torch.Tensor]:
        """The maps of the K ids, as channels behind the features of their stride.

        They are multiplied by the number of tokens, so that uniform attention is 1. Uniform attention to a hundred
        classes is 0.01 each, which the decoder does not learn to use next to much larger features.
        """
        assert isinstance(self.backbone, Diffusion)
        found = dict(zip(self.backbone.map_strides, maps, strict=True))
        return [
            torch.cat([level, (shares.shape[1] * shares[:, :-1]).to(level.dtype)], 1)
            if (shares := found.get(stride)) is not None
            else level
            for stride, level in zip(self.backbone.strides, levels, strict=True)
        ]

    def _embeddings(self, text: torch.Tensor | None) -> torch.Tensor:
        embeddings: torch.Tensor = self.class_embeddings(self.text_table if text is None else text, self.text_table)
        return embeddings


def frozen_encoder(backbone: Backbone | TokenEncoder) -> Diffusion | TokenEncoder:
    """Returns the part of a backbone whose features `train.latent_cache` can keep; UserError: it has no such part."""
    if isinstance(backbone, PlainViT | Hybrid) and backbone.encoder.frozen:
        return backbone.encoder
    if isinstance(backbone, Diffusion | TokenEncoder):
        return backbone
    raise UserError(
        "train.latent_cache keeps the tokens of a frozen ViT or the latents of model.kind = diffusion, and the "
        "backbone has neither: leave it null"
    )


class ConditioningPenalty(nn.Module):
    """Lowers the logits of classes outside the conditioning by a learned amount, the same for all of them.

    Our addition to every kind of fusion. Through the features alone, a training of some hundred updates does not learn
    to use the conditioning, and then neither an image-level prediction nor a conditioned teacher can help.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_amount = nn.Parameter(torch.tensor(INITIAL_PENALTY).log())

    def forward(self, logits: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        """Logits (B, K, h, w), allowed (B, K) bool -> (B, K, h, w)."""
        return logits - self.log_amount.exp() * ~allowed[:, :, None, None]
