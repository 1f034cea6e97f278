"""The cache of image embeddings, and the name of an image's content."""

import numpy as np

from foodseg.serve.embedding_cache import EmbeddingCache, image_digest


def entry(size: int) -> np.ndarray:
    return np.zeros(size, np.uint8)


def test_the_least_recently_used_goes_first_and_bytes_are_counted() -> None:
    cache: EmbeddingCache[np.ndarray] = EmbeddingCache(100)
    cache.put("a", entry(40))
    cache.put("b", entry(40))
    assert cache.get("a") is not None
    cache.put("c", entry(40))
    assert (cache.get("a") is None, cache.get("b") is None, cache.get("c") is None) == (False, True, False)
    assert (cache.nbytes, len(cache)) == (80, 2)
    cache.put("a", entry(10))
    assert (cache.nbytes, len(cache)) == (50, 2)
    cache.put("d", entry(101))  # larger than the cache: it is not kept, and the others stay
    assert (cache.nbytes, len(cache), cache.get("d")) == (50, 2, None)


def test_a_digest_names_content_and_shape() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert image_digest(image) == image_digest(image.copy()) == image_digest(np.asfortranarray(image))
    assert len(image_digest(image)) == 32
    assert image_digest(image) != image_digest(image.reshape(4, 2, 3))
    other = image.copy()
    other[1, 3, 2] ^= 1
    assert image_digest(image) != image_digest(other)
