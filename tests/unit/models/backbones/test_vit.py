"""Tokens of plain ViTs: equal to timm's own, on the pixel grid, with position embeddings as the weights expect."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch.nn.functional import interpolate

from foodseg.config.vit import ViTConfig
from foodseg.errors import UserError
from foodseg.models.backbones.frozen_features import FeatureCache
from foodseg.models.backbones.vit import PlainViT, TokenEncoder, is_plain_vit
from tests.support.compare import assert_close

DINOV2 = "vit_small_patch14_dinov2"


def encoder_of(name: str, weights: str | None = None, **settings: Any) -> TokenEncoder:
    torch.manual_seed(0)
    return TokenEncoder(name, ViTConfig(**settings), weights)


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("test_vit", 160),  # class token
        ("test_vit2", 160),  # register token, averaged: its norm is behind the average
        ("test_vit3", 160),  # attention pooling, as SigLIP
        ("test_vit4", 160),
        ("deit_tiny_distilled_patch16_224", 224),  # two tokens in front
        ("vit_small_patch16_dinov3", 256),  # rotary position embeddings, four registers
    ],
)
def test_tokens_are_those_of_timm_at_its_own_size(name: str, side: int) -> None:
    encoder = encoder_of(name).eval()
    own = timm.create_model(name, num_classes=0).eval()
    wanted = {f"fc_{key}" if f"fc_{key}" in own.state_dict() else key: v for key, v in encoder.vit.state_dict().items()}
    missing, unexpected = own.load_state_dict(wanted, strict=False)
    assert not unexpected and all(key.startswith("attn_pool.") for key in missing)
    image = torch.rand(2, 3, side, side)
    with torch.no_grad():
        tokens = own.fc_norm(own.forward_features(image)[:, own.num_prefix_tokens :])
        expected = tokens.transpose(1, 2).unflatten(2, (side // 16, side // 16))
        assert_close(encoder(image), expected)


@pytest.mark.parametrize(("name", "patch"), [(DINOV2, 14), ("vit_small_patch8_224", 8), ("vit_small_patch32_224", 32)])
def test_each_token_covers_its_16_pixels(name: str, patch: int) -> None:
    """The middle of each patch has the colour of its grid cell, whatever is on the other cells."""
    encoder = encoder_of(name).eval()
    seen = []
    encoder.vit.patch_embed.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    cells = torch.rand(1, 3, 4, 6)
    image = cells.repeat_interleave(16, 2).repeat_interleave(16, 3)
    assert encoder(image).shape == (1, 384, 4, 6)
    assert encoder(image[:, :, :-8, :-15]).shape == (1, 384, 4, 6)  # a cell may have few real pixels
    middle = slice(patch // 2 - 1, None, patch)
    assert seen[0].shape == (1, 3, 4 * patch, 6 * patch)
    assert_close(seen[0][:, :, middle, middle], cells)


def test_position_embeddings_of_dinov2(shared: Path) -> None:
    """Plain bicubic gives what the source of these weights gives at 224 px; antialiased, something else."""
    file = shared / "weights" / "vit_small_patch14_dinov2_fp16.safetensors"
    encoder = encoder_of(DINOV2, str(file)).eval()
    image = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    state = {name: tensor.float() for name, tensor in safetensors.torch.load_file(file).items()}
    grid = state["pos_embed"][:, 1:].transpose(1, 2).unflatten(2, (37, 37))
    found = {}
    for antialias in (False, True):
        resized = interpolate(grid, size=(16, 16), mode="bicubic", align_corners=False, antialias=antialias)
        positions = torch.cat([state["pos_embed"][:, :1], resized.flatten(2).transpose(1, 2)], 1)
        own = timm.create_model(DINOV2, img_size=224, num_classes=0).eval()
        own.load_state_dict({**state, "pos_embed": positions})
        small = interpolate(image, size=(224, 224), mode="bilinear", antialias=True)
        with torch.no_grad():
            tokens = own.forward_features(small)[:, 1:]
        found[antialias] = tokens.transpose(1, 2).unflatten(2, (16, 16))
    tokens = encoder(image)
    assert tokens.dtype == torch.float32 and not tokens.requires_grad
    torch.testing.assert_close(tokens, found[False], rtol=1e-3, atol=1e-3)
    assert (tokens - found[True]).abs().max() > 0.1


def test_position_embeddings_of_others_are_antialiased() -> None:
    """Among them those of DINOv2 with registers, whose own code antialiases."""
    for name in ("test_vit", "vit_small_patch14_reg4_dinov2"):
        encoder = encoder_of(name).eval()
        patch = encoder.vit.patch_embed.patch_size[0]
        own = timm.create_model(name, num_classes=0, img_size=4 * patch).eval()
        state = dict(encoder.vit.state_dict())
        prefix = 0 if own.no_embed_class else 1
        side = encoder.vit.patch_embed.grid_size[0]
        grid = state["pos_embed"][:, prefix:].transpose(1, 2).unflatten(2, (side, side))
        resized = interpolate(grid, size=(4, 4), mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
        own.load_state_dict({**state, "pos_embed": torch.cat([state["pos_embed"][:, :prefix], resized], 1)})
        image = torch.rand(1, 3, 64, 64)
        with torch.no_grad():
            small = interpolate(image, size=(4 * patch, 4 * patch), mode="bilinear", antialias=True)
            tokens = own.forward_features(small)[:, own.num_prefix_tokens :]
        assert_close(encoder(image), tokens.transpose(1, 2).unflatten(2, (4, 4)))


@pytest.mark.parametrize(
    ("settings", "trained"),
    [
        ({}, set()),
        ({"trained": "last", "last_blocks": 2}, {"blocks.4", "blocks.5", "norm"}),
        ({"trained": "full"}, {"cls_token", "pos_embed", "patch_embed", "norm", *(f"blocks.{i}" for i in range(6))}),
    ],
)
def test_what_is_trained(settings: dict[str, Any], trained: set[str]) -> None:
    encoder = encoder_of("test_vit", **settings).train()

    def part(name: str) -> str:
        return ".".join(name.split(".")[: 2 if name.startswith("blocks.") else 1])

    assert {part(name) for name, p in encoder.vit.named_parameters() if p.requires_grad} == trained
    for index, block in enumerate(encoder.vit.blocks):
        assert all(module.training == (f"blocks.{index}" in trained) for module in block.modules())
    assert encoder(torch.rand(1, 3, 32, 32)).requires_grad == bool(trained)
    assert not any(module.training for module in encoder.eval().modules())


def test_learning_rates_fall_towards_the_image() -> None:
    model = PlainViT("test_vit", (16,), ViTConfig(trained="full", layer_decay=0.5), 8)
    factors, names = model.rate_factors(), dict(model.named_parameters())
    assert factors.keys() == {name for name in names if name.startswith("encoder.")}
    for name, factor in {"pos_embed": 1 / 64, "patch_embed.proj.weight": 1 / 64, "blocks.0.attn.qkv.weight": 1 / 32,
                         "blocks.5.mlp.fc2.bias": 1, "norm.weight": 1}.items():  # fmt: skip
        assert factors[f"encoder.vit.{name}"] == factor
    slower = PlainViT("test_vit", (16,), ViTConfig(trained="full", layer_decay=0.5, lr_factor=0.25), 8).rate_factors()
    assert slower == {name: factor / 4 for name, factor in factors.items()}
    assert model.no_weight_decay() >= {"encoder.vit.pos_embed", "encoder.vit.cls_token"}


def test_half_precision() -> None:
    encoder = encoder_of("test_vit").eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        tokens = encoder(image)
    assert tokens.dtype == torch.bfloat16
    torch.testing.assert_close(tokens.float(), encoder(image), rtol=0.05, atol=0.05)


def test_cached_tokens(tmp_path: Path) -> None:
    encoder = encoder_of("test_vit").eval()
    images = torch.rand(3, 3, 64, 96)
    plain = encoder(images)
    shown: list[int] = []
    encoder.vit.patch_embed.register_forward_pre_hook(lambda module, args: shown.append(len(args[0])))
    encoder.feature_cache = FeatureCache(str(tmp_path))
    assert torch.equal(encoder(images), plain) and shown == [3]
    assert torch.equal(encoder(images), plain) and shown == [3]
    other = encoder_of("test_vit").eval()
    other.feature_cache = FeatureCache(str(tmp_path))
    assert torch.equal(other(images.flip(0)), plain.flip(0))


def test_missing_tensors_are_refused(tmp_path: Path) -> None:
    state = {name: 2 * tensor for name, tensor in encoder_of("test_vit").vit.state_dict().items()}
    whole, torn = tmp_path / "whole.safetensors", tmp_path / "torn.safetensors"
    safetensors.torch.save_file({name: tensor.half() for name, tensor in state.items()}, whole)
    safetensors.torch.save_file({n: tensor for n, tensor in state.items() if "blocks.3.mlp" not in n}, torn)
    loaded = encoder_of("test_vit", str(whole)).vit.state_dict()
    assert all(torch.equal(loaded[name], tensor.half().float()) for name, tensor in state.items())
    with pytest.raises(UserError, match=r"2 tensors are not in it, the first is blocks.3.mlp.fc1.weight"):
        encoder_of("test_vit", str(torn))


def test_weights_change_no_random_number(tmp_path: Path) -> None:
    encoder = encoder_of("test_vit")
    expected = torch.rand(4)
    file = tmp_path / "vit.safetensors"
    safetensors.torch.save_file({name: 2 * tensor for name, tensor in encoder.vit.state_dict().items()}, file)
    encoder_of("test_vit", str(file))
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        (DINOV2, True), ("vit_base_patch16_siglip_224", True), ("vit_base_patch32_clip_224", True),
        ("vit_small_patch16_dinov3", True), ("deit3_small_patch16_224", True), ("eva02_tiny_patch14_224", True),
        ("tf_efficientnet_lite0", False), ("swin_tiny_patch4_window7_224", False), ("hiera_tiny_224", False),
        ("beit_base_patch16_224", False), ("vit_base_r50_s16_224", False), ("mixer_b16_224", False),
    ],
)  # fmt: skip
def test_which_models_are_plain_vits(name: str, plain: bool) -> None:
    state = torch.get_rng_state()
    assert is_plain_vit(name) == plain
    assert torch.equal(torch.get_rng_state(), state)
