"""CLIP: planted towers that name colours, a tiny random model of open_clip's against its own scores, refusals."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch
from PIL import Image

from foodseg.errors import UserError
from foodseg.models.clip.clip import PROMPTS, ClipModel, load_clip
from tests.support.compare import close
from tests.support.tiny_checkpoints import TINY_CLIP, write_clip

CPU = torch.device("cpu")
RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128)


# --- planted towers: an image's embedding is its mean colour without the grey, a name's embedding is its colour ---


VECTORS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0)}


class Colours(torch.nn.Module):
    """`asked` holds the sentences of every call of the text tower."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = SimpleNamespace(image_mean=(128 / 255,) * 3)
        self.logit_scale = torch.nn.Parameter(torch.tensor(10.0).log())
        self.asked: list[list[str]] = []

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        return (images - 128).clamp_min(0).mean((2, 3))

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        return (
            tokens * torch.arange(1, len(tokens) + 1)[:, None]
        )  # its length does not matter: CLIP compares directions

    def tokenizer(self, sentences: list[str]) -> torch.Tensor:
        self.asked.append(sentences)
        words = [word for sentence in sentences for word in VECTORS if word in sentence]
        return torch.tensor([VECTORS[word] for word in words])


def planted(cache_names: int = 10) -> tuple[ClipModel, Colours]:
    towers = Colours()

    def pixels(image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.array(image.resize((8, 8), Image.Resampling.BOX))).permute(2, 0, 1).float()

    return ClipModel(towers, pixels, towers.tokenizer, CPU, cache_names), towers


def test_scores_are_the_softmax_of_scaled_cosines():
    clip, _ = planted()
    image = np.full((6, 9, 3), GREEN, np.uint8)
    # cosines 0, 1, 0; exp(10) = 22026.47
    assert clip.scores(image, ["red", "green", "blue"]) == close([1 / 22028.47, 22026.47 / 22028.47, 1 / 22028.47])
    assert clip.scores(image, ["blue"]) == [1.0]
    assert sum(clip.scores(image, ["red", "green", "red"])) == close(1)


def test_a_region_is_seen_without_what_surrounds_it():
    clip, _ = planted()
    image = np.full((40, 60, 3), BLUE, np.uint8)
    image[10:20, 30:50], image[30:40, :7] = RED, GREEN
    masks = [(image == colour).all(2) for colour in (RED, GREEN, BLUE)]
    scores = np.array(clip.mask_scores(image, masks, ["blue", "green", "red"]))
    assert scores.shape == (3, 3) and scores.argmax(1).tolist() == [2, 1, 0]
    assert (scores.max(1) > 0.999).all() and scores.sum(1) == close(1)


def test_a_region_fills_a_square_of_the_mean_colour():
    clip, _ = planted()
    image = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)
    mask = np.zeros((20, 30), bool)
    mask[5:9, 0:10] = True
    mask[6, 3] = False
    square = np.array(clip._region(image, mask))
    assert square.shape == (12, 12, 3)  # a tenth of the longer side is added on each side
    expected = np.full((12, 12, 3), 128, np.uint8)
    expected[4:8, 1:11] = image[5:9, 0:10]
    expected[5, 4] = 128
    assert (square == expected).all()


def test_many_regions_go_in_batches_and_keep_their_order():
    clip, towers = planted()
    seen = []
    encode = towers.encode_image
    towers.encode_image = lambda images: seen.append(len(images)) or encode(images)
    image = np.zeros((10, 40, 3), np.uint8)
    image[:, ::2], image[:, 1::2] = RED, BLUE
    masks = [np.arange(400).reshape(10, 40) % 40 == column for column in range(40)]
    best = np.argmax(clip.mask_scores(image, masks, ["red", "blue"]), 1)
    assert seen == [16, 16, 8] and best.tolist() == 20 * [0, 1]
    assert clip.mask_scores(image, [], ["red"]) == []


def test_names_are_embedded_once_and_the_oldest_are_forgotten():
    clip, towers = planted(cache_names=2)
    image = np.full((6, 9, 3), GREEN, np.uint8)
    clip.scores(image, ["red", "green", "red"])
    assert towers.asked == [[prompt.format(name) for name in ("red", "green") for prompt in PROMPTS]]
    clip.scores(image, ["green", "red"])
    assert len(towers.asked) == 1
    clip.scores(image, ["red", "blue"])  # green is the oldest
    clip.scores(image, ["red"])
    assert len(towers.asked) == 2
    assert np.argmax(clip.scores(image, ["red", "blue", "green"])) == 2  # more than the cache holds
    assert len(towers.asked) == 3 and len(clip._embeddings) == 2


def test_refused_calls():
    clip, _ = planted()
    image = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(UserError, match="give at least one"):
        clip.scores(image, [])
    with pytest.raises(UserError, match="a mask without a pixel"):
        clip.mask_scores(image, [np.zeros((4, 4), bool)], ["red"])


# --- open_clip ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model as open_clip publishes it: configuration and weights in one folder."""
    return Path(write_clip(tmp_path_factory.mktemp("tiny_clip")))


@pytest.fixture
def named(folder, monkeypatch):
    """The same architecture under a name that open_clip lists, and the file of its weights."""
    configs = dict(open_clip.factory._MODEL_CONFIGS)
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", {**configs, "tiny-clip": TINY_CLIP})
    return "tiny-clip", str(folder / "open_clip_model.safetensors")


def test_a_folder_scores_as_open_clip_does(folder):
    clip = load_clip(str(folder), None, CPU)
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    names = ["a fried egg", "tofu", "rice with beans"]
    with torch.no_grad():
        text = []
        for name in names:
            each = model.encode_text(tokenizer([prompt.format(name) for prompt in PROMPTS]), normalize=True)
            text.append(each.mean(0) / each.mean(0).norm())
        seen = model.encode_image(preprocess(Image.fromarray(image))[None], normalize=True)
        expected = (model.logit_scale.exp() * seen @ torch.stack(text).T).softmax(1)[0]
    assert clip.scores(image, names) == close(expected.tolist())
    assert not clip._model.training and clip._fill == (102, 128, 153)
    # the middle square is all that CLIP sees of a whole image
    assert clip.mask_scores(image[:, 10:60], [np.ones((50, 50), bool)], names) != clip.scores(image, names)


def test_a_name_with_a_file_of_weights(named, folder):
    name, weights = named
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    clip = load_clip(name, f"file://{weights}", CPU)
    own = clip._model.visual.proj
    assert torch.equal(own, load_clip(str(folder), None, CPU)._model.visual.proj)
    assert sum(clip.scores(image, ["tofu", "rice"])) == close(1)


def test_a_file_whose_gelu_is_open_is_refused(folder):
    """Without a word open_clip would take one of the two, and scores would be a little wrong for ever."""
    with pytest.raises(UserError, match=r"clip.quick_gelu: a file of weights .* ViT-B-16 is known with both"):
        load_clip("ViT-B-16", str(folder / "open_clip_model.safetensors"), CPU)


@pytest.mark.parametrize(
    ("model", "weights", "expected"),
    [
        ("ViT-X-99", None, "open_clip has no model 'ViT-X-99', and it is not a folder with open_clip_config.json"),
        ("ViT-B-32", None, "ViT-B-32 needs weights: a file or URI, or one of the published openai, "),
        ("ViT-B-32", "nowhere.pt", r"nowhere.pt is neither a file of weights nor a tag of ViT-B-32 \(openai, "),
        ("tiny-clip", "WRONG.safetensors", r"open_clip cannot load tiny-clip with .*WRONG.safetensors \(RuntimeError"),
        ("tiny-clip", "TEXT", r"open_clip cannot load tiny-clip with .*TEXT \(UnpicklingError"),
        ("FOLDER", "nowhere.pt", "holds its own weights: leave out nowhere.pt"),
        ("EMPTY", None, r"open_clip cannot load .*EMPTY \(RuntimeError"),
    ],
)
def test_refusals(model, weights, expected, named, folder, tmp_path):
    safetensors.torch.save_file({"x": torch.zeros(1)}, tmp_path / "WRONG.safetensors")
    (tmp_path / "TEXT").write_text("no weights")
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "EMPTY" / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY_CLIP}))
    locations = {"FOLDER": str(folder), "EMPTY": str(tmp_path / "EMPTY")}
    if weights in ("WRONG.safetensors", "TEXT"):
        weights = str(tmp_path / weights)
    with pytest.raises(UserError, match=expected) as error:
        load_clip(locations.get(model, model), weights, CPU)
    assert "\n" not in str(error.value)


def test_open_clip_is_only_needed_where_it_is_used(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(UserError, match="pip install open_clip_torch"):
        load_clip("ViT-B-32", "openai", CPU)
