"""Features that are kept: the same as made again, made once, by any number of workers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from foodseg.config import parse_config
from foodseg.models.backbones.frozen_features import FeatureCache
from tests.support.compare import assert_close

STILL = {"longest_side": 64, "crop": 64, "scale": [1, 1], "contrast": [1, 1], "brightness": 0}


class Encoder(nn.Module):
    """Sums of the 8 x 8 blocks of each channel, times a weight; counts the images that it was shown."""

    def __init__(self, weight: float = 2.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.shown = 0

    @torch.no_grad()
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.shown += len(image)
        return image.unfold(2, 8, 8).unfold(3, 8, 8).sum((-1, -2)) * self.weight


def images(*seeds: int) -> torch.Tensor:
    return torch.stack([torch.rand(3, 16, 24, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def test_each_image_is_made_once(tmp_path: Path) -> None:
    encoder = Encoder()
    cache = FeatureCache(str(tmp_path))
    first = cache.features(images(1, 2), encoder, encoder)
    assert first.shape == (2, 3, 2, 3) and not first.requires_grad and encoder.shown == 2
    assert torch.equal(first, Encoder()(images(1, 2)))
    # one that is new between two that are kept, by another process
    mixed = FeatureCache(str(tmp_path)).features(images(2, 3, 1), encoder, encoder)
    assert_close(mixed, Encoder()(images(2, 3, 1)))
    assert encoder.shown == 3
    assert torch.equal(cache.features(images(3), encoder, encoder), mixed[1:2]) and encoder.shown == 3
    cache.features(images(1).contiguous(memory_format=torch.channels_last), encoder, encoder)
    assert encoder.shown == 3  # the pixels count, not how they lie in memory


def test_other_weights_other_precision_and_one_pixel_are_others(tmp_path: Path) -> None:
    cache, encoder = FeatureCache(str(tmp_path)), Encoder()
    plain = cache.features(images(1), encoder, encoder)
    other = Encoder(3.0)
    assert torch.equal(FeatureCache(str(tmp_path)).features(images(1), other, other), plain / 2 * 3)
    with torch.autocast("cpu", torch.bfloat16):
        cache.features(images(1), encoder, encoder)
    changed = images(1)
    changed[0, 0, 0, 0] += 1e-6
    cache.features(changed, encoder, encoder)
    assert encoder.shown == 3
    assert len(list(tmp_path.rglob("*.safetensors"))) == 4


@pytest.mark.parametrize("damage", [b"", b"no safetensors", None])
def test_a_damaged_entry_is_made_anew(tmp_path: Path, damage: bytes | None) -> None:
    encoder = Encoder()
    wanted = FeatureCache(str(tmp_path)).features(images(1), encoder, encoder)
    (entry,) = tmp_path.rglob("*.safetensors")
    whole = entry.read_bytes()
    entry.write_bytes(whole[:-3] if damage is None else damage)
    assert torch.equal(FeatureCache(str(tmp_path)).features(images(1), encoder, encoder), wanted) and encoder.shown == 2
    assert entry.read_bytes() == whole


@pytest.mark.parametrize(
    ("augment", "named"),
    [
        ({"scale": [0.9, 1.0]}, r"augment.scale \(\(0.9, 1.0\)\)"),
        ({"scale": [1.5, 1.5]}, "the position of the crop"),
        ({"class_aware": 0.5}, "augment.class_aware"),
        ({"paste": 0.5}, "augment.paste"),
        ({"contrast": [0.8, 1]}, "augment.contrast"),
        ({"brightness": 0.1, "blur": 1}, r"augment.brightness \(0.1\), augment.blur \(1.0\)"),
        ({"saturation": [0.8, 1]}, "augment.saturation"),
        ({"light": 0.1}, "augment.light"),
    ],
)
def test_what_draws_images_anew_is_refused(augment: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        _configured({**STILL, **augment})


def test_where_it_is_taken() -> None:
    assert _configured({**STILL, "flip": 0.5}).train.latent_cache == "latents"  # a mirrored image comes again, too
    vit = {"model": {"backbone": "test_vit"}, "augment": STILL, "train": {"latent_cache": "tokens"}}
    assert parse_config(vit).train.latent_cache == "tokens"
    with pytest.raises(ValueError, match=r"keeps the tokens of a frozen ViT, and model.vit.trained is full"):
        parse_config({**vit, "model": {"backbone": "test_vit", "vit": {"trained": "full"}}})


def _configured(augment: dict[str, Any]) -> Any:
    model = {"kind": "diffusion", "backbone": "tiny"}
    return parse_config({"model": model, "augment": augment, "train": {"latent_cache": "latents"}})
