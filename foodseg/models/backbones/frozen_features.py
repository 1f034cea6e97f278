"""A cache, in a folder or in object storage, of what a frozen encoder makes of an image: it encodes each image once.

    cache = FeatureCache("s3://bucket/features")
    latents = cache.features(image, vae, encode)          # as encode(image), at the price of a download

It holds latents of a VAE (`diffusion.py`) and tokens of a ViT (`vit.py`). Entries are named by the pixels, the weights
of the encoder and the precision, so that a folder may serve any number of runs and workers, and nothing in it is ever
out of date.
"""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from foodseg import storage
from foodseg.errors import MissingFile

_THREADS = 8  # object storage answers many requests at once, each of them slowly
_KEY = "latents"  # whatever it holds: entries that 0.1.0 has written stay good


class FeatureCache:
    """Caches the features of a frozen encoder, one file per image."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._folder: str | None = None  # that of the encoder, whose weights may be loaded after this is made

    @torch.compiler.disable
    def features(
        self, image: torch.Tensor, encoder: nn.Module, encode: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """Returns `encode(image)`; only what is not cached yet is computed. A damaged entry is computed again.

        Args:
            image: (B, ...) float. encoder: the module whose weights `encode` uses.
            encode: (B', ...) -> (B', ...), each image for itself, without gradient.

        Raises:
            UserError: the folder cannot be written to.
            RetryLater: storage stays away.
        """
        uris = self._entries(image, encoder)
        with ThreadPoolExecutor(_THREADS) as pool:
            kept = list(pool.map(_read, uris))
            missing = [index for index, features in enumerate(kept) if features is None]
            if missing:
                made = encode(image[missing])
                for index, features in zip(missing, made, strict=True):
                    kept[index] = features
                list(pool.map(_write, [uris[index] for index in missing], made.cpu()))
        return torch.stack([features.to(image.device) for features in kept if features is not None])

    def _entries(self, image: torch.Tensor, encoder: nn.Module) -> list[str]:
        if self._folder is None:
            state = encoder.state_dict()
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


def _write(uri: str, features: torch.Tensor) -> None:
    storage.write_bytes(uri, save({_KEY: features.contiguous()}))
