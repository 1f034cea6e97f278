"""An LRU cache of image embeddings, by the digest of the image, with a limit in bytes."""

import hashlib
import threading
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

import numpy as np
from cachetools import LRUCache


class _Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


T = TypeVar("T", bound=_Sized)


def image_digest(image: np.ndarray) -> str:
    """Returns 32 hex digits that name the content and size of an image (H, W, 3) uint8, contiguous."""
    height, width = image.shape[:2]
    digest = hashlib.blake2b(f"{height}x{width}\n".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


class EmbeddingCache(Generic[T]):
    """cachetools' LRUCache behind a lock: safe to use from several threads."""

    def __init__(self, limit: int) -> None:
        """`limit` is in bytes of `nbytes`; an embedding larger than that is not kept."""
        self._entries: LRUCache[str, T] = LRUCache(limit, getsizeof=lambda embedding: embedding.nbytes)
        self._lock = threading.Lock()

    def get(self, digest: str) -> T | None:
        """Returns the embedding of an image, None if the cache does not hold it (any more)."""
        with self._lock:
            found: T | None = self._entries.get(digest)
            return found

    def put(self, digest: str, embedding: T) -> None:
        """Stores an embedding, and drops the least recently used ones until the limit holds."""
        with self._lock, suppress(ValueError):  # it is larger than the limit
            self._entries[digest] = embedding

    @property
    def nbytes(self) -> int:
        """Bytes in the cache now."""
        return int(self._entries.currsize)

    def __len__(self) -> int:
        return len(self._entries)
