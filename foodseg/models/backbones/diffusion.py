"""Stable Diffusion as a backbone: features of a UNet that was trained to generate images (VPD, Zhao et al., 2023).

The image becomes latents (a frozen VAE, the mode of its distribution, no noise), and goes once through the UNet at
one timestep. The class embeddings are the UNet's text: each is one token, so that the cross-attention layers say how
much each grid cell attends to each class. The outputs are:

- features in front of the last layer of each stage of the decoder half, at strides 64, 32, 16, 8 of the image: after
  `up_blocks[0].resnets[1]`, `up_blocks[1].attentions[1]`, `up_blocks[2].attentions[1]` and all of `up_blocks[3]`
- maps: the cross-attention of the layers at strides 16 and 32 of both halves, mean over heads and over the layers of
  one stride

VPD takes the square root of the number of grid cells for height and width. Here both come from the latents, so that
any image works whose sides are multiples of 64.

The parts are built in `diffusion_weights.py`. diffusers is imported only where it is used.

Shape letters: B images; H, W of an image; T tokens; D their width; C channels; h, w grid of a level.
"""

from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from foodseg.config.diffusion import DiffusionConfig
from foodseg.models.backbones.frozen_features import FeatureCache

LATENT_STRIDE, COARSEST = 8, 64
MAP_STRIDES = (16, 32)


class Diffusion(nn.Module):
    """The frozen VAE's encoder and the UNet, cut behind the finest level that is wanted.

    Attributes:
        channels: channels of the features of each level, in the order of `strides`.
        strides: pixels of the image per feature, increasing.
        map_strides: strides of the maps, increasing; empty where none are wanted.
        size_multiple: sides of an image must be multiples of this many pixels.
        feature_cache: holds latents of images that are seen again; None = all are computed.
    """

    timestep: torch.Tensor
    size_multiple = COARSEST

    def __init__(
        self, vae: Any, unet: Any, strides: tuple[int, ...], config: DiffusionConfig, *, conditioned: bool, maps: bool
    ) -> None:
        """Builds the backbone from both parts.

        Args:
            vae: `AutoencoderKL`; its decoder is dropped, and nothing of it is ever trained.
            unet: `UNet2DConditionModel` with four stages of two layers; what `config.unet` says of it is trained.
            conditioned: whether `forward` gets tokens; else it uses one learned token.
            maps: whether `forward` returns maps.
        """
        super().__init__()
        vae.decoder = vae.post_quant_conv = None
        self.vae, self.unet = vae.requires_grad_(False), unet
        self.strides = strides
        widths = unet.config.block_out_channels
        self.channels = [int(widths[(stride // LATENT_STRIDE).bit_length() - 1]) for stride in strides]
        self.map_strides = tuple(stride for stride in MAP_STRIDES if maps and stride in strides)
        self.register_buffer("timestep", torch.tensor(config.timestep), persistent=False)
        self._scale = float(vae.config.scaling_factor) if config.scale_latents else 1.0
        self.feature_cache: FeatureCache | None = None
        self._seen = _Seen()
        # as long as the tokens that the UNet was trained with, which come from a LayerNorm
        self.unconditioned_token = (
            None if conditioned else nn.Parameter(torch.randn(1, unet.config.cross_attention_dim))
        )
        _cut(unet, strides[0])
        _train(unet, config)
        if config.learn_timestep:
            unet.time_proj = _LearnedTime(unet.time_proj(self.timestep[None])[0])
        for stride in strides:
            _tapped(unet, stride).register_forward_hook(_Tap(self._seen, stride))
        for name, module in unet.named_modules():
            if name.endswith(".attn2"):
                module.set_processor(_TokenAttention(self._seen, _stride_of(name), self.map_strides))
        if config.gradient_checkpointing:
            unet.enable_gradient_checkpointing()

    def forward(
        self, image: torch.Tensor, tokens: torch.Tensor | None = None, allowed: torch.Tensor | None = None
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Runs both parts.

        Args:
            image: (B, 3, H, W) float in [-1, 1]; H and W multiples of 64.
            tokens: (T, D) float; None for an unconditioned backbone.
            allowed: (B, T) bool, the tokens that may be attended to, one at least; None = all.

        Returns:
            Features (B, C_i, H / stride_i, W / stride_i) of `strides`, and maps (B, T, h, w) float32 of `map_strides`:
            the attention of each grid cell to each token, which sums to 1; 0 for a token that is not allowed.
        """
        assert image.shape[2] % COARSEST == 0 and image.shape[3] % COARSEST == 0, f"sides of {tuple(image.shape)}"
        assert (tokens is None) != (self.unconditioned_token is None), (
            "tokens are passed if and only if the backbone is conditioned"
        )
        if self.feature_cache is None:
            latents = self._latents(image)
        else:
            latents = self.feature_cache.features(image, self.vae, self._latents)
        context = tokens if tokens is not None else self.unconditioned_token
        assert context is not None
        self._seen.begin()
        try:
            self.unet(
                latents * self._scale,
                self.timestep,
                context.expand(len(image), -1, -1),
                encoder_attention_mask=allowed,
                return_dict=False,
            )
        finally:
            features, maps = self._seen.end()
        height, width = image.shape[2:]
        shown = [torch.stack(maps[stride]).mean(0).transpose(1, 2) for stride in self.map_strides]
        return (
            [features[stride] for stride in self.strides],
            [m.unflatten(2, (height // s, width // s)) for s, m in zip(self.map_strides, shown, strict=True)],
        )

    @torch.no_grad()
    def _latents(self, image: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) float in [-1, 1] -> (B, C, H / 8, W / 8), the mode of the latents, without gradient."""
        latents: torch.Tensor = self.vae.encode(image).latent_dist.mode()
        return latents


class _Seen:
    """Collects features and maps of the layers during one forward pass.

    It is closed outside of it: a backward pass with checkpointing runs the same layers again.
    """

    def __init__(self) -> None:
        self._open = False
        self._features: dict[int, torch.Tensor] = {}
        self._maps: dict[int, list[torch.Tensor]] = {}

    def begin(self) -> None:
        self._open = True

    def end(self) -> tuple[dict[int, torch.Tensor], dict[int, list[torch.Tensor]]]:
        """Returns the features and the maps (B, h w, T) by stride, and clears them."""
        found = self._features, self._maps
        self._open, self._features, self._maps = False, {}, {}
        return found

    def feature(self, stride: int, value: torch.Tensor) -> None:
        if self._open:
            self._features[stride] = value

    def map(self, stride: int, value: torch.Tensor) -> None:
        if self._open:
            self._maps.setdefault(stride, []).append(value)


class _Tap:
    """A forward hook. It is an object, so that a deep copy of a model has its own hooks."""

    def __init__(self, seen: _Seen, stride: int) -> None:
        self._seen, self._stride = seen, stride

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        self._seen.feature(self._stride, output[0] if isinstance(output, tuple) else output)


class _TokenAttention:
    """Processor of diffusers' cross-attention layers: a token that is not allowed has exactly no weight.

    The weights of grid cells and tokens are computed only where maps are wanted; other layers use fused attention.
    """

    def __init__(self, seen: _Seen, stride: int | None, map_strides: tuple[int, ...]) -> None:
        """`stride`: of the image at this layer; None = the middle of the UNet, which has no maps."""
        self._seen, self._stride = seen, stride if stride in map_strides else None

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Grid cells (B, h w, C), tokens (B, T, D), mask (B, 1, T) with 0 for what may be seen -> (B, h w, C)."""
        assert encoder_hidden_states is not None
        projected = attn.to_q(hidden_states), attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
        query, key, value = (x.unflatten(2, (attn.heads, -1)).transpose(1, 2) for x in projected)
        # diffusers adds -10000 where masked; a boolean mask gives exactly no weight whatever the scores are
        allowed = None if attention_mask is None else attention_mask[:, None] == 0
        if self._stride is None:
            found = scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        else:
            # scaled first: in half precision the sums of long vectors overflow
            scores = ((query * attn.scale) @ key.transpose(2, 3)).float()
            if allowed is not None:
                scores = scores.masked_fill(~allowed, -torch.inf)
            weights = scores.softmax(-1)
            self._seen.map(self._stride, weights.mean(1))
            found = weights.to(value.dtype) @ value
        linear, dropout = attn.to_out
        return dropout(linear(found.transpose(1, 2).flatten(2)))


class _LearnedTime(nn.Module):
    """A learned encoding of the timestep instead of the UNet's sines and cosines."""

    def __init__(self, code: torch.Tensor) -> None:
        super().__init__()
        self.code = nn.Parameter(code.detach().clone())

    def forward(self, timesteps: torch.Tensor) -> torch.Tensor:
        return self.code.expand(len(timesteps), -1)


def _tapped(unet: Any, stride: int) -> nn.Module:
    """Returns the layer after which the feature of a stride is taken."""
    block = unet.up_blocks[_up_index(stride)]
    if stride == LATENT_STRIDE:
        return block
    return block.resnets[1] if stride == COARSEST else block.attentions[1]


def _cut(unet: Any, finest: int) -> None:
    """Drops the layers behind the feature of the finest level: DDP refuses parameters without a gradient."""
    unet.conv_norm_out, unet.conv_out = None, nn.Identity()
    last = _up_index(finest)
    unet.up_blocks = unet.up_blocks[: last + 1]
    if finest > LATENT_STRIDE:
        block = unet.up_blocks[last]
        block.resnets, block.attentions, block.upsamplers = block.resnets[:2], block.attentions[:2], None


def _train(unet: Any, config: DiffusionConfig) -> None:
    """Sets which parameters of the UNet are trained. LoRA (Hu et al., 2022) starts without any effect."""
    unet.requires_grad_(config.unet == "full")
    if config.unet == "lora":
        from peft import LoraConfig

        projections = ["to_q", "to_k", "to_v", "to_out.0"]
        unet.add_adapter(LoraConfig(r=config.lora_rank, lora_alpha=config.lora_rank, target_modules=projections))


def _stride_of(layer: str) -> int | None:
    """Returns the image pixels per grid cell of a layer "down_blocks.1..." or "up_blocks.2..."; None = neither."""
    half, _, rest = layer.partition(".")
    if half == "mid_block":
        return None
    index = int(rest.partition(".")[0])
    return LATENT_STRIDE << index if half == "down_blocks" else COARSEST >> index


def _up_index(stride: int) -> int:
    return (COARSEST // stride).bit_length() - 1
