"""An LRU cache of image embeddings, by the digest of the image, with a limit in bytes."""

import hashlib
import threading
from collections import OrderedDict
from typing import Generic, Protocol, TypeVar

import numpy as np


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
    """Drops the least recently used first; safe to use from several threads."""

    def __init__(self, limit: int) -> None:
        """`limit` is in bytes of `nbytes`; an embedding larger than that is not kept."""
        self._limit = limit
        self._bytes = 0
        self._entries: OrderedDict[str, T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, digest: str) -> T | None:
        """Returns the embedding of an image, None if the cache does not hold it (any more)."""
        with self._lock:
            if digest in self._entries:
                self._entries.move_to_end(digest)
            return self._entries.get(digest)

    def put(self, digest: str, embedding: T) -> None:
        """Stores an embedding, and drops the least recently used ones until the limit holds."""
        with self._lock:
            before = self._entries.pop(digest, None)
            self._bytes -= before.nbytes if before is not None else 0
            self._entries[digest] = embedding
            self._bytes += embedding.nbytes
            while self._bytes > self._limit:
                _, dropped = self._entries.popitem(last=False)
                self._bytes -= dropped.nbytes

    @property
    def nbytes(self) -> int:
        """Bytes in the cache now."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._entries)
