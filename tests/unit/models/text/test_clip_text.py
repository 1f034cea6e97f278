"""The two kinds of embedding of a CLIP text tower, from tiny towers of open_clip's own classes with random weights."""

import json

import open_clip
import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch.nn.functional import normalize
from transformers import CLIPTextConfig, CLIPTextModel

from foodseg.classes import ClassTable
from foodseg.config.model import ModelConfig
from foodseg.config.text import TextConfig
from foodseg.errors import UserError
from foodseg.models.clip.towers import find_clip, load_clip_towers
from foodseg.models.text import clip_text
from foodseg.models.text.class_embeddings import class_text
from foodseg.models.text.clip_text import averaged, open_clip_embeddings
from foodseg.models.text.synonyms import sentences_of
from tests.support.compare import assert_close

WIDTH, PROJECTED = 16, 12  # in a real ViT-L/14 both are 768, so that the wrong embedding would not show
TINY = {
    "embed_dim": PROJECTED,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": WIDTH, "heads": 2, "layers": 2},
}
COCA = {
    "embed_dim": PROJECTED,
    "vision_cfg": {**TINY["vision_cfg"], "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
    "text_cfg": {**TINY["text_cfg"], "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {**TINY["text_cfg"], "attn_pooler_heads": 2},
    "custom_text": True,
}
NAMES = [["rice"], ["date fruit"], ["cheese", "butter"]]


@pytest.fixture(scope="module", autouse=True)
def tiny(tmp_path_factory):
    """Makes tiny-clip known to open_clip, and its weights; `tiny-custom` and `tiny-coca` hold the tower as a part."""
    folder = tmp_path_factory.mktemp("clip")
    for name, known in (("tiny-clip", TINY), ("tiny-custom", {**TINY, "custom_text": True}), ("tiny-coca", COCA)):
        (folder / f"{name}.json").write_text(json.dumps(known))
        open_clip.add_model_config(folder / f"{name}.json")
        torch.manual_seed(0)
        model = open_clip.create_model(name)
        safetensors.torch.save_file(model.state_dict(), folder / f"{name}.safetensors")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "foodseg" / "text"


def config(folder, name="tiny-clip", prompts=("a photo of {}.",), quick_gelu=None) -> TextConfig:
    tag = str(folder / f"{name}.safetensors")
    return TextConfig(kind="open_clip", model=name, tag=tag, quick_gelu=quick_gelu, prompts=prompts)


def by_hand(model, sentence: str, kind: str) -> torch.Tensor:
    """CLIP's text side step by step: tokens, positions, causal transformer, final LayerNorm, the state at the end."""
    tokens = open_clip.get_tokenizer("tiny-clip")([sentence])
    end = int((tokens[0] == 49407).nonzero()[0])  # <end_of_text>
    states = model.token_embedding(tokens) + model.positional_embedding
    causal = torch.full((20, 20), -torch.inf).triu(1)
    for layer in list(model.transformer.resblocks)[: 1 if kind == "penultimate" else 2]:
        states = layer(states, attn_mask=causal)
    state = model.ln_final(states)[0, end]
    return normalize(state @ model.text_projection, dim=0) if kind == "projected" else state


@pytest.mark.parametrize("kind", ["projected", "last", "penultimate"])
def test_each_kind_of_embedding_by_hand(tiny, kind):
    found = open_clip_embeddings(config(tiny), NAMES, kind)
    model = open_clip.create_model("tiny-clip", pretrained=str(tiny / "tiny-clip.safetensors")).eval()
    with torch.no_grad():
        words = [[by_hand(model, f"a photo of {word}.", kind) for word in own] for own in NAMES]
    mean = torch.stack([torch.stack(own).mean(0) for own in words])
    assert_close(found, normalize(mean, dim=1) if kind == "projected" else mean)
    assert found.shape == (3, PROJECTED if kind == "projected" else WIDTH)


def test_prompts_are_averaged(tiny):
    one, two = (config(tiny, prompts=(prompt,)) for prompt in ("{}", "some {} here"))
    both = config(tiny, prompts=("{}", "some {} here"))
    single = [open_clip_embeddings(c, [["rice"]], "last") for c in (one, two)]
    assert_close(open_clip_embeddings(both, [["rice"]], "last"), (single[0] + single[1]) / 2)


def transformers_tower(state: dict[str, torch.Tensor], activation: str) -> CLIPTextModel:
    """The text tower of an open_clip `state` with its weights in transformers' own model."""
    renamed = {"token_embedding.weight": "embeddings.token_embedding.weight"}
    renamed["positional_embedding"] = "embeddings.position_embedding.weight"
    parts = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj"}
    parts |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    copied = {new: state[old] for old, new in renamed.items()}
    for kind in ("weight", "bias"):
        copied[f"final_layer_norm.{kind}"] = state[f"ln_final.{kind}"]
        for layer in range(2):
            old, new = f"transformer.resblocks.{layer}", f"encoder.layers.{layer}"
            copied |= {f"{new}.{theirs}.{kind}": state[f"{old}.{ours}.{kind}"] for ours, theirs in parts.items()}
            for letter, rows in zip("qkv", state[f"{old}.attn.in_proj_{kind}"].chunk(3), strict=True):
                copied[f"{new}.self_attn.{letter}_proj.{kind}"] = rows
    model = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408, hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=20, hidden_act=activation, eos_token_id=49407,
        )
    )  # fmt: skip
    prefix = "text_model." if any(name.startswith("text_model.") for name in model.state_dict()) else ""
    model.load_state_dict({f"{prefix}{name}": tensor for name, tensor in copied.items()})
    return model.eval()


@pytest.mark.parametrize(("quick", "activation"), [(False, "gelu"), (True, "quick_gelu")])
def test_the_unprojected_embedding_is_the_pooler_output_of_transformers(tiny, tmp_path, quick, activation):
    """VPD takes that of transformers' CLIPTextModel: on identical weights both are the same numbers."""
    state = safetensors.torch.load_file(tiny / "tiny-clip.safetensors")
    # a fresh tower adds little to its tokens: louder, so that the GELU shows
    state |= {name: tensor * 20 for name, tensor in state.items() if name.endswith("mlp.c_proj.weight")}
    safetensors.torch.save_file(state, tmp_path / "tiny-clip.safetensors")
    own = config(tmp_path, prompts=("{}",), quick_gelu=quick)
    found = open_clip_embeddings(own, [["rice"], ["a plate of fried tofu"]], "last")
    tower, tokenizer = transformers_tower(state, activation), open_clip.get_tokenizer("tiny-clip")
    with torch.no_grad():
        expected = tower(tokenizer(["rice", "a plate of fried tofu"])).pooler_output
    assert_close(found, expected)
    # Stable Diffusion 2 reads the layer before the last one, and sets its LayerNorm behind that
    found = open_clip_embeddings(own, [["rice"], ["a plate of fried tofu"]], "penultimate")
    tokens = tokenizer(["rice", "a plate of fried tofu"])
    inner = getattr(tower, "text_model", tower)
    with torch.no_grad():
        states = inner.final_layer_norm(tower(tokens, output_hidden_states=True).hidden_states[-2])
    ends = (tokens == 49407).int().argmax(1)
    assert_close(found, states[torch.arange(2), ends])
    other = open_clip_embeddings(own.model_copy(update={"quick_gelu": not quick}), [["rice"]], "last")
    assert (other - expected[:1]).abs().max() > 1e-3  # with the wrong GELU they differ, and the cache keeps them apart


def test_the_tower_of_coca_is_not_normalised(tiny):
    """Its encode_text normalises embeddings by default; what attention gets are the raw states."""
    found = open_clip_embeddings(config(tiny, "tiny-coca", prompts=("{}",)), [["rice"]], "last")
    model = open_clip.create_model("tiny-coca", pretrained=str(tiny / "tiny-coca.safetensors")).eval()
    states = []
    model.text.ln_final.register_forward_hook(lambda module, inputs, state: states.append(state))
    with torch.no_grad():
        model.encode_text(open_clip.get_tokenizer("tiny-coca")(["rice"]))
    assert_close(found, states[0])
    assert found.shape == (1, WIDTH) and found.norm() > 2  # about sqrt(16) after the final LayerNorm


@pytest.mark.parametrize("kind", ["projected", "last", "penultimate"])
def test_a_tower_that_is_a_part(tiny, kind):
    found = open_clip_embeddings(config(tiny, "tiny-custom"), NAMES, kind)
    assert found.shape == (3, PROJECTED if kind == "projected" else WIDTH) and found.isfinite().all()


def test_the_model_stays_whole_and_out_of_the_graph(tiny):
    model = open_clip.create_model("tiny-clip", pretrained=str(tiny / "tiny-clip.safetensors"))
    tokens = open_clip.get_tokenizer("tiny-clip")(["rice"])
    last, earlier = averaged(model, tokens, "last"), averaged(model, tokens, "penultimate")
    assert not last.requires_grad and not torch.allclose(last, earlier)
    assert len(model.transformer.resblocks) == 2 and torch.equal(averaged(model, tokens, "last"), last)
    assert averaged(model, tokens, "projected").shape == (PROJECTED,)


def test_a_folder_has_weights_of_its_own(tiny, tmp_path):
    state = safetensors.torch.load_file(tiny / "tiny-clip.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY}))
    safetensors.torch.save_file(state, tmp_path / "open_clip_model.safetensors")
    folder = TextConfig(kind="open_clip", model=str(tmp_path), prompts=("{}",))
    expected = open_clip_embeddings(config(tiny, prompts=("{}",)), NAMES, "last")
    assert_close(open_clip_embeddings(folder, NAMES, "last"), expected)
    safetensors.torch.save_file({n: t * 2 for n, t in state.items()}, tmp_path / "open_clip_model.safetensors")
    assert not torch.equal(open_clip_embeddings(folder, NAMES, "last"), expected)


@pytest.mark.parametrize(("backbone", "kind"), [("sd1", "last"), ("sd2", "penultimate"), ("tiny", "last")])
def test_stable_diffusion_gets_the_embedding_that_it_was_trained_with(tiny, backbone, kind):
    text = config(tiny).model_copy(update={"centre": False})
    model = ModelConfig(kind="diffusion", backbone=backbone, fusion="cross_attention", text=text)
    table = class_text(model, ClassTable(("background", "rice", "date")))
    expected = open_clip_embeddings(text, [["rice"], sentences_of("date")], kind)
    assert torch.equal(table.embeddings[1:], expected) and ("last layer" in table.made_by) == (backbone == "sd2")


@pytest.mark.parametrize(
    ("fusion", "head", "width"),
    [("score_map", False, PROJECTED), ("cross_attention", False, WIDTH), ("film", True, WIDTH)],
)
def test_cosines_take_the_projected_vector_the_others_do_not(tiny, fusion, head, width):
    model = ModelConfig(fusion=fusion, ingredient_head=head, text=config(tiny))
    table = class_text(model, ClassTable(("background", "rice", "date")))
    assert table.embeddings.shape == (3, width) and table.names == ("background", "rice", "date")
    assert table.made_by.startswith("open_clip tiny-clip") and ("before" in table.made_by) == (width == WIDTH)
    assert (table.embeddings[0] == 0).all()


def test_the_cache_is_named_by_content(tiny, cache, monkeypatch):
    first = open_clip_embeddings(config(tiny), NAMES, "projected")
    assert len(list(cache.iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(clip_text, "load_clip_towers", lambda *args: pytest.fail("it is in the cache"))
        assert torch.equal(open_clip_embeddings(config(tiny), NAMES, "projected"), first)
    open_clip_embeddings(config(tiny), NAMES, "last")
    open_clip_embeddings(config(tiny), NAMES[:2], "projected")
    state = safetensors.torch.load_file(tiny / "tiny-clip.safetensors")
    safetensors.torch.save_file({name: tensor * 2 for name, tensor in state.items()}, tiny / "tiny-clip.safetensors")
    assert not torch.equal(open_clip_embeddings(config(tiny), NAMES, "projected"), first)
    assert len(list(cache.iterdir())) == 4
    safetensors.torch.save_file(state, tiny / "tiny-clip.safetensors")


def test_a_cache_that_cannot_be_written_is_said(tiny, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert open_clip_embeddings(config(tiny), NAMES, "projected").shape == (3, PROJECTED)
    assert "could not be cached" in caplog.text


def test_a_cache_that_is_full_is_said(tiny, cache, monkeypatch, caplog):
    def full(*args: object) -> None:
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    assert open_clip_embeddings(config(tiny), NAMES, "last").shape == (3, WIDTH)
    assert "could not be cached: I/O error: No space left" in caplog.text


def test_a_damaged_cache_is_made_anew(tiny, cache):
    first = open_clip_embeddings(config(tiny), NAMES, "penultimate")
    newest = max(cache.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    whole = newest.read_bytes()
    newest.write_bytes(whole[:50])
    assert torch.equal(open_clip_embeddings(config(tiny), NAMES, "penultimate"), first)
    assert newest.read_bytes() == whole


def test_openai_weights_get_their_own_gelu():
    """A published tag says which GELU its weights were trained with; a model's name need not."""
    assert find_clip("ViT-L-14", "openai", None, "model.text").quick_gelu
    assert not find_clip("ViT-L-14", "laion2b_s32b_b82k", None, "model.text").quick_gelu
    assert find_clip("ViT-L-14", "laion2b_s32b_b82k", True, "model.text").quick_gelu


@pytest.mark.parametrize(
    ("model", "given", "quick"),
    [
        ("ViT-L-14", True, True),
        ("ViT-L-14", False, False),
        ("ViT-L-14-quickgelu", None, True),  # its name says it, and so do all its tags
        ("tiny-clip", None, False),
        ("tiny-clip", True, True),
    ],
)
def test_the_gelu_of_a_file(tiny, model, given, quick):
    assert find_clip(model, str(tiny / "tiny-clip.safetensors"), given, "model.text").quick_gelu is quick


@pytest.mark.parametrize("model", ["ViT-L-14", "ViT-B-16", "RN50", "ViT-H-14"])
def test_a_file_whose_gelu_is_open_is_refused(tiny, model):
    with pytest.raises(UserError, match=f"model.text.quick_gelu: a file of weights .* {model} is known with both"):
        open_clip_embeddings(config(tiny).model_copy(update={"model": model}), NAMES, "last")


def test_quick_gelu_can_be_switched_off_and_on(tiny):
    """The name of a model may say QuickGELU: what was given counts all the same."""
    (tiny / "tiny-quick.json").write_text(json.dumps({**TINY, "quick_gelu": True}))
    open_clip.add_model_config(tiny / "tiny-quick.json")
    for model in ("tiny-clip", "tiny-quick"):
        for quick in (False, True):
            found = find_clip(model, str(tiny / "tiny-clip.safetensors"), quick, "model.text")
            loaded = load_clip_towers(found, torch.device("cpu"))
            gelu = type(loaded.model.transformer.resblocks[0].mlp.gelu).__name__
            assert gelu == ("QuickGELU" if quick else "GELU")


@pytest.mark.parametrize(
    ("model", "tag", "words"),
    [
        ("tiny-clp", "openai", "open_clip has no model 'tiny-clp'"),
        ("ViT-L-14", "opnai", r"opnai is neither a file of weights nor a tag of ViT-L-14 \(openai, laion"),
        ("tiny-clip", "WRONG", "open_clip cannot load tiny-clip with"),
    ],
)
def test_refusals(model, tag, words, tmp_path):
    safetensors.torch.save_file({"x": torch.zeros(1)}, tmp_path / "wrong.safetensors")
    tag = str(tmp_path / "wrong.safetensors") if tag == "WRONG" else tag
    with pytest.raises(UserError, match=words) as error:
        open_clip_embeddings(TextConfig(kind="open_clip", model=model, tag=tag), NAMES, "projected")
    assert "\n" not in str(error.value)


def test_without_the_package(monkeypatch, tiny):
    monkeypatch.setitem(__import__("sys").modules, "open_clip", None)
    with pytest.raises(UserError, match="pip install open_clip_torch"):
        open_clip_embeddings(config(tiny), NAMES, "projected")
