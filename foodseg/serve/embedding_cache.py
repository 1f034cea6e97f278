"""The embeddings of the images that were seen last, by content, within a limit of bytes."""

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
    """Least recently used first out; safe to use from several threads."""

    def __init__(self, limit: int) -> None:
        """`limit` is in bytes of `nbytes`; an embedding larger than that is not kept."""
        self._limit = limit
        self._bytes = 0
        self._entries: OrderedDict[str, T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, digest: str) -> T | None:
        """Returns the embedding of an image, None where it is not kept (any more)."""
        with self._lock:
            if digest in self._entries:
                self._entries.move_to_end(digest)
            return self._entries.get(digest)

    def put(self, digest: str, embedding: T) -> None:
        """Keeps an embedding, and drops what was not asked for longest until the limit holds."""
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
        """Bytes that are kept now."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._entries)
