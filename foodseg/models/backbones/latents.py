"""A cache of latents in a folder or in object storage, so that the frozen VAE encodes each image once.

    cache = LatentCache("s3://bucket/latents")
    latents = cache.latents(image, vae)          # as latents_of(image, vae), at the price of a download

Entries are named by the pixels, the weights of the VAE and the precision, so that a folder may serve any number of runs
and workers, and nothing in it is ever out of date.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from foodseg import storage
from foodseg.errors import MissingFile

_THREADS = 8  # object storage answers many requests at once, each of them slowly
_KEY = "latents"


def latents_of(image: torch.Tensor, vae: Any) -> torch.Tensor:
    """(B, 3, H, W) float in [-1, 1] -> (B, C, H / 8, W / 8), the mode of the latents, without gradient."""
    with torch.no_grad():
        latents: torch.Tensor = vae.encode(image).latent_dist.mode()
    return latents


class LatentCache:
    """Caches what `latents_of` returns, one file per image."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._folder: str | None = None  # that of the VAE, whose weights may be loaded after this is made

    def latents(self, image: torch.Tensor, vae: nn.Module) -> torch.Tensor:
        """Returns `latents_of(image, vae)`; only latents that are not cached yet are computed.

        A damaged entry is computed again.

        Raises:
            UserError: the folder cannot be written to.
            RetryLater: storage stays away.
        """
        uris = self._entries(image, vae)
        with ThreadPoolExecutor(_THREADS) as pool:
            kept = list(pool.map(_read, uris))
            missing = [index for index, latents in enumerate(kept) if latents is None]
            if missing:
                made = latents_of(image[missing], vae)
                for index, latents in zip(missing, made, strict=True):
                    kept[index] = latents
                list(pool.map(_write, [uris[index] for index in missing], made.cpu()))
        return torch.stack([latents.to(image.device) for latents in kept if latents is not None])

    def _entries(self, image: torch.Tensor, vae: nn.Module) -> list[str]:
        if self._folder is None:
            state = vae.state_dict()
            weights = _digest([state[name] for name in sorted(state)])
            self._folder = storage.join(self._uri, weights[:16])
        device = image.device.type
        precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else image.dtype
        folder = storage.join(self._folder, str(precision).removeprefix("torch."))
        names = [_digest([single]) for single in image]
        return [storage.join(folder, name[:2], f"{name}.safetensors") for name in names]


def _digest(tensors: Sequence[torch.Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().float().numpy().tobytes())  # numpy has no bfloat16
    return digest.hexdigest()


def _read(uri: str) -> torch.Tensor | None:
    try:
        return load(storage.read_bytes(uri))[_KEY]
    except (MissingFile, SafetensorError, KeyError):
        return None


def _write(uri: str, latents: torch.Tensor) -> None:
    storage.write_bytes(uri, save({_KEY: latents.contiguous()}))
