"""Dense CLIP: each attention against its formula written out, proxies planted, a constant image."""

from typing import get_args

import pytest
import torch
from torch import nn
from torch.nn.functional import layer_norm

from foodseg.errors import UserError
from foodseg.models.clip.dense import DenseAttention, DenseImageEncoder, neighbour_bias, proxy_bias
from foodseg.models.clip.patch_tower import open_tower
from tests.support.compare import assert_close
from tests.unit.models.clip.test_patch_tower import visual

HEADS, WIDTH, PATCH = 2, 16, 8


def features_of(pixels: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Random, but the same at each call."""
    generator = torch.Generator().manual_seed(grid[0] * 100 + grid[1])
    return torch.randn(1, 5, *grid, generator=generator).expand(len(pixels), -1, -1, -1)


def by_formula(model: nn.Module, attention: str, image: torch.Tensor) -> torch.Tensor:
    """(h w, D): the last block written out, with loops over heads and patches."""
    x = open_tower(model).tokens(image)[0]
    block = model.transformer.resblocks[-1]
    seen = layer_norm(x, x.shape[1:], block.ln_1.weight, block.ln_1.bias)
    q, k, v = (
        seen @ weight.T + bias
        for weight, bias in zip(block.attn.in_proj_weight.chunk(3), block.attn.in_proj_bias.chunk(3), strict=True)
    )
    rows, columns = image.shape[2] // PATCH, image.shape[3] // PATCH
    count = rows * columns
    mixed = torch.zeros(1 + count, HEADS * WIDTH)
    for head in range(HEADS):
        part = slice(head * WIDTH, (head + 1) * WIDTH)
        qq, kk = q[:, part] @ q[:, part].T / WIDTH**0.5, k[:, part] @ k[:, part].T / WIDTH**0.5
        if attention == "maskclip":
            weights = torch.eye(1 + count)
        elif attention == "sclip":
            weights = qq.softmax(1) + kk.softmax(1)
        elif attention == "clearclip":
            weights = qq.softmax(1)
        elif attention == "naclip":
            for i in range(count):
                for j in range(count):
                    far = (i // columns - j // columns) ** 2 + (i % columns - j % columns) ** 2
                    kk[1 + i, 1 + j] += torch.tensor(-far / 50.0).exp()
            weights = kk.softmax(1)
        else:
            external = features_of(image, (rows, columns))[0].flatten(1)
            similar = torch.cosine_similarity(external[:, :, None], external[:, None], dim=0)
            scores = 3 * (similar - 1.2 * similar.mean())
            scores[(scores < 0) & ~torch.eye(count, dtype=torch.bool)] = -torch.inf
            weights = torch.zeros(1 + count, 1 + count)
            weights[1:, 1:] = scores.softmax(1)
        mixed[:, part] = weights @ v[:, part]
    out = mixed @ block.attn.out_proj.weight.T + block.attn.out_proj.bias
    if attention in ("maskclip", "sclip"):
        out = x + out
        out = out + block.mlp(block.ln_2(out))
    found = (layer_norm(out, out.shape[1:], model.ln_post.weight, model.ln_post.bias) @ model.proj)[1:]
    return found / found.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("size", [(32, 32), (56, 24), (8, 40)], ids=["square", "tall", "one row"])
@pytest.mark.parametrize("attention", get_args(DenseAttention))
@torch.inference_mode()
def test_attention_is_as_its_formula_says(attention: DenseAttention, size: tuple[int, int]) -> None:
    model = visual()
    encoder = DenseImageEncoder(open_tower(model), attention, features_of if attention == "proxy" else None)
    image = torch.randn(2, 3, *size)
    found = encoder(image, image)
    assert found.shape == (2, size[0] // PATCH * size[1] // PATCH, 24)
    assert (found[0] - by_formula(model, attention, image[:1])).abs().max() < 1e-5


@torch.inference_mode()
def test_features_that_differ_everywhere_make_each_patch_attend_to_itself() -> None:
    def different(pixels: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        return torch.eye(grid[0] * grid[1]).unflatten(1, grid)[None].expand(len(pixels), -1, -1, -1)

    model = visual()
    tower, image = open_tower(model), torch.randn(1, 3, 32, 48)
    found = DenseImageEncoder(tower, "proxy", different)(image, image)
    value = tower.last.heads(tower.tokens(image))[2][:, :, 1:].transpose(1, 2).flatten(2)
    alone = tower.embed(tower.last.project(value))
    assert_close(found, alone / alone.norm(dim=2, keepdim=True))


@torch.inference_mode()
def test_a_constant_image_has_finite_embeddings() -> None:
    def alike(pixels: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        return torch.ones(len(pixels), 5, *grid)

    bias = proxy_bias(torch.ones(1, 5, 2, 3))
    assert_close(bias[0].diagonal(), torch.full((6,), -0.6))  # 3 x (1 - 1.2)
    assert bias.isinf().sum() == 30
    image = torch.full((1, 3, 32, 32), 0.5)
    assert DenseImageEncoder(open_tower(visual()), "proxy", alike)(image, image).isfinite().all()


def test_near_patches_by_hand() -> None:
    bias = neighbour_bias((1, 3), 1)
    near, far = 0.9801986733, 0.9231163464  # exp(-1 / 50), exp(-4 / 50)
    assert_close(bias, torch.tensor([[0, 0, 0, 0], [0, 1, near, far], [0, near, 1, near], [0, far, near, 1]]))


def test_what_does_not_fit_together_is_refused() -> None:
    tower = open_tower(visual())
    with pytest.raises(UserError, match="attention proxy needs an external encoder"):
        DenseImageEncoder(tower, "proxy")
    with pytest.raises(UserError, match="attention sclip uses no external encoder"):
        DenseImageEncoder(tower, "sclip", features_of)
    with pytest.raises(UserError, match="attention 'dino': use maskclip, sclip, clearclip, naclip, proxy"):
        DenseImageEncoder(tower, "dino")  # type: ignore[arg-type]
