"""The hybrid: levels of the one part, tokens of the other, each of an image normalised as its weights expect."""

import torch
from torch.nn.functional import avg_pool2d

from foodseg.config.vit import ViTConfig
from foodseg.models.backbones.hybrid import Hybrid
from foodseg.models.backbones.timm_pyramid import Pyramid
from foodseg.models.backbones.vit import TokenEncoder
from tests.support.compare import assert_close

MEAN, STD, VIT_MEAN, VIT_STD = (0.5, 0.4, 0.3), (0.5, 0.25, 0.125), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalised(image: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    return (image - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)


def test_levels() -> None:
    torch.manual_seed(0)
    pyramid = Pyramid("test_efficientnet", (4, 8, 16, 32))
    encoder = TokenEncoder("test_vit", ViTConfig(backbone="test_vit"), None)
    hybrid = Hybrid(pyramid, encoder, MEAN, STD, VIT_MEAN, VIT_STD).eval()
    assert hybrid.strides == (4, 8, 16, 32) and hybrid.size_multiple == 32
    assert hybrid.channels == [*pyramid.channels[:2], pyramid.channels[2] + 64, pyramid.channels[3] + 64]
    for size in ((64, 96), (72, 40)):
        image = torch.rand(2, 3, *size)
        own, tokens = pyramid(normalised(image, MEAN, STD)), encoder(normalised(image, VIT_MEAN, VIT_STD))
        levels = hybrid(normalised(image, MEAN, STD))
        assert [level.shape[1] for level in levels] == hybrid.channels
        for level, convolutional in zip(levels, own, strict=True):
            assert torch.equal(level[:, : convolutional.shape[1]], convolutional)
        assert_close(levels[2][:, -64:], tokens)
        assert_close(levels[3][:, -64:], avg_pool2d(tokens, 2, ceil_mode=True))
        assert_close(hybrid.tokens(normalised(image, MEAN, STD)), tokens)


def test_rates() -> None:
    parts = Pyramid("test_efficientnet", (16,)), TokenEncoder("test_vit", ViTConfig(trained="full"), None)
    hybrid = Hybrid(*parts, MEAN, STD, VIT_MEAN, VIT_STD)
    factors = hybrid.rate_factors()
    assert factors.keys() == {name for name, _ in hybrid.named_parameters()}
    assert {factors[name] for name in factors if name.startswith("pyramid.")} == {1.0}
    assert factors["encoder.vit.pos_embed"] == 0.75**6 and factors["encoder.vit.blocks.4.norm1.weight"] == 0.75
    assert "encoder.vit.pos_embed" in hybrid.no_weight_decay()
