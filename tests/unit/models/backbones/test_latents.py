"""Latents that are kept: the same as made again, made once, by any number of workers."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from foodseg.config import parse_config
from foodseg.models.backbones.latents import LatentCache, latents_of
from tests.support.compare import assert_close

STILL = {"longest_side": 64, "crop": 64, "scale": [1, 1], "contrast": [1, 1], "brightness": 0}


class Vae(nn.Module):
    """Sums of the 8 x 8 blocks of each channel, times a weight; counts the images that it was shown."""

    def __init__(self, weight: float = 2.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.shown = 0

    def encode(self, image: torch.Tensor) -> Any:
        self.shown += len(image)
        blocks = image.unfold(2, 8, 8).unfold(3, 8, 8).sum((-1, -2)) * self.weight
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: blocks))


def images(*seeds: int) -> torch.Tensor:
    return torch.stack([torch.rand(3, 16, 24, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def test_each_image_is_made_once(tmp_path: Path) -> None:
    vae = Vae()
    cache = LatentCache(str(tmp_path))
    first = cache.latents(images(1, 2), vae)
    assert first.shape == (2, 3, 2, 3) and not first.requires_grad and vae.shown == 2
    assert torch.equal(first, latents_of(images(1, 2), Vae()))
    # one that is new between two that are kept, by another process
    mixed = LatentCache(str(tmp_path)).latents(images(2, 3, 1), vae)
    assert_close(mixed, latents_of(images(2, 3, 1), Vae()))
    assert vae.shown == 3
    assert torch.equal(cache.latents(images(3), vae), mixed[1:2]) and vae.shown == 3
    assert cache.latents(images(1).contiguous(memory_format=torch.channels_last), vae).shape == (1, 3, 2, 3)
    assert vae.shown == 3  # the pixels count, not how they lie in memory


def test_other_weights_other_precision_and_one_pixel_are_others(tmp_path: Path) -> None:
    cache, vae = LatentCache(str(tmp_path)), Vae()
    plain = cache.latents(images(1), vae)
    assert torch.equal(LatentCache(str(tmp_path)).latents(images(1), Vae(3.0)), plain / 2 * 3)
    with torch.autocast("cpu", torch.bfloat16):
        cache.latents(images(1), vae)
    changed = images(1)
    changed[0, 0, 0, 0] += 1e-6
    cache.latents(changed, vae)
    assert vae.shown == 3
    assert len(list(tmp_path.rglob("*.safetensors"))) == 4


@pytest.mark.parametrize("damage", [b"", b"no safetensors", None])
def test_a_damaged_entry_is_made_anew(tmp_path: Path, damage: bytes | None) -> None:
    vae = Vae()
    wanted = LatentCache(str(tmp_path)).latents(images(1), vae)
    (entry,) = tmp_path.rglob("*.safetensors")
    whole = entry.read_bytes()
    entry.write_bytes(whole[:-3] if damage is None else damage)
    assert torch.equal(LatentCache(str(tmp_path)).latents(images(1), vae), wanted) and vae.shown == 2
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
    with pytest.raises(ValueError, match="latents of model"):
        parse_config({"train": {"latent_cache": "latents"}})


def _configured(augment: dict[str, Any]) -> Any:
    model = {"kind": "diffusion", "backbone": "tiny"}
    return parse_config({"model": model, "augment": augment, "train": {"latent_cache": "latents"}})
