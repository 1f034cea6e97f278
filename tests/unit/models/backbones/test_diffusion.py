"""The diffusion backbone against computations of its own: layers written out, attention from hooks, masks by hand."""

import copy

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import nn

from foodseg.config.diffusion import DiffusionConfig
from foodseg.config.model import ModelConfig
from foodseg.config.text import TextConfig
from foodseg.models.backbones.diffusion import Diffusion
from foodseg.models.build import build_segmenter, decoder_inputs
from foodseg.models.segmenter import SegmenterNetwork
from tests.support.compare import assert_close

K, D, HEADS = 5, 16, 4
LAYERS = {
    16: ["down_blocks.1.attentions.0", "down_blocks.1.attentions.1"]
    + [f"up_blocks.2.attentions.{index}" for index in range(3)],
    32: ["down_blocks.2.attentions.0", "down_blocks.2.attentions.1"]
    + [f"up_blocks.1.attentions.{index}" for index in range(3)],
}
SOME = torch.tensor([[False, True, False, True, False], [True, False, False, False, False]])

pytestmark = pytest.mark.usefixtures("one_thread")


def config(fusion: str = "cross_attention", strides: tuple[int, ...] = (8, 16, 32, 64), **diffusion) -> ModelConfig:
    text = TextConfig(kind="table", table="names", centre=False) if fusion != "none" else TextConfig()
    return ModelConfig(
        kind="diffusion", backbone="tiny", strides=strides, fusion=fusion, text=text, pyramid_channels=16,
        decoder_channels=16, dropout=0.0, diffusion=DiffusionConfig(**diffusion),
    )  # fmt: skip


def names() -> torch.Tensor:
    return torch.randn(K, D, generator=torch.Generator().manual_seed(1))


def build(fusion: str = "cross_attention", strides: tuple[int, ...] = (8, 16, 32, 64), **diffusion) -> SegmenterNetwork:
    torch.manual_seed(0)
    return build_segmenter(config(fusion, strides, **diffusion), K, text=None if fusion == "none" else names())


@pytest.fixture(scope="module")
def conditioned() -> SegmenterNetwork:
    return build().eval()


def sample_image(height: int, width: int, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(height + width))


# --- shapes ---


@pytest.mark.parametrize(("height", "width"), [(64, 64), (128, 192), (256, 64)])
def test_any_sides_that_are_multiples_of_64(conditioned, height, width):
    with torch.no_grad():
        output = conditioned(sample_image(height, width))
    assert conditioned.stride == output.stride == 8 and conditioned.size_multiple == 64
    assert output.logits.shape == (2, K, height // 8, width // 8)
    assert [tuple(stage.shape) for stage in output.stages] == [
        (2, 16, height // s, width // s) for s in (8, 16, 32, 64)
    ]
    assert [tuple(maps.shape) for maps in output.maps] == [(2, K + 1, height // s, width // s) for s in (16, 32)]
    for maps in output.maps:
        assert_close(maps.sum(1), torch.ones(2, *maps.shape[2:]))


@pytest.mark.parametrize(("height", "width"), [(64, 96), (32, 64)])
def test_other_sides_are_refused(conditioned, height, width):
    """Whoever shows images to a model pads them first."""
    with pytest.raises(AssertionError, match="sides of"):
        conditioned(sample_image(height, width))


@pytest.mark.parametrize(
    ("fusion", "settings", "expected"),
    [
        ("cross_attention", {}, [24, 48 + K, 96 + K, 96]),
        ("cross_attention", {"maps": False}, [24, 48, 96, 96]),
        ("none", {}, [24, 48, 96, 96]),
        ("cross_attention", {"strides": (16, 32)}, [48 + K, 96 + K]),
    ],
)
def test_the_decoder_reads_features_and_maps(fusion, settings, expected):
    model = build(fusion, **settings)
    assert decoder_inputs(model.backbone, K) == expected
    assert [lateral.in_channels for lateral in model.decoder.lateral] == expected


def test_stable_diffusion_1():
    """Counted without memory: that of the UNet is the published number."""
    from diffusers import UNet2DConditionModel

    from foodseg.models.backbones.diffusion_weights import unet_architecture

    with torch.device("meta"):
        unet = UNet2DConditionModel(**unet_architecture("sd1"))
        text = TextConfig(kind="table", table="names", centre=False)
        tree = {"kind": "diffusion", "backbone": "sd1", "fusion": "cross_attention", "text": text}
        model = build_segmenter(ModelConfig(**tree), 104, text=torch.zeros(104, 768)).eval()
        levels, maps = model._levels(torch.zeros(1, 3, 512, 384), None, None)
    assert sum(parameter.numel() for parameter in unet.parameters()) == 859_520_964
    assert decoder_inputs(model.backbone, 104) == [320, 744, 1384, 1280]
    assert [tuple(level.shape) for level in levels] == [
        (1, 320, 64, 48), (1, 640, 32, 24), (1, 1280, 16, 12), (1, 1280, 8, 6)
    ]  # fmt: skip
    assert [tuple(each.shape) for each in maps] == [(1, 105, 32, 24), (1, 105, 16, 12)]


# --- features ---


def by_hand(backbone: Diffusion, image: torch.Tensor, context: torch.Tensor) -> list[torch.Tensor]:
    """The UNet written out up to the end of its last decoder stage; returns the features, finest first."""
    unet = backbone.unet
    latents = backbone.vae.quant_conv(backbone.vae.encoder(image)).chunk(2, 1)[0]  # the mean of the Gaussian: its mode
    code = unet.time_embedding(unet.time_proj(torch.ones(len(image))))
    context = context.expand(len(image), -1, -1)
    skips = [unet.conv_in(latents)]
    for block in unet.down_blocks:
        for index, resnet in enumerate(block.resnets):
            x = resnet(skips[-1], code)
            skips.append(block.attentions[index](x, context).sample if hasattr(block, "attentions") else x)
        if block.downsamplers:
            skips.append(block.downsamplers[0](skips[-1]))
    x = unet.mid_block.resnets[0](skips[-1], code)
    x = unet.mid_block.resnets[1](unet.mid_block.attentions[0](x, context).sample, code)
    features = []
    for number, block in enumerate(unet.up_blocks):
        for index, resnet in enumerate(block.resnets):
            x = resnet(torch.cat([x, skips.pop()], 1), code)
            if hasattr(block, "attentions"):
                x = block.attentions[index](x, context).sample
            if index == 1 and number < 3:
                features.insert(0, x)
        if block.upsamplers:
            x = block.upsamplers[0](x)
    return [x, *features] if len(unet.up_blocks) == 4 else features


@pytest.mark.parametrize("strides", [(8, 16, 32, 64), (8, 16), (16, 32), (32, 64)])
def test_features_by_hand(strides):
    """Taken before the upsampler of each stage; what lies behind the finest one is gone."""
    model = build(strides=strides).eval()
    image = sample_image(128, 64)
    with torch.no_grad():
        levels, _ = model._levels(image, None, None)
        context, _ = model.fusion(model._embeddings(None), None)
        expected = by_hand(model.backbone, 2 * image - 1, context)
    by_stride = dict(zip([s for s in (8, 16, 32, 64) if s >= strides[0]], expected, strict=True))
    for stride, level in zip(strides, levels, strict=True):
        assert_close(level, by_stride[stride])
    assert model.stride == strides[0] and model.size_multiple == 64


@pytest.mark.parametrize(("scaled", "factor"), [(False, 1.0), (True, 0.18215)])
def test_latents(scaled, factor):
    model = build(scale_latents=scaled).eval()
    seen = []
    model.backbone.unet.register_forward_pre_hook(lambda module, args: seen.append(args))
    image = sample_image(64, 64)
    with torch.no_grad():
        model(image)
        expected = model.backbone.vae.encode(2 * image - 1).latent_dist.mean
    assert_close(seen[0][0], factor * expected)
    assert seen[0][0].shape == (2, 4, 8, 8) and not seen[0][0].requires_grad


def test_a_learned_timestep_starts_at_the_fixed_one():
    image = sample_image(64, 64)
    fixed, other, learned = (build(**settings).eval() for settings in ({}, {"timestep": 300}, {"learn_timestep": True}))
    code = learned.backbone.unet.time_proj.code
    assert code.shape == (24,) and code.requires_grad
    outputs = [model(image).logits for model in (fixed, other, learned)]
    assert torch.equal(outputs[0], outputs[2]) and not torch.allclose(outputs[0], outputs[1])
    outputs[2].square().sum().backward()
    assert code.grad.abs().sum() > 0


def test_image_only_has_a_learned_token_and_no_maps():
    model = build("none").eval()
    output = model(sample_image(64, 64))
    assert output.maps == [] and model.fusion is None and model.backbone.unconditioned_token.shape == (1, 64)
    output.logits.square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


# --- maps ---


def recomputed(
    model: SegmenterNetwork, image: torch.Tensor, ingredients: torch.Tensor | None
) -> dict[int, torch.Tensor]:
    """Maps (B, K + 1, H / stride, W / stride) by stride from what hooks find: the layers' queries and keys."""
    found: dict[str, torch.Tensor] = {}
    hooks = []
    for name, module in model.backbone.unet.named_modules():
        if name.endswith(("attn2.to_q", "attn2.to_k")):
            layer = name.replace(".transformer_blocks.0.attn2", "")
            hooks.append(module.register_forward_hook(lambda m, args, out, layer=layer: found.update({layer: out})))
    with torch.no_grad():
        model(image, ingredients=ingredients)
    for hook in hooks:
        hook.remove()
    allowed = torch.ones(len(image), K + 1, dtype=torch.bool)
    if ingredients is not None:
        allowed[:, 1:K] = ingredients[:, 1:]  # background and the null token stay
    maps = {}
    for stride, layers in LAYERS.items():
        each = []
        for layer in layers:
            heads = [found[f"{layer}.to_{kind}"].chunk(HEADS, 2) for kind in ("q", "k")]
            for query, key in zip(*heads, strict=True):
                scores = query @ key.transpose(1, 2) / query.shape[2] ** 0.5
                each.append(scores.masked_fill(~allowed[:, None], -torch.inf).softmax(2))
        grid = image.shape[2] // stride, image.shape[3] // stride
        maps[stride] = torch.stack(each).mean(0).reshape(len(image), *grid, K + 1).permute(0, 3, 1, 2)
    return maps


@pytest.mark.parametrize("ingredients", [None, SOME], ids=["all", "listed"])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (128, 192), (192, 64)])
def test_maps_are_the_softmax_of_queries_and_keys(conditioned, height, width, ingredients):
    image = sample_image(height, width)
    with torch.no_grad():
        maps = conditioned(image, ingredients=ingredients).maps
    for own, expected in zip(maps, recomputed(conditioned, image, ingredients).values(), strict=True):
        assert_close(own, expected)


def test_maps_of_512_x_384(conditioned):
    """VPD's square root of 32 x 24 grid cells would be 27.7."""
    image = sample_image(512, 384, count=1)
    with torch.no_grad():
        maps = conditioned(image).maps
    assert [tuple(each.shape[2:]) for each in maps] == [(32, 24), (16, 12)]
    for own, expected in zip(maps, recomputed(conditioned, image, None).values(), strict=True):
        assert_close(own, expected)


@pytest.mark.parametrize("maps", [True, False])
def test_a_masked_token_has_no_influence(maps):
    """Its map is 0, and nothing depends on its embedding; the other tokens have influence."""
    model = build(maps=maps).eval()
    image, changed = sample_image(64, 128), names()
    changed[2] += 100
    with torch.no_grad():
        conditioned = model(image, ingredients=SOME)
        again = model(image, text=changed, ingredients=SOME)
        assert torch.equal(conditioned.logits, again.logits)
        assert not torch.allclose(model(image).logits, model(image, text=changed).logits)
        changed[3] += 100  # among the first image's conditioning classes, not the second one's
        third = model(image, text=changed, ingredients=SOME).logits
    assert not torch.allclose(third[0], conditioned.logits[0]) and torch.equal(third[1], conditioned.logits[1])
    for each in conditioned.maps:
        assert (each[0, [2, 4]] == 0).all() and (each[1, 1:K] == 0).all()
        assert (each[0, [0, 1, 3, 5]] > 0).all() and (each[1, [0, 5]] > 0).all()
    assert bool(conditioned.maps) == maps


def test_an_empty_conditioning_leaves_background_and_the_null_token(conditioned):
    with torch.no_grad():
        output = conditioned(sample_image(64, 64), ingredients=torch.zeros(2, K, dtype=torch.bool))
    assert output.logits.isfinite().all()
    assert_close(output.maps[1][:, [0, K]].sum(1), torch.ones(2, 2, 2))


def test_attention_weights_are_computed_only_where_maps_are_wanted(conditioned):
    """Of 16 layers 10 lie at strides 16 and 32; the others, and self-attention, use the fused kernel."""
    explicit, fused, others = [], [], set()
    for name, module in conditioned.backbone.unet.named_modules():
        if name.endswith("attn2"):
            (fused if module.processor._stride is None else explicit).append(name)
        elif name.endswith("attn1"):
            others.add(type(module.processor))
    listed = [f"{layer}.transformer_blocks.0.attn2" for layers in LAYERS.values() for layer in layers]
    assert sorted(explicit) == sorted(listed) and len(fused) == 6 and others == {AttnProcessor2_0}


def test_both_kinds_of_attention_give_the_same_features(conditioned):
    silent = build(maps=False).eval()
    image = sample_image(64, 128)
    with torch.no_grad():
        shown, fused = (model._levels(image, None, SOME)[0] for model in (conditioned, silent))
    for one, other in zip(shown, fused, strict=True):
        assert_close(one, other)


def test_class_maps_are_the_finest(conditioned):
    image = sample_image(64, 64)
    with torch.no_grad():
        assert torch.equal(conditioned.class_maps(image, SOME), conditioned(image, ingredients=SOME).maps[0])


# --- training ---


def test_low_rank_changes_start_as_none():
    frozen, lora = build(unet="frozen").backbone.eval(), build(unet="lora", lora_rank=3).backbone.eval()
    image, tokens = 2 * sample_image(64, 64) - 1, torch.randn(K, D)
    both = [backbone(image, tokens) for backbone in (frozen, lora)]
    for one, other in zip(both[0][0] + both[0][1], both[1][0] + both[1][1], strict=True):
        assert torch.equal(one, other)
    trained = {name: p for name, p in lora.named_parameters() if p.requires_grad}
    assert len(trained) == 16 * 2 * 4 * 2 and all(".lora_" in name for name in trained)
    assert not any(p.requires_grad for p in frozen.parameters())
    with torch.no_grad():
        for name, parameter in trained.items():
            if ".lora_B." in name:
                parameter.normal_()
    assert not torch.allclose(lora(image, tokens)[0][0], both[1][0][0])


@pytest.mark.parametrize("unet", ["full", "frozen", "lora"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "computed again"])
def test_gradients_reach_what_is_trained(unet, checkpointing):
    model = build(unet=unet, gradient_checkpointing=checkpointing).train()
    if unet == "lora":
        with torch.no_grad():  # at 0 they would keep the gradient from their partners
            for name, parameter in model.named_parameters():
                if ".lora_B." in name:
                    parameter.normal_(std=0.1)
    model(sample_image(64, 128), ingredients=SOME).logits.square().sum().backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    assert [name for name, p in model.named_parameters() if (p.grad is None) == p.requires_grad] == []
    for name in (
        "fusion.adapter.gamma",
        "fusion.adapter.mlp.0.weight",
        "class_embeddings.background",
        "class_embeddings.null",
    ):
        assert grads[name].abs().sum() > 0, name
    blocks = [f"{half}_blocks.{index}." for half in ("down", "up") for index in range(4)] + ["mid_block."]
    for block in blocks:
        own = [grad for name, grad in grads.items() if name.startswith(f"backbone.unet.{block}") and grad is not None]
        if unet == "full" or (unet == "lora" and block not in ("down_blocks.3.", "up_blocks.0.")):  # without attention
            assert sum(grad.abs().sum() for grad in own) > 0, block
        else:
            assert own == [], block
    assert all(grad is None for name, grad in grads.items() if name.startswith("backbone.vae."))


def test_activations_that_are_computed_again_change_nothing():
    """Neither gradients nor what is kept for maps: the second pass through the layers shows nothing."""
    gradients = []
    for checkpointing in (False, True):
        model = build(gradient_checkpointing=checkpointing).train()
        output = model(sample_image(64, 128), ingredients=SOME)
        (output.logits.square().mean() + sum(maps.square().mean() for maps in output.maps)).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        seen = model.backbone._seen
        assert not seen._open and not seen._features and not seen._maps
    assert gradients[0].keys() == gradients[1].keys()
    for name, grad in gradients[0].items():
        assert_close(grad, gradients[1][name], name)


def test_a_deep_copy_has_its_own_hooks(conditioned):
    """Hooks and processors of a copy must not report to the original."""
    other = copy.deepcopy(conditioned)
    nn.init.zeros_(conditioned.backbone.unet.conv_in.weight)
    image = sample_image(64, 64)
    with torch.no_grad():
        one, two = conditioned(image), other(image)
        assert not torch.allclose(one.logits, two.logits)
    conditioned.load_state_dict(other.state_dict())
    with torch.no_grad():
        assert torch.equal(conditioned(image).logits, two.logits)
