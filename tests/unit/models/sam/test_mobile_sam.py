"""MobileSAM's encoder against TinyViT written out from its equations, on the real weights under their own names."""

import pytest
import safetensors.torch
import torch
from torch.nn.functional import batch_norm, conv2d, gelu, layer_norm, linear, pad

from foodseg.models.sam.mobile_sam import TinyEncoder, build_mobile_sam, timm_state
from tests.support.compare import assert_close

State = dict[str, torch.Tensor]
HEADS, WINDOWS, DEPTHS = (2, 4, 5, 10), (7, 7, 14, 7), (2, 2, 6, 2)


@pytest.mark.parametrize(
    ("official", "own"),
    [
        ("image_encoder.patch_embed.seq.0.c.weight", "image_encoder.patch_embed.conv1.conv.weight"),
        ("image_encoder.patch_embed.seq.2.bn.bias", "image_encoder.patch_embed.conv2.bn.bias"),
        ("image_encoder.layers.0.blocks.1.conv3.c.weight", "image_encoder.stages.0.blocks.1.conv3.conv.weight"),
        ("image_encoder.layers.0.downsample.conv2.bn.weight", "image_encoder.stages.1.downsample.conv2.bn.weight"),
        ("image_encoder.layers.2.downsample.conv1.c.weight", "image_encoder.stages.3.downsample.conv1.conv.weight"),
        ("image_encoder.layers.3.blocks.0.attn.qkv.bias", "image_encoder.stages.3.blocks.0.attn.qkv.bias"),
        ("image_encoder.neck.2.weight", "image_encoder.neck.2.weight"),
        ("mask_decoder.iou_token.weight", "mask_decoder.iou_token.weight"),
    ],
)
def test_names(official, own):
    assert list(timm_state({official: torch.zeros(1)})) == [own]


def test_the_classifier_is_left_out():
    state = {f"image_encoder.{name}": torch.zeros(1) for name in ("head.weight", "head.bias", "norm_head.weight")}
    assert timm_state(state) == {}


def test_every_weight_of_the_published_file_has_its_place(official):
    found = build_mobile_sam().load_state_dict(timm_state(official), strict=False)
    assert found.missing_keys == [] and found.unexpected_keys == []


@pytest.mark.parametrize(("height", "width"), [(160, 224), (224, 224)])  # windows with padding and without
def test_encoder_equals_its_equations(official, height, width):
    encoder = TinyEncoder()
    own = {n.removeprefix("image_encoder."): t for n, t in timm_state(official).items() if n.startswith("image_e")}
    encoder.load_state_dict(own)
    torch.manual_seed(0)
    image = torch.randn(2, 3, height, width)
    with torch.inference_mode():
        found = encoder.eval()(image)
        expected = _encode(image, {n.removeprefix("image_encoder."): t for n, t in official.items()})
    assert found.shape == (2, 256, height // 16, width // 16)
    assert_close(found, expected)


@pytest.fixture(scope="module")
def official(shared) -> State:
    return safetensors.torch.load_file(shared / "weights" / "mobile_sam.safetensors")


# --- TinyViT (Wu et al., 2022) with MobileSAM's neck, functional, channels last between the blocks ---


def _encode(image: torch.Tensor, w: State) -> torch.Tensor:
    x = gelu(_conv(image, w, "patch_embed.seq.0", stride=2, padding=1))
    x = _conv(x, w, "patch_embed.seq.2", stride=2, padding=1)
    for stage, depth in enumerate(DEPTHS):
        for block in range(depth):
            name = f"layers.{stage}.blocks.{block}"
            x = _bottleneck(x, w, name) if stage == 0 else _block(x, w, name, HEADS[stage], WINDOWS[stage])
        if stage < 3:
            name = f"layers.{stage}.downsample"
            x = gelu(_conv(x, w, f"{name}.conv1"))
            x = gelu(_conv(x, w, f"{name}.conv2", stride=2 if stage < 2 else 1, padding=1, groups=x.shape[1]))
            x = _conv(x, w, f"{name}.conv3")
    x = _channel_norm(conv2d(x, w["neck.0.weight"]), w, "neck.1")
    return _channel_norm(conv2d(x, w["neck.2.weight"], padding=1), w, "neck.3")


def _conv(x: torch.Tensor, w: State, name: str, **settings: int) -> torch.Tensor:
    x = conv2d(x, w[f"{name}.c.weight"], **settings)
    statistics = (w[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return batch_norm(x, *statistics, eps=1e-5)


def _bottleneck(x: torch.Tensor, w: State, name: str) -> torch.Tensor:
    inner = gelu(_conv(x, w, f"{name}.conv1"))
    inner = gelu(_conv(inner, w, f"{name}.conv2", padding=1, groups=inner.shape[1]))
    return gelu(x + _conv(inner, w, f"{name}.conv3"))


def _block(x: torch.Tensor, w: State, name: str, heads: int, side: int) -> torch.Tensor:
    """(B, C, H, W) -> the same: attention in windows, a depthwise convolution, an MLP."""
    height, width = x.shape[2:]
    padded = pad(x.permute(0, 2, 3, 1), (0, 0, 0, -width % side, 0, -height % side))
    attended = torch.zeros_like(padded)
    for top in range(0, padded.shape[1], side):
        for left in range(0, padded.shape[2], side):
            window = padded[:, top : top + side, left : left + side]
            attended[:, top : top + side, left : left + side] = _attention(window, w, f"{name}.attn", heads)
    x = x + attended[:, :height, :width].permute(0, 3, 1, 2)
    x = _conv(x, w, f"{name}.local_conv", padding=1, groups=x.shape[1])
    tokens = x.permute(0, 2, 3, 1)
    inner = gelu(_linear(_norm(tokens, w, f"{name}.mlp.norm"), w, f"{name}.mlp.fc1"))
    return (tokens + _linear(inner, w, f"{name}.mlp.fc2")).permute(0, 3, 1, 2)


def _attention(window: torch.Tensor, w: State, name: str, heads: int) -> torch.Tensor:
    """Multi-head attention over one window (B, s, s, C), with a bias for each distance in y and x."""
    batch, side, _, channels = window.shape
    tokens = _norm(window.reshape(batch, side * side, channels), w, f"{name}.norm")
    mixed = _linear(tokens, w, f"{name}.qkv").reshape(batch, side * side, heads, 3, channels // heads)
    query, key, value = (mixed[:, :, :, part].transpose(1, 2) for part in range(3))
    cell = torch.arange(side * side)
    y, x = cell // side, cell % side
    distance = (y[:, None] - y).abs() * side + (x[:, None] - x).abs()
    scores = query @ key.transpose(2, 3) / (channels // heads) ** 0.5 + w[f"{name}.attention_biases"][:, distance]
    mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, side * side, channels)
    return _linear(mixed, w, f"{name}.proj").reshape(window.shape)


def _linear(x: torch.Tensor, w: State, name: str) -> torch.Tensor:
    return linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def _norm(x: torch.Tensor, w: State, name: str) -> torch.Tensor:
    return layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-5)


def _channel_norm(x: torch.Tensor, w: State, name: str) -> torch.Tensor:
    normed = layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2], w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-6)
    return normed.permute(0, 3, 1, 2)
