"""The one place where a model's numbers meet."""

import torch

from foodseg.config.model import ModelConfig
from foodseg.models.decoder import FPNDecoder
from foodseg.models.fusion import CrossAttention, Film, IngredientHead, NameVectors, ScoreMap
from foodseg.models.pyramid import Pyramid
from foodseg.models.segmenter import Fusion, Segmenter, TextBranch


def build_segmenter(
    config: ModelConfig, classes: int, *, pretrained: bool = True, text: torch.Tensor | None = None
) -> Segmenter:
    """Builds the segmenter for `classes` ids.

    Backbone, decoder and classifier start with the same numbers whatever `config.fusion`, `config.text` and
    `config.ingredient_head` are, so that arms of an ablation differ in nothing else.

    Args:
        pretrained: load `config.weights`; False where a checkpoint follows, which then needs no download.
        text: (K, D) float32 raw vectors of the names, from `models.text.class_text` or from a checkpoint; wanted
            where `config.fusion` is not "none".

    Raises:
        UserError: unknown backbone, strides that it lacks, weights that do not fit.
    """
    backbone = Pyramid(config.backbone, config.strides, config.weights if pretrained else None)
    decoder = FPNDecoder(backbone.channels, config.pyramid_channels, config.decoder_channels, config.dropout)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(torch.initial_seed() + 1)
        head = IngredientHead(backbone.channels[-1], classes) if config.ingredient_head else None
        branch = None if config.fusion == "none" else _text_branch(config, backbone, classes, text)
    return Segmenter(backbone, decoder, classes, config.mean, config.std, head, branch)


def _text_branch(config: ModelConfig, backbone: Pyramid, classes: int, text: torch.Tensor | None) -> TextBranch:
    assert text is not None and len(text) == classes, "a model with text fusion is built with one vector per id"
    at = config.strides.index(config.fusion_stride or config.strides[-1])
    channels, width, gamma = backbone.channels[at], text.shape[1], config.text.gamma
    names = NameVectors(text, centre=config.text.centre, null=config.fusion != "score_map")
    fusion: Fusion
    if config.fusion == "score_map":
        fusion = ScoreMap(channels, classes, width, config.pyramid_channels, gamma)
    elif config.fusion == "cross_attention":
        fusion = CrossAttention(channels, width, gamma)
    else:
        fusion = Film(config.decoder_channels, width, gamma)
    return TextBranch(text, names, fusion, at)
