"""One suite for every backbone: shapes, gradients, odd sizes, saving; and the refusals of the builder."""

import logging

import pytest
import safetensors.torch
import torch

from foodseg.config.model import ModelConfig
from foodseg.errors import UserError
from foodseg.models.build import build_segmenter
from foodseg.models.segmenter import SegmenterNetwork
from tests.support.compare import assert_close

ALL = (4, 8, 16, 32)
# a plain one, EfficientNets (timm keeps their unused stages), channels-last features, a single stride
BACKBONES = [
    ("test_resnet", ALL),
    ("test_efficientnet", ALL),
    ("test_efficientnet", (4, 8)),
    ("mobilenetv3_small_050", (8, 16)),
    ("test_convnext", ALL),
    ("test_mambaout", ALL),
    ("test_resnet", (16,)),
    # plain ViTs with and without class and register tokens, trained in part or not; hybrids
    ("test_vit", ALL),
    ("test_vit2", ALL, {"trained": "last", "last_blocks": 2}),
    ("test_vit3", (8, 16), {"trained": "full"}),
    ("vit_small_patch16_dinov3", (16, 32), {"trained": "full"}),
    ("test_efficientnet", ALL, {"backbone": "test_vit4", "weights": "none"}),
    ("test_efficientnet", (8, 16), {"backbone": "test_vit", "weights": "none", "trained": "full"}),
]


def build(
    backbone: str = "test_efficientnet", strides: tuple[int, ...] = ALL, vit: dict | None = None, **settings
) -> SegmenterNetwork:
    torch.manual_seed(0)
    given = {"weights": "none", "pyramid_channels": 16, "decoder_channels": 16, "vit": vit or {}, **settings}
    config = ModelConfig(backbone=backbone, strides=strides, **given)
    return build_segmenter(config, 5)


@pytest.fixture(params=BACKBONES, ids=lambda p: "-".join(map(str, (p[0], *p[1], *(p[2:] and p[2].values())))))
def model(request) -> SegmenterNetwork:
    return build(*request.param)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 160), (32, 224)])
def test_shapes(model, height, width):
    model.eval()
    output = model(torch.rand(2, 3, height, width))
    assert model.stride == output.stride == model.backbone.strides[0]
    assert output.logits.shape == (2, 5, height // output.stride, width // output.stride)
    assert output.features.shape == (2, 16, height // output.stride, width // output.stride)
    assert output.ingredient_logits is None
    assert model.size_multiple == model.backbone.strides[-1]


def test_gradient_reaches_every_parameter(model):
    """DDP refuses parameters without one."""
    model.train()(torch.rand(2, 3, 64, 64)).logits.square().sum().backward()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert [name for name, parameter in trained.items() if parameter.grad is None] == []
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert all(name.startswith("backbone.encoder.vit.") for name in frozen)


def test_save_and_load(model):
    data = safetensors.torch.save({name: tensor.contiguous() for name, tensor in model.state_dict().items()})
    image = torch.rand(1, 3, 64, 64)
    expected = model.eval()(image).logits
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    model.load_state_dict(safetensors.torch.load(data))
    assert torch.equal(model(image).logits, expected)


def test_an_image_of_one_coarse_pixel():
    """Each group of the GroupNorm needs two values, whatever the width."""
    model = build().eval()
    assert model(torch.rand(1, 3, 32, 32)).logits.shape == (1, 5, 8, 8)


def test_a_backbone_made_for_one_size_takes_any():
    model = build("swin_tiny_patch4_window7_224").eval()
    assert model(torch.rand(1, 3, 64, 96)).logits.shape == (1, 5, 16, 24)


def test_padding_with_the_mean_is_zero_for_the_backbone():
    model = build(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    seen = []
    model.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    image = torch.zeros(1, 3, 32, 32)
    image[:, :, :16] = model.mean
    model.eval()(image)
    assert (seen[0][:, :, :16] == 0).all()
    assert_close(seen[0][0, :, 31, 0], torch.tensor([-0.25, -0.4, -0.5]))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"backbone": "resnet19"}, "model.backbone: timm has no model 'resnet19'"),
        ({"backbone": "tf_efficientnet_lite9"}, "near names: tf_efficient"),
        ({"strides": (64, 128)}, r"has features at strides \[2, 4, 8, 16, 32\], not at \[64, 128\]"),
        ({"backbone": "beit_base_patch16_224"}, r"not at \[4, 8, 32\]"),
        ({"backbone": "test_vit", "strides": (32, 64)}, r"has levels at strides \[4, 8, 16, 32\], not at \[64\]"),
        ({"backbone": "test_vit", "vit": {"trained": "last", "last_blocks": 7}}, "last_blocks = 7, but .* 6 blocks"),
        ({"backbone": "test_vit", "vit": {"backbone": "test_vit2"}}, "'test_vit' is a plain ViT itself"),
        ({"vit": {"trained": "full"}}, "model.vit is for plain ViTs, and model.backbone 'test_efficientnet' is none"),
        ({"vit": {"backbone": "vit_smal"}}, "model.vit.backbone: timm has no model 'vit_smal'; near names: "),
        ({"vit": {"backbone": "test_resnet"}}, "model.vit.backbone: 'test_resnet' is not a plain ViT"),
        ({"vit": {"backbone": "test_vit", "weights": "WRONG"}}, "model.vit.weights: .* timm weights of 'test_vit'"),
        ({"weights": "/nowhere/w.safetensors"}, "/nowhere/w.safetensors"),
        ({"backbone": "tf_efficientnet_lite4", "weights": "WRONG"}, "weights of 'tf_efficientnet_lite4'"),
        ({"backbone": "test_resnet", "weights": "WRONG"}, "does not hold timm weights of 'test_resnet'"),
        ({"weights": "TEXT"}, "does not hold timm weights of 'test_efficientnet' in safetensors format"),
    ],
)  # fmt: skip
def test_refusals(settings, expected, tmp_path):
    (tmp_path / "TEXT").write_text("no weights")
    safetensors.torch.save_file({"x": torch.zeros(1)}, tmp_path / "WRONG")
    for section in (settings, settings.get("vit", {})):
        if section.get("weights") in ("TEXT", "WRONG"):
            section["weights"] = str(tmp_path / section["weights"])
    with pytest.raises(UserError, match=expected) as error:
        build(**settings)
    assert "\n" not in str(error.value)


def test_a_family_without_published_weights_is_no_silent_random_start(monkeypatch):
    monkeypatch.setattr("timm.models.is_model_pretrained", lambda name: False)
    with pytest.raises(UserError, match=r"timm has no weights for 'test_efficientnet'"):
        build(weights="timm")


def test_real_weights(shared, caplog):
    lite0 = shared / "weights" / "tf_efficientnet_lite0.safetensors"
    with caplog.at_level(logging.INFO):
        model = build("tf_efficientnet_lite0", weights=str(lite0))
    assert "keys" not in caplog.text and "pretrained" not in caplog.text
    stored = safetensors.torch.load_file(lite0)
    own = model.backbone.backbone.state_dict()
    both = own.keys() & stored.keys()
    assert len(both) > 200 and own.keys() == both
    assert all(torch.equal(own[name], stored[name]) for name in both)
