"""The one place where a model's numbers meet."""

from foodseg.config.model import ModelConfig
from foodseg.models.decoder import FPNDecoder
from foodseg.models.pyramid import Pyramid
from foodseg.models.segmenter import Segmenter


def build_segmenter(config: ModelConfig, classes: int, *, pretrained: bool = True) -> Segmenter:
    """Builds the segmenter for `classes` ids.

    Args:
        pretrained: load `config.weights`; False where a checkpoint follows, which then needs no download.

    Raises:
        UserError: unknown backbone, strides that it lacks, weights that do not fit.
    """
    backbone = Pyramid(config.backbone, config.strides, config.weights if pretrained else None)
    decoder = FPNDecoder(backbone.channels, config.pyramid_channels, config.decoder_channels, config.dropout)
    return Segmenter(backbone, decoder, classes, config.mean, config.std)
