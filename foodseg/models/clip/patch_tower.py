"""The image tower of a CLIP model, opened: tokens before its last block, that block in parts, an embedding a patch.

    tower = open_tower(clip.visual)
    tokens = tower.tokens(image)            # (B, P + h w, C), image of any size
    queries, keys, values = tower.last.heads(tokens)

Two kinds of ViT come with open_clip: its own (OpenAI's, LAION's, DataComp's, DFN's, MetaCLIP's), and timm's inside
open_clip's `TimmModel` (SigLIP). P tokens belong to no patch: 1 class token, or none.

Shape letters: B images; h, w grid of patches; N = P + h w tokens; C width of a token; D width of an embedding; A heads.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import AttentionPoolLatent, PatchEmbed, resample_abs_pos_embed
from timm.models.vision_transformer import Attention, VisionTransformer
from torch import nn

from foodseg.errors import UserError


@dataclass(frozen=True)
class LastBlock:
    """The last block of a ViT, in the parts that dense CLIP puts together anew.

    heads: (B, N, C), its input -> queries, keys and values, each (B, A, N, C / A). project: what attention gives
    (B, N, C) -> what is added to the residual stream. feed_forward: (B, N, C) -> what the second half adds to it.
    """

    heads: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
    project: Callable[[torch.Tensor], torch.Tensor]
    feed_forward: Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class PatchTower:
    """An image tower that gives an embedding for each patch.

    patch: pixels of its side. prefix: P. tokens: (B, 3, h * patch, w * patch) normalised -> (B, P + h w, C), the input
    of the last block. embed: (B, h w, C), output of the last block -> (B, h w, D), as if each patch were pooled alone.
    """

    patch: int
    prefix: int
    tokens: Callable[[torch.Tensor], torch.Tensor]
    last: LastBlock
    embed: Callable[[torch.Tensor], torch.Tensor]


def open_tower(visual: nn.Module) -> PatchTower:
    """Opens the image tower of an open_clip model; the tower shares its weights.

    Raises:
        UserError: it is no ViT with square patches, or one whose parts are put together in another way.
    """
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import ResidualAttentionBlock
    from open_clip.transformer import VisionTransformer as ClipViT

    found = type(visual).__name__
    if isinstance(visual, TimmModel):
        found = f"timm's {type(visual.trunk).__name__}"
        if isinstance(visual.trunk, VisionTransformer) and _is_plain(visual):
            return _timm_tower(visual)
    elif isinstance(visual, ClipViT):
        plain = all(type(block) is ResidualAttentionBlock for block in visual.transformer.resblocks)
        if plain and visual.attn_pool is None and len(set(visual.patch_size)) == 1:
            return _open_clip_tower(visual)
    raise UserError(
        f"the image tower of this CLIP model ({found}) is not a plain ViT, so that patches cannot be compared with "
        "names: choose another model, such as ViT-B-16, ViT-L-14 or ViT-B-16-SigLIP"
    )


def _open_clip_tower(visual: Any) -> PatchTower:
    *blocks, last = visual.transformer.resblocks
    batch_first = visual.transformer.batch_first
    patch = int(visual.patch_size[0])

    def tokens(image: torch.Tensor) -> torch.Tensor:
        patches = visual.conv1(image)
        grid = list(patches.shape[2:])
        patches = patches.flatten(2).mT
        positions = _resized(visual.positional_embedding[None], grid, list(visual.grid_size), 1)
        first = visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        x = visual.ln_pre(torch.cat([first, patches], 1) + positions.to(patches.dtype))
        x = x if batch_first else x.transpose(0, 1)
        for block in blocks:
            x = block(x)
        return x if batch_first else x.transpose(0, 1)

    def heads(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        attention = last.attn
        mixed = nn.functional.linear(last.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
        query, key, value = (_split(part, attention.num_heads) for part in mixed.chunk(3, dim=2))
        return query, key, value

    def embed(x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = visual.ln_post(x)  # of a pooled or of each token: the same for a patch alone
        return found if visual.proj is None else found @ visual.proj

    block = LastBlock(
        heads=heads,
        project=lambda x: last.ls_1(last.attn.out_proj(x)),
        feed_forward=lambda x: last.ls_2(last.mlp(last.ln_2(x))),
    )
    return PatchTower(patch, 1, tokens, block, embed)


def _is_plain(visual: Any) -> bool:
    """Whether `_timm_tower` computes what the trunk does."""
    trunk, pool = visual.trunk, visual.trunk.attn_pool
    patches = type(trunk.patch_embed) is PatchEmbed and len(set(trunk.patch_embed.patch_size)) == 1
    pools = pool is None or (type(pool) is AttentionPoolLatent and pool.pos_embed is None and pool.mlp is not None)
    return patches and pools and trunk.reg_token is None and type(trunk.blocks[-1].attn) is Attention


def _timm_tower(visual: Any) -> PatchTower:
    trunk = visual.trunk
    *blocks, last = trunk.blocks
    prefix = int(trunk.num_prefix_tokens)

    def tokens(image: torch.Tensor) -> torch.Tensor:
        patches = trunk.patch_embed.proj(image)
        grid = list(patches.shape[2:])
        x = trunk.patch_embed.norm(patches.flatten(2).mT)
        own = 0 if trunk.no_embed_class else prefix
        positions = _resized(trunk.pos_embed, grid, list(trunk.patch_embed.grid_size), own).to(x.dtype)
        first = [] if trunk.cls_token is None else [trunk.cls_token.expand(len(x), -1, -1)]
        x = torch.cat([*first, x + positions], 1) if trunk.no_embed_class else torch.cat([*first, x], 1) + positions
        x = trunk.norm_pre(x)
        for block in blocks:
            x = block(x)
        return x

    def heads(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        attention = last.attn
        query, key, value = (_split(part, attention.num_heads) for part in attention.qkv(last.norm1(x)).chunk(3, dim=2))
        return attention.q_norm(query), attention.k_norm(key), value

    def project(x: torch.Tensor) -> torch.Tensor:
        x = last.attn.norm(x) if hasattr(last.attn, "norm") else x
        found: torch.Tensor = last.ls1(last.attn.proj(x))
        return found

    def embed(x: torch.Tensor) -> torch.Tensor:
        x = trunk.norm(x)
        if trunk.attn_pool is not None:  # the attention of a query to a single token is 1
            pool = trunk.attn_pool
            value = pool.kv(x).chunk(2, dim=2)[1]
            x = pool.proj(value)
            x = x + pool.mlp(pool.norm(x))
        found: torch.Tensor = visual.head(trunk.head(trunk.fc_norm(x)))
        return found

    block = LastBlock(heads=heads, project=project, feed_forward=lambda x: last.ls2(last.mlp(last.norm2(x))))
    return PatchTower(int(trunk.patch_embed.patch_size[0]), prefix, tokens, block, embed)


def _split(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(B, N, C) -> (B, A, N, C / A)."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def _resized(positions: torch.Tensor, grid: list[int], own: list[int], prefix: int) -> torch.Tensor:
    """Returns position embeddings (1, P + H W, C) of another grid; of their own they stay as they are."""
    return resample_abs_pos_embed(positions, grid, own, prefix, antialias=False)
