"""A segmenter for any names: planted colours are found, synonyms, background, many names at once, refusals."""

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from foodseg.config.evaluation import EvalConfig
from foodseg.config.zero_shot import DenseConfig
from foodseg.models.clip.clip import ClipModel
from foodseg.models.clip.dense_segmenter import DenseSegmenter
from foodseg.models.clip.names import parse_names
from foodseg.predict.predictor import Predictor
from tests.support.compare import assert_close
from tests.unit.models.clip.test_patch_tower import TINY

CPU = torch.device("cpu")
COLOURS = {"tomato": (200, 30, 20), "spinach": (20, 150, 40), "blueberry": (40, 40, 170), "rice": (240, 235, 225)}
PATCH = 8


class Planted(torch.nn.Module):
    """An open_clip model whose image tower sees the mean colour of a patch, and whose text tower knows four colours.

    What a patch of one colour is embedded as is what the name of the colour is embedded as.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        vision = {**TINY["vision_cfg"], "layers": 1}
        self.visual = open_clip.CLIP(24, vision, TINY["text_cfg"]).visual.eval()
        self.visual.image_mean, self.visual.image_std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
        self.logit_scale = torch.nn.Parameter(torch.tensor(10.0).log())
        with torch.no_grad():
            self.visual.positional_embedding.zero_()
            self.visual.conv1.weight.copy_(torch.randn(32, 3, 1, 1).expand(-1, -1, PATCH, PATCH) / PATCH**2)
            attention = self.visual.transformer.resblocks[0].attn
            attention.in_proj_weight[: 2 * 32] *= 12  # patches attend to patches of their colour alone
        self.known: dict[str, torch.Tensor] = {}

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens

    def tokenizer(self, sentences: list[str]) -> torch.Tensor:
        return torch.stack([
            next((vector for name, vector in self.known.items() if name in sentence), torch.zeros(24))
            for sentence in sentences
        ])  # fmt: skip


def planted(names: dict[str, str] | None = None, **settings: object) -> tuple[ClipModel, DenseConfig]:
    """`names`: what each colour is called; None = as in COLOURS."""
    config = DenseConfig(**{"background": (), **settings})  # type: ignore[arg-type]
    model = Planted()
    clip = ClipModel(model, lambda image: torch.zeros(3, 32, 32), model.tokenizer, CPU, 100)
    with torch.inference_mode():
        for name, colour in COLOURS.items():
            model.known[name] = torch.zeros(24)
            alone = DenseSegmenter(clip, parse_names([name]), config, like if config.attention == "proxy" else None)
            flat = (torch.tensor(colour) / 255).view(1, 3, 1, 1).expand(1, 3, 32, 32)
            model.known[name] = alone(flat).features[0, :, 0, 0]
    clip._embeddings.clear()
    model.known = {(names or {}).get(name, name): vector for name, vector in model.known.items()}
    return clip, config


def like(pixels: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Features by which patches are alike that have one colour."""
    return torch.nn.functional.adaptive_avg_pool2d(pixels, grid) - 0.5


def quadrants(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An image of four quadrants, and its ids 1 to 4 in the order of COLOURS."""
    ids = np.ones((height, width), np.uint8)
    ids[:, width // 2 :] += 1
    ids[height // 2 :] += 2
    return np.array([(0, 0, 0), *COLOURS.values()], np.uint8)[ids], ids


def ious(found: np.ndarray, expected: np.ndarray) -> list[float]:
    return [((found == i) & (expected == i)).sum() / ((found == i) | (expected == i)).sum() for i in range(1, 5)]


@pytest.mark.parametrize(
    ("height", "width", "window"), [(64, 64, None), (48, 112, None), (96, 64, 32)], ids=["square", "wide", "windows"]
)
@pytest.mark.parametrize("attention", ["maskclip", "sclip", "clearclip", "naclip", "proxy"])
def test_planted_colours_are_found(attention: str, height: int, width: int, window: int | None) -> None:
    external = "vit_small_patch14_dinov2" if attention == "proxy" else None
    image, ids = quadrants(height, width)
    config = EvalConfig(longest_side=None, window=window)
    found = {}
    for swapped in (None, {"tomato": "spinach", "spinach": "tomato"}):
        clip, dense = planted(swapped, attention=attention, external=external)
        model = DenseSegmenter(clip, parse_names(list(COLOURS)), dense, like if external else None)
        found[swapped is None] = Predictor(model, config, CPU).logits([image], [(height, width)])[0].ids()
    assert min(ious(found[True], ids)) > 0.9
    exchanged = np.array([0, 2, 1, 3, 4])[found[False]]
    np.testing.assert_array_equal(exchanged, found[True])


@torch.inference_mode()
def test_the_best_of_several_words_counts() -> None:
    clip, dense = planted()
    image = torch.from_numpy(quadrants(32, 32)[0]).permute(2, 0, 1)[None] / 255
    apart = DenseSegmenter(clip, parse_names(["tomato", "rice"]), dense)(image).logits
    together = DenseSegmenter(clip, parse_names("tomato|rice, spinach"), dense)(image).logits
    assert_close(together[:, 1], apart[:, 1:].amax(1))


@torch.inference_mode()
def test_background_by_names_and_by_threshold() -> None:
    image = torch.from_numpy(quadrants(32, 32)[0]).permute(2, 0, 1)[None] / 255
    clip, dense = planted(background=("rice",))
    model = DenseSegmenter(clip, parse_names("tomato, spinach, blueberry"), dense)
    assert model.classes == 4 and model(image).logits[0].argmax(0)[2:, 2:].eq(0).all()
    # a name that is looked for is no background, whatever the list says
    named = DenseSegmenter(clip, parse_names("tomato, Rice"), dense)(image).logits
    assert named[0, 0].max() < -9000
    clip, dense = planted(threshold=0.7, scale=2.0)
    logits = DenseSegmenter(clip, parse_names("tomato, spinach"), dense)(image).logits[0]
    doubtful = logits[1:].softmax(0).amax(0) < 0.7
    np.testing.assert_array_equal((logits.argmax(0) == 0).numpy(), doubtful.numpy())
    assert 0 < doubtful.sum() < doubtful.numel()


@torch.inference_mode()
def test_thousands_of_names_are_compared_in_parts() -> None:
    clip, dense = planted()
    image = torch.from_numpy(quadrants(16, 16)[0]).permute(2, 0, 1)[None] / 255
    many = [*(f"dish {i}" for i in range(2500)), *COLOURS]
    logits = DenseSegmenter(clip, parse_names(many), dense)(image).logits
    assert logits.shape == (1, 2505, 2, 2)
    few = DenseSegmenter(clip, parse_names(list(COLOURS)), dense)(image).logits
    assert_close(logits[:, 2501:], few[:, 1:])
    assert logits.argmax(1).min() >= 2501


def test_planted_images_are_what_they_are_said_to_be() -> None:
    image, ids = quadrants(4, 6)
    assert Image.fromarray(image).getpixel((5, 3)) == COLOURS["rice"] and ids[3, 5] == 4
