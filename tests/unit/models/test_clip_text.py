"""The two vectors of a CLIP text tower, from tiny towers of open_clip's own classes with random weights."""

import json

import open_clip
import pytest
import safetensors.torch
import torch
from torch.nn.functional import normalize

from foodseg.classes import ClassTable
from foodseg.config.model import ModelConfig
from foodseg.config.text import TextConfig
from foodseg.errors import UserError
from foodseg.models import clip_text
from foodseg.models.clip_text import averaged, open_clip_vectors
from foodseg.models.text import class_text

WIDTH, PROJECTED = 16, 12  # in a real ViT-L/14 both are 768, so that the wrong vector would not show
TINY = {
    "embed_dim": PROJECTED,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": WIDTH, "heads": 2, "layers": 2},
}
NAMES = [["rice"], ["date fruit"], ["cheese", "butter"]]


@pytest.fixture(scope="module", autouse=True)
def tiny(tmp_path_factory):
    """Makes tiny-clip known to open_clip, and its weights; `tiny-custom` holds the tower as a part."""
    folder = tmp_path_factory.mktemp("clip")
    for name, extra in (("tiny-clip", {}), ("tiny-custom", {"custom_text": True})):
        (folder / f"{name}.json").write_text(json.dumps({**TINY, **extra}))
        open_clip.add_model_config(folder / f"{name}.json")
        torch.manual_seed(0)
        model = open_clip.create_model(name)
        safetensors.torch.save_file(model.state_dict(), folder / f"{name}.safetensors")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "foodseg" / "text"


def config(folder, name="tiny-clip", prompts=("a photo of {}.",)) -> TextConfig:
    return TextConfig(kind="open_clip", model=name, tag=str(folder / f"{name}.safetensors"), prompts=prompts)


def by_hand(model, sentence: str, projected: bool) -> torch.Tensor:
    """CLIP's text side step by step: tokens, positions, causal transformer, final LayerNorm, the state at the end."""
    tokens = open_clip.get_tokenizer("tiny-clip")([sentence])
    end = int((tokens[0] == 49407).nonzero()[0])  # <end_of_text>
    states = model.token_embedding(tokens) + model.positional_embedding
    causal = torch.full((20, 20), -torch.inf).triu(1)
    state = model.ln_final(model.transformer(states, attn_mask=causal))[0, end]
    return normalize(state @ model.text_projection, dim=0) if projected else state


@pytest.mark.parametrize("projected", [True, False])
def test_both_vectors_by_hand(tiny, projected):
    found = open_clip_vectors(config(tiny), NAMES, projected=projected)
    model = open_clip.create_model("tiny-clip", pretrained=str(tiny / "tiny-clip.safetensors")).eval()
    with torch.no_grad():
        words = [[by_hand(model, f"a photo of {word}.", projected) for word in own] for own in NAMES]
    mean = torch.stack([torch.stack(own).mean(0) for own in words])
    torch.testing.assert_close(found, normalize(mean, dim=1) if projected else mean, atol=1e-5, rtol=1e-5)
    assert found.shape == (3, PROJECTED if projected else WIDTH)


def test_prompts_are_averaged(tiny):
    one, two = (config(tiny, prompts=(prompt,)) for prompt in ("{}", "some {} here"))
    both = config(tiny, prompts=("{}", "some {} here"))
    single = [open_clip_vectors(c, [["rice"]], projected=False) for c in (one, two)]
    torch.testing.assert_close(open_clip_vectors(both, [["rice"]], projected=False), (single[0] + single[1]) / 2)


@pytest.mark.parametrize("projected", [True, False])
def test_a_tower_that_is_a_part(tiny, projected):
    found = open_clip_vectors(config(tiny, "tiny-custom"), NAMES, projected=projected)
    assert found.shape == (3, PROJECTED if projected else WIDTH) and found.isfinite().all()


def test_the_model_stays_whole_and_out_of_the_graph(tiny):
    model = open_clip.create_model("tiny-clip", pretrained=str(tiny / "tiny-clip.safetensors"))
    tokens = open_clip.get_tokenizer("tiny-clip")(["rice"])
    assert not averaged(model, tokens, projected=False).requires_grad
    assert averaged(model, tokens, projected=True).shape == (PROJECTED,)


@pytest.mark.parametrize(
    ("fusion", "head", "width"),
    [("score_map", False, PROJECTED), ("cross_attention", False, WIDTH), ("film", True, WIDTH)],
)
def test_cosines_take_the_projected_vector_the_others_do_not(tiny, fusion, head, width):
    model = ModelConfig(fusion=fusion, ingredient_head=head, text=config(tiny))
    table = class_text(model, ClassTable(("background", "rice", "date")))
    assert table.vectors.shape == (3, width) and table.names == ("background", "rice", "date")
    assert table.made_by.startswith("open_clip tiny-clip") and ("before" in table.made_by) == (width == WIDTH)
    assert (table.vectors[0] == 0).all()


def test_the_cache_is_named_by_content(tiny, cache, monkeypatch):
    first = open_clip_vectors(config(tiny), NAMES, projected=True)
    assert len(list(cache.iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(clip_text, "_load", lambda *args: pytest.fail("it is in the cache"))
        assert torch.equal(open_clip_vectors(config(tiny), NAMES, projected=True), first)
    open_clip_vectors(config(tiny), NAMES, projected=False)
    open_clip_vectors(config(tiny), NAMES[:2], projected=True)
    state = safetensors.torch.load_file(tiny / "tiny-clip.safetensors")
    safetensors.torch.save_file({name: tensor * 2 for name, tensor in state.items()}, tiny / "tiny-clip.safetensors")
    assert not torch.equal(open_clip_vectors(config(tiny), NAMES, projected=True), first)
    assert len(list(cache.iterdir())) == 4
    safetensors.torch.save_file(state, tiny / "tiny-clip.safetensors")


def test_a_cache_that_cannot_be_written_is_said(tiny, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert open_clip_vectors(config(tiny), NAMES, projected=True).shape == (3, PROJECTED)
    assert "are not kept for the next time" in caplog.text


def test_openai_weights_get_their_own_gelu():
    """A published tag says which GELU its weights were trained with; a model's name need not."""
    openai = TextConfig(kind="open_clip", model="ViT-L-14", tag="openai")
    assert clip_text._weights(open_clip, openai).quick_gelu
    laion = TextConfig(kind="open_clip", model="ViT-L-14", tag="laion2b_s32b_b82k")
    assert not clip_text._weights(open_clip, laion).quick_gelu


@pytest.mark.parametrize(
    ("model", "tag", "words"),
    [
        ("tiny-clp", "openai", "open_clip has no model 'tiny-clp'"),
        ("ViT-L-14", "opnai", r"'opnai' is no file, and no tag of ViT-L-14 \(openai, laion"),
        ("tiny-clip", "WRONG", "open_clip cannot load tiny-clip with"),
    ],
)
def test_refusals(model, tag, words, tmp_path):
    safetensors.torch.save_file({"x": torch.zeros(1)}, tmp_path / "wrong.safetensors")
    tag = str(tmp_path / "wrong.safetensors") if tag == "WRONG" else tag
    with pytest.raises(UserError, match=words) as error:
        open_clip_vectors(TextConfig(kind="open_clip", model=model, tag=tag), NAMES, projected=True)
    assert "\n" not in str(error.value)


def test_without_the_package(monkeypatch, tiny):
    monkeypatch.setitem(__import__("sys").modules, "open_clip", None)
    with pytest.raises(UserError, match="pip install open_clip_torch, or use kind table"):
        open_clip_vectors(config(tiny), NAMES, projected=True)
