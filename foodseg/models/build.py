"""Builds a segmenter from its configuration: all its widths are computed here."""

from collections.abc import Sequence

import torch
from torch import nn

from foodseg.config import ExperimentConfig
from foodseg.config.model import ModelConfig
from foodseg.config.vit import ViTConfig
from foodseg.errors import UserError
from foodseg.models.backbones.diffusion import Diffusion
from foodseg.models.backbones.diffusion_weights import build_diffusion
from foodseg.models.backbones.hybrid import Hybrid
from foodseg.models.backbones.timm_pyramid import Pyramid
from foodseg.models.backbones.vit import PlainViT, TokenEncoder, is_plain_vit
from foodseg.models.classifier import CosineClassifier
from foodseg.models.decoder import FPNDecoder
from foodseg.models.fusion import ClassEmbeddings, CrossAttention, Film, IngredientHead, Privileged, ScoreMap, Tokens
from foodseg.models.open_vocabulary import OpenVocabularyNetwork
from foodseg.models.pixel_text import PixelTextHead
from foodseg.models.realtime import RealtimeNetwork
from foodseg.models.roi import RegionNetwork
from foodseg.models.segmenter import Backbone, Fusion, SegmenterNetwork, TextBranch, TrainingHeads
from foodseg.models.text.prompts import Prompts
from foodseg.models.two_branch_decoder import TwoBranchDecoder

Network = SegmenterNetwork | OpenVocabularyNetwork | RealtimeNetwork
"""A segmenter that can be trained."""
Trained = Network | RegionNetwork
"""What can be trained."""


def build_model(
    config: ExperimentConfig,
    classes: int,
    *,
    pretrained: bool = True,
    text: torch.Tensor | None = None,
    class_images: Sequence[int] | None = None,
) -> Trained:
    """Builds what is trained, a segmenter or a region classifier; arguments and errors as `build_segmenter`."""
    if config.regions is not None:
        side = config.augment.crop
        return RegionNetwork(config.model, config.regions, side=side, classes=classes, pretrained=pretrained)
    return build_network(config.model, classes, pretrained=pretrained, text=text, class_images=class_images)


def build_network(
    config: ModelConfig,
    classes: int,
    *,
    pretrained: bool = True,
    text: torch.Tensor | None = None,
    class_images: Sequence[int] | None = None,
) -> Network:
    """Builds the segmenter of any `config.kind`; arguments and errors as `build_segmenter`."""
    if config.kind == "realtime":
        return _realtime(config, classes, pretrained=pretrained, text=text)
    if config.kind != "open_vocabulary":
        return build_segmenter(config, classes, pretrained=pretrained, text=text, class_images=class_images)
    assert text is not None and len(text) == classes, "an open-vocabulary model is built with one embedding per id"
    weights = config.weights if pretrained and config.weights != "none" else None
    encoder = TokenEncoder(config.backbone, config.vit, weights)
    return OpenVocabularyNetwork(encoder, text, config.mean, config.std)


def build_segmenter(
    config: ModelConfig,
    classes: int,
    *,
    pretrained: bool = True,
    text: torch.Tensor | None = None,
    class_images: Sequence[int] | None = None,
) -> SegmenterNetwork:
    """Builds a network of backbone, decoder and classifier for `classes` ids.

    Of a timm pyramid, backbone, decoder and classifier start with the same numbers whatever `config.fusion`,
    `config.text` and `config.ingredient_head` are, so that variants of an ablation differ in nothing else. The decoder
    of a diffusion backbone has more input channels where there are maps.

    Args:
        pretrained: load `config.weights`; False where a checkpoint follows, which then needs no download.
        text: (K, D) float32 raw class embeddings, from `class_text` of `models/text/class_embeddings.py` or from a
            checkpoint; required with text fusion, a privileged head or a text prior.
        class_images: (K,) training images of each class, for a text prior; None where a checkpoint follows.

    Raises:
        UserError: unknown backbone, strides that it lacks, weights that do not fit, settings of `config.vit` that do
            not apply to it, embeddings of a width that the UNet does not take.
    """
    backbone: Backbone
    if config.kind == "diffusion":
        backbone = build_diffusion(config, None if text is None else text.shape[1], pretrained=pretrained)
    else:
        backbone = _timm_backbone(config, pretrained=pretrained)
    inputs = decoder_inputs(backbone, classes)
    decoder = FPNDecoder(inputs, config.pyramid_channels, config.decoder_channels)
    classifier = _classifier(config, classes, text, class_images)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(torch.initial_seed() + 1)
        head = IngredientHead(backbone.channels[-1], classes) if config.ingredient_head else None
        branch = None if config.fusion == "none" else _text_branch(config, backbone, classes, text)
        heads = _training_heads(config, classes, text)
    return SegmenterNetwork(backbone, decoder, classifier, config.mean, config.std, config.dropout, head, branch, heads)


def _classifier(
    config: ModelConfig, classes: int, text: torch.Tensor | None, class_images: Sequence[int] | None
) -> nn.Conv2d | CosineClassifier:
    if config.classifier == "linear":
        return _linear(config, classes)
    return CosineClassifier(
        config.decoder_channels, classes, text if config.classifier == "text_prior" else None, class_images
    )


def _linear(config: ModelConfig, classes: int) -> nn.Conv2d:
    linear = nn.Conv2d(config.decoder_channels, classes, 1)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)  # type: ignore[arg-type]
    return linear


def _realtime(config: ModelConfig, classes: int, *, pretrained: bool, text: torch.Tensor | None) -> RealtimeNetwork:
    """Builds the real-time network: its other parts start with the same numbers with text and without."""
    weights = config.weights if pretrained and config.weights != "none" else None
    backbone = Pyramid(config.backbone, config.strides, weights)
    decoder = TwoBranchDecoder(backbone.channels, config.decoder_channels)
    classifier, head = _linear(config, classes), None
    if config.text.kind != "none":
        assert text is not None and len(text) == classes, "a model with text is built with one embedding per id"
        tokens, per_class = config.realtime.context_tokens, config.realtime.context == "per_class"
        prompts = Prompts(tokens, classes - 1, per_class=per_class) if tokens else None
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(torch.initial_seed() + 1)
            head = PixelTextHead(config.decoder_channels, text, centre=config.text.centre, prompts=prompts)
    return RealtimeNetwork(backbone, decoder, classifier, head, config.mean, config.std, config.dropout)


def _training_heads(config: ModelConfig, classes: int, text: torch.Tensor | None) -> TrainingHeads:
    stages = privileged = None
    if config.stage_heads:
        stages = nn.ModuleList(nn.Conv2d(config.pyramid_channels, classes, 1) for _ in config.strides[1:])
    if config.privileged_head:
        assert text is not None
        privileged = Privileged(text, config.decoder_channels, centre=config.text.centre)
    return TrainingHeads(stages, privileged)


def _timm_backbone(config: ModelConfig, *, pretrained: bool) -> Pyramid | PlainViT | Hybrid:
    """Builds a plain ViT, a pyramid, or a pyramid with a plain ViT beside it: timm knows what `config.backbone` is."""

    def weights(chosen: str) -> str | None:
        return chosen if pretrained and chosen != "none" else None

    vit = config.vit
    if is_plain_vit(config.backbone):
        if vit.backbone is not None:
            raise UserError(
                f"model.vit.backbone = {vit.backbone!r} stands beside a convolutional model.backbone, and "
                f"{config.backbone!r} is a plain ViT itself: set model.vit.backbone=null"
            )
        return PlainViT(config.backbone, config.strides, vit, config.pyramid_channels, weights(config.weights))
    if vit.backbone is None and vit != ViTConfig():
        raise UserError(
            f"model.vit is for plain ViTs, and model.backbone {config.backbone!r} is none: leave model.vit out, or "
            "name a ViT in model.vit.backbone"
        )
    pyramid = Pyramid(config.backbone, config.strides, weights(config.weights))
    if vit.backbone is None:
        return pyramid
    encoder = TokenEncoder(vit.backbone, vit, weights(vit.weights), section="model.vit")
    return Hybrid(pyramid, encoder, config.mean, config.std, vit.mean, vit.std)


def decoder_inputs(backbone: Backbone, classes: int) -> list[int]:
    """Returns the channels of each level in front of the decoder: those of the features, and one per id of a map."""
    if not isinstance(backbone, Diffusion):
        return backbone.channels
    return [
        channels + (classes if stride in backbone.map_strides else 0)
        for stride, channels in zip(backbone.strides, backbone.channels, strict=True)
    ]


def _text_branch(config: ModelConfig, backbone: Backbone, classes: int, text: torch.Tensor | None) -> TextBranch:
    assert text is not None and len(text) == classes, "a model with text fusion is built with one embedding per id"
    at = config.strides.index(config.fusion_stride or config.strides[-1])
    channels, width, gamma = backbone.channels[at], text.shape[1], config.text.gamma
    # a UNet's tokens come from a LayerNorm: at length 1 every grid cell would attend to all of them alike
    length = width**0.5 if config.kind == "diffusion" else 1.0
    embeddings = ClassEmbeddings(text, centre=config.text.centre, null=config.fusion != "score_map", length=length)
    fusion: Fusion
    if config.fusion == "score_map":
        fusion = ScoreMap(channels, classes, width, config.pyramid_channels, gamma)
    elif config.kind == "diffusion":
        fusion = Tokens(width, gamma)
    elif config.fusion == "cross_attention":
        fusion = CrossAttention(channels, width, gamma)
    else:
        fusion = Film(config.decoder_channels, width, gamma)
    return TextBranch(text, embeddings, fusion, at, config.conditioning_penalty)
