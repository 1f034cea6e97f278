"""Masks as shards hold them: exact, smaller than PNG, readable by any zstd decoder, and damage is named."""

import numpy as np
import pyarrow as pa
import pytest

from foodseg.data.image_io import BadFile, decode_mask, encode_mask
from foodseg.data.stored_mask import decode_stored_mask, encode_stored_mask, is_stored_mask
from foodseg.demo.synthetic import draw_meal


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535)])
@pytest.mark.parametrize("shape", [(7, 5), (1, 1), (1, 300)])
def test_masks_round_trip_exactly(dtype: type, top: int, shape: tuple[int, int]) -> None:
    mask = np.random.default_rng(1).integers(0, top + 1, shape).astype(dtype)
    data = encode_stored_mask(mask)
    assert is_stored_mask(data) and not is_stored_mask(encode_mask(mask))
    for found in (decode_stored_mask(data), decode_mask(data), decode_mask(encode_mask(mask))):
        np.testing.assert_array_equal(found, mask)
        assert found.dtype == dtype and found.flags.writeable


def test_a_turned_mask_is_stored_as_it_is_shown() -> None:
    mask = np.arange(12, dtype=np.uint8).reshape(3, 4).T[::-1]
    np.testing.assert_array_equal(decode_stored_mask(encode_stored_mask(mask)), mask)


def test_any_zstd_decoder_finds_the_ids() -> None:
    mask = np.array([[0, 1, 2], [300, 4, 5]], np.uint16)
    ids = pa.Codec("zstd").decompress(encode_stored_mask(mask), 12, asbytes=True)
    assert ids == bytes([0, 0, 1, 0, 2, 0, 44, 1, 4, 0, 5, 0])


def test_a_mask_of_a_meal_is_smaller_than_as_png() -> None:
    masks = [draw_meal(seed, 384, 512)[1] for seed in range(3)]
    assert sum(map(len, map(encode_stored_mask, masks))) < sum(map(len, map(encode_mask, masks)))


def test_damage_is_named() -> None:
    data = encode_stored_mask((np.arange(60).reshape(6, 10) % 7).astype(np.uint8))
    short = pa.Codec("zstd").compress(b"abc", asbytes=True)
    for bad in (data[:-3], data[:20] + b"xxx" + data[23:], data[:17] + short, data + data):
        with pytest.raises(BadFile, match=r"^the mask cannot be decoded \("):
            decode_mask(bad)
    for bad in (data[:10], data[:16] + b"\3" + data[17:], data[:4] + b"\x0a" + data[5:]):
        with pytest.raises(BadFile, match="its header is damaged"):
            decode_mask(bad)
    for sides in ((0, 5), (100_000, 1001)):
        huge = data[:8] + np.array(sides, "<u4").tobytes() + data[16:]
        with pytest.raises(BadFile, match=f"it has {sides[1]} x {sides[0]} pixels"):
            decode_mask(huge)
