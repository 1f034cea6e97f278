"""A plain vision transformer (ViT) of timm as a backbone: DINOv2, DINOv3, DeiT, SigLIP, CLIP, EVA, ...

    encoder = TokenEncoder("vit_small_patch14_dinov2", ViTConfig(), weights="vit.safetensors")
    tokens = encoder(image)    # (B, 3, H, W) normalised -> (B, C, H / 16, W / 16)

A plain ViT has features at one stride, that of its patches. The image is resized first, by patch / 16, so that patches
of any size make tokens at stride 16, aligned with the levels of a convolutional backbone. `PlainViT` makes a feature
pyramid of them (`simple_pyramid.py`); `hybrid.py` puts them beside a convolutional pyramid.

Shape letters: B images; H, W of an image; C channels; h, w grid of tokens.
"""

import contextlib
import functools
from typing import Any

import timm
import torch
from timm.layers import PatchEmbed, resample_abs_pos_embed
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn.functional import interpolate, pad

from foodseg.config.vit import ViTConfig
from foodseg.errors import UserError
from foodseg.models.backbones.frozen_features import FeatureCache
from foodseg.models.backbones.simple_pyramid import SimpleFeaturePyramid
from foodseg.models.backbones.timm_weights import require_timm_model, with_weights

STRIDE = 16  # of the tokens, whatever the patch size


@functools.cache
def is_plain_vit(name: str, key: str = "model.backbone") -> bool:
    """Whether a timm model is a plain ViT that takes images of any size: timm's `VisionTransformer` and `Eva`.

    Raises:
        UserError: timm has no such model; `key` is where it was given.
    """
    require_timm_model(name, key)
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = timm.create_model(name)
    # some have a convolutional network in front of the transformer instead of patches
    return isinstance(model, VisionTransformer | Eva) and type(model.patch_embed) is PatchEmbed


class TokenEncoder(nn.Module):
    """A plain ViT without its head.

    Attributes:
        channels: C of the tokens.
        frozen: whether nothing of it is trained.
        feature_cache: holds the tokens of images that are seen again, for a frozen ViT; None = all are computed.
    """

    def __init__(self, name: str, config: ViTConfig, weights: str | None, section: str = "model") -> None:
        """Builds it; `weights` as for `Pyramid`.

        Args:
            section: whose `backbone` and `weights` these are, for messages.

        Raises:
            UserError: unknown model or no plain ViT, fewer blocks than are to be trained, weights that do not fit.
        """
        super().__init__()
        if not is_plain_vit(name, f"{section}.backbone"):
            raise UserError(
                f"{section}.backbone: {name!r} is not a plain ViT that takes images of any size: name one of timm's "
                "classes VisionTransformer or Eva, as vit_small_patch14_dinov2"
            )
        vit: Any = with_weights(name, weights, functools.partial(_create, name), f"{section}.weights")
        self.vit = vit
        self.channels = int(vit.embed_dim)
        self._patch: tuple[int, int] = vit.patch_embed.patch_size
        self._rate, self._decay = config.lr_factor, config.layer_decay
        self.frozen = config.trained == "frozen"
        self._trained = _trained_parts(self.vit, config)
        self.vit.requires_grad_(False)
        for part in self._trained:
            part.requires_grad_(True)
        self.feature_cache: FeatureCache | None = None

    def train(self, mode: bool = True) -> "TokenEncoder":
        """What is not trained is always in evaluation mode."""
        super().train(mode)
        self.vit.eval()
        for part in self._trained:
            part.train(mode)
        return self

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Encodes an image.

        Args:
            image: (B, 3, H, W) float, normalised, of any size.

        Returns:
            (B, C, ceil(H / 16), ceil(W / 16)), the normalised tokens of the last block, without those that belong to no
            patch; of a frozen ViT without gradient, in the autocast type where that is on.
        """
        if self.feature_cache is None:
            return self._encode(image)
        return self.feature_cache.features(image, self.vit, self._encode)

    def rate_factors(self) -> dict[str, float]:
        """Returns by parameter the factor of the backbone's rate (layer-wise decay; BEiT, Bao et al., 2022)."""
        depth = len(self.vit.blocks)
        factors = {}
        for name, _ in self.vit.named_parameters():
            part, _, rest = name.partition(".")
            layer = {"blocks": int(rest.partition(".")[0]) + 1} if part == "blocks" else {"norm": depth}
            factors[f"vit.{name}"] = self._rate * self._decay ** (depth - layer.get(part, 0))
        return factors

    def no_weight_decay(self) -> set[str]:
        """Returns the names of tokens and position embeddings, which timm says not to decay."""
        return {f"vit.{name}" for name in self.vit.no_weight_decay()}

    def _encode(self, image: torch.Tensor) -> torch.Tensor:
        grid = [_cells(side, STRIDE) for side in image.shape[2:]]
        image = _resized(image, [side * patch for side, patch in zip(grid, self._patch, strict=True)])
        with torch.no_grad() if self.frozen else contextlib.nullcontext():
            (tokens,) = self.vit.forward_intermediates(
                image, indices=1, norm=True, output_fmt="NLC", intermediates_only=True
            )
        if self.frozen and torch.is_autocast_enabled(image.device.type):
            tokens = tokens.to(torch.get_autocast_dtype(image.device.type))
        # a view: the memory format of a channels_last convolution
        return tokens.reshape(tokens.shape[0], *grid, -1).permute(0, 3, 1, 2)


class PlainViT(nn.Module):
    """A plain ViT with a simple feature pyramid, with the interface of `Pyramid`.

    Attributes:
        channels, strides, size_multiple: as those of `Pyramid`.
        encoder: the ViT.
    """

    def __init__(
        self, name: str, strides: tuple[int, ...], config: ViTConfig, width: int, weights: str | None = None
    ) -> None:
        """Builds it with levels of `width` channels; `weights` as for `Pyramid`.

        Raises:
            UserError: as `TokenEncoder`, or strides that the pyramid does not have.
        """
        super().__init__()
        absent = [stride for stride in strides if stride not in SimpleFeaturePyramid.STRIDES]
        if absent:
            have = list(SimpleFeaturePyramid.STRIDES)
            raise UserError(f"model.strides: a plain ViT ({name!r}) has levels at strides {have}, not at {absent}")
        self.strides, self.size_multiple = strides, strides[-1]
        self.encoder = TokenEncoder(name, config, weights)
        self.pyramid = SimpleFeaturePyramid(self.encoder.channels, width, strides)
        self.channels = [width] * len(strides)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """(B, 3, H, W) normalised -> a list of (B, width, H / stride_i, W / stride_i)."""
        height, width = image.shape[2:]
        levels = self.pyramid(self.tokens(image))
        # the pyramid is one of whole tokens, which sides that are no multiples of 16 do not fill
        return [
            level[:, :, : _cells(height, stride), : _cells(width, stride)]
            for stride, level in zip(self.strides, levels, strict=True)
        ]

    def tokens(self, image: torch.Tensor) -> torch.Tensor:
        """Returns the map of tokens at stride 16, as `TokenEncoder.forward`."""
        tokens: torch.Tensor = self.encoder(image)
        return tokens

    def rate_factors(self) -> dict[str, float]:
        """As `TokenEncoder.rate_factors`. The pyramid is not in it, since it starts from random weights."""
        return {f"encoder.{name}": factor for name, factor in self.encoder.rate_factors().items()}

    def no_weight_decay(self) -> set[str]:
        """As `TokenEncoder.no_weight_decay`."""
        return {f"encoder.{name}" for name in self.encoder.no_weight_decay()}


class _PlainBicubic(VisionTransformer):
    """Resizes position embeddings as DINOv2's own code does: bicubic without antialiasing.

    With antialiasing, which is timm's default and that of DINOv2's variants with register tokens, tokens of these
    weights at 224 px have a cosine of 0.97 with the right ones.
    """

    def _pos_embed(self, x: torch.Tensor) -> torch.Tensor:
        """Patches (B, h, w, C) -> tokens (B, 1 + h w, C) with a class token and position embeddings."""
        grid = [x.shape[1], x.shape[2]]
        positions = resample_abs_pos_embed(
            self.pos_embed, grid, list(self.patch_embed.grid_size), self.num_prefix_tokens, antialias=False
        )
        assert self.cls_token is not None
        return torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x.flatten(1, 2)], 1) + positions


def plain_bicubic(name: str, vit: Any) -> nn.Module:
    """Returns the model, which resizes position embeddings as its weights expect it."""
    if "dinov2" in name and vit.reg_token is None:
        vit.__class__ = _PlainBicubic
    return vit


def _create(name: str, **settings: Any) -> nn.Module:
    """Builds a ViT that ends with the norm of its tokens."""
    vit: Any = timm.create_model(name, dynamic_img_size=True, num_classes=0, **settings)
    if isinstance(vit.norm, nn.Identity):
        vit.norm = vit.fc_norm  # models that average the tokens have their norm behind that
    vit.prune_intermediate_layers(1, prune_norm=False, prune_head=True)
    return plain_bicubic(name, vit)


def _trained_parts(vit: Any, config: ViTConfig) -> list[nn.Module]:
    if config.trained == "full":
        return [vit]
    if config.trained == "frozen":
        return []
    if config.last_blocks > len(vit.blocks):
        raise UserError(
            f"model.vit.last_blocks = {config.last_blocks}, but the ViT has {len(vit.blocks)} blocks: lower it, or set "
            "model.vit.trained=full"
        )
    return [*vit.blocks[-config.last_blocks :], vit.norm]


def _cells(side: int, stride: int) -> int:
    """Returns side / stride, rounded up; without `math.ceil`, which an export would trace as a constant."""
    return -(-side // stride)


def _resized(image: torch.Tensor, size: list[int]) -> torch.Tensor:
    """Resizes with pixel centres at halves, so that each token covers the 16 x 16 pixels of its grid cell."""
    height, width = image.shape[2:]
    right, below = -width % STRIDE, -height % STRIDE
    if right or below:
        image = pad(image, (0, right, 0, below))
    if list(image.shape[2:]) == size:
        return image
    return interpolate(image, size=size, mode="bilinear", align_corners=False, antialias=True)
