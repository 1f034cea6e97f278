"""Opened image towers: put together again they give what open_clip gives; other towers are refused."""

import open_clip
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from foodseg.errors import UserError
from foodseg.models.clip.patch_tower import PatchTower, open_tower
from tests.support.compare import assert_close

TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 100, "width": 16, "heads": 2, "layers": 1},
}
SIGLIP = {
    "image_size": 224, "timm_model_name": "vit_tiny_patch16_224", "timm_model_pretrained": False,
    "timm_pool": "map", "timm_proj": "none",
}  # fmt: skip


def visual(**changed: object) -> torch.nn.Module:
    torch.manual_seed(0)
    vision = {**TINY["vision_cfg"], **changed}
    tower = open_clip.CLIP(24, vision, TINY["text_cfg"]).visual.eval()
    for parameter in tower.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # else biases and layer scales would hide mistakes
    return tower


def whole(tower: PatchTower, image: torch.Tensor) -> torch.Tensor:
    """The last block as it is: attention of queries to keys, residual stream, feed-forward part."""
    x = tower.tokens(image)
    mixed = scaled_dot_product_attention(*tower.last.heads(x))
    x = x + tower.last.project(mixed.transpose(1, 2).flatten(2))
    return x + tower.last.feed_forward(x)


@pytest.mark.parametrize("changed", [{}, {"ls_init_value": 0.5}, {"final_ln_after_pool": True}, {"no_ln_pre": True}])
@torch.inference_mode()
def test_the_parts_give_the_class_token_of_open_clip(changed: dict[str, object]) -> None:
    model = visual(**changed)
    tower, image = open_tower(model), torch.randn(2, 3, 32, 32)
    assert tower.patch == 8 and tower.prefix == 1
    assert_close(tower.embed(whole(tower, image)[:, :1])[:, 0], model(image))


@torch.inference_mode()
def test_a_tower_of_timm_is_put_together_as_siglip_is() -> None:
    torch.manual_seed(0)
    text = {**TINY["text_cfg"], "no_causal_mask": True}
    model = open_clip.CustomTextCLIP(192, SIGLIP, text).visual.eval()
    tower, image = open_tower(model), torch.randn(1, 3, 224, 224)
    x = model.trunk.norm(whole(tower, image))
    assert tower.prefix == int(model.trunk.cls_token is not None)
    pooled = model.trunk.fc_norm(model.trunk.attn_pool(x[:, tower.prefix :]))
    assert_close(model.head(model.trunk.head(pooled)), model(image))
    # pooled alone, a patch is the only one to attend to
    alone = torch.cat([model.trunk.attn_pool(x[:, [i]]) for i in (0, 5)])
    assert_close(tower.embed(whole(tower, image))[0, [0, 5]], model.head(model.trunk.head(alone)))


@torch.inference_mode()
def test_images_of_other_sizes_have_resized_position_embeddings() -> None:
    model = visual()
    tower = open_tower(model)
    assert tower.tokens(torch.randn(1, 3, 24, 56)).shape == (1, 1 + 3 * 7, 32)
    model.positional_embedding[1:] = model.positional_embedding[1]  # the same everywhere: no size changes it
    grey = tower.tokens(torch.full((1, 3, 16, 48), 0.5))
    assert_close(grey[0, 1:], grey[0, 1].expand(12, -1))


@pytest.mark.parametrize("name", ["RN50", "coca_ViT-B-32", "ViTamin-S"])
def test_other_towers_are_refused(name: str) -> None:
    with torch.device("meta"):
        model = open_clip.model.CustomTextCLIP if "coca" in name or "ViTamin" in name else open_clip.CLIP
        config = open_clip.get_model_config(name)
        tower = model(config["embed_dim"], config["vision_cfg"], config["text_cfg"]).visual
    with pytest.raises(UserError, match=r"is not a plain ViT.* choose another model, such as ViT-B-16"):
        open_tower(tower)
