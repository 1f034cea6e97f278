"""The batch that crosses processes: the rows of the positions asked for, cropped, as tensors."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from foodseg.config.augment import AugmentConfig
from foodseg.data.batch import Batch
from foodseg.data.decode import encode_rows, make_batch_arrays
from foodseg.data.image_io import encode_mask
from foodseg.data.reader import RowReader
from foodseg.data.sampler import TrainingOrder
from foodseg.data.shards import FORMAT_VERSION, Manifest, SplitCounts, write_shard

PLAIN = AugmentConfig(longest_side=8, scale=(1, 1), crop=8, flip=0)


def image(number: int) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(np.full((4, 8, 3), (number, 100, 200), np.uint8)).save(sink, "PNG")
    return sink.getvalue()


def dataset(folder: Path, classes: int = 4) -> tuple[RowReader, Manifest]:
    """Six images; red is their number, the mask is id 1 + number % 3; number 4 is unlabelled."""
    names = tuple(map(str, range(classes)))
    dtype, ignore = (np.uint8, 255) if classes < 256 else (np.uint16, 65535)
    rows = [
        {
            "image_id": f"p{n}", "image": image(n), "height": 4, "width": 8, "group_id": "",
            "source": ["x", "", "a"][n % 3],
            "mask": None if n == 4 else encode_mask(np.full((4, 8), 1 + n % 3, dtype)),
            "ingredients": [1 + n % 3], "ingredient_pixels": [32],
        }
        for n in range(6)
    ]  # fmt: skip
    shard = write_shard(str(folder), "v-1/train/part-0.parquet", "train", rows)
    counts = SplitCounts(
        images=6, unlabelled=1, groups=6, class_images=(0,) * classes, class_pixels=(0,) * classes, ignored_pixels=0
    )
    manifest = Manifest(
        format_version=FORMAT_VERSION, name="m", generation=1, folder="v-1", classes=names, ignore_id=ignore,
        annotated={"": None, "a": None, "x": None}, shards=(shard,), counts={"train": counts}, quarantined=0,
    )  # fmt: skip
    return RowReader(str(folder), manifest, ["train"]), manifest


def test_encoded_rows_carry_their_positions_and_seeds(tmp_path: Path) -> None:
    reader, _ = dataset(tmp_path)
    order = TrainingOrder(reader.shard_rows, 3, 2)
    table = encode_rows(reader, order, [range(10, 12), range(4, 5), range(10, 11)])
    positions = [10, 11, 4, 10]
    assert table.column("position").to_pylist() == positions
    assert table.column("seed").to_pylist() == [int(order.seeds(p, p + 1)[0]) for p in positions]
    expected = [f"p{order.rows(p, p + 1)[1][0]}" for p in positions]
    assert table.column("image_id").to_pylist() == expected


def rows_of(reader: RowReader, numbers: list[int]) -> pa.Table:
    table = reader.take(numbers)
    positions = pa.array([100 + number for number in numbers])
    return table.append_column("position", positions).append_column("seed", pa.array(numbers))


@pytest.mark.parametrize(("classes", "dtype", "ignore"), [(4, np.uint8, 255), (300, np.uint16, 65535)])
def test_arrays_by_hand(classes: int, dtype: type, ignore: int, tmp_path: Path) -> None:
    reader, manifest = dataset(tmp_path, classes)
    arrays = make_batch_arrays(rows_of(reader, [5, 0, 4]), PLAIN, manifest)
    assert arrays["image"].shape == (3, 8, 8, 3) and arrays["image"].dtype == np.uint8
    np.testing.assert_array_equal(arrays["image"][:, 0, 0], [[5, 100, 200], [0, 100, 200], [4, 100, 200]])
    assert arrays["mask"].dtype == dtype
    np.testing.assert_array_equal(arrays["mask"][:, 0, 0], [3, 1, ignore])
    assert (arrays["mask"][:, 4:] == ignore).all()
    np.testing.assert_array_equal(arrays["extent"], [[0, 0, 4, 8]] * 3)
    np.testing.assert_array_equal(arrays["seed"], [5, 0, 4])
    np.testing.assert_array_equal(arrays["position"], [105, 100, 104])
    np.testing.assert_array_equal(arrays["source"], [1, 2, 0])  # a, x, none: indices into `annotated`
    assert arrays["ingredients"].shape == (3, classes)
    assert [np.flatnonzero(row).tolist() for row in arrays["ingredients"]] == [[3], [1], []]
    assert arrays["ingredients_known"].tolist() == [True, True, False]


def test_a_row_is_cropped_alike_in_any_batch(tmp_path: Path) -> None:
    reader, manifest = dataset(tmp_path)
    augment = AugmentConfig(longest_side=8, crop=8)
    together = make_batch_arrays(rows_of(reader, [1, 2, 3]), augment, manifest)
    alone = make_batch_arrays(rows_of(reader, [3]), augment, manifest)
    for name, array in alone.items():
        np.testing.assert_array_equal(array[0], together[name][2], err_msg=name)


@pytest.mark.parametrize("writeable", [True, False])
def test_tensors_are_channels_last_and_share_writable_memory(writeable: bool, tmp_path: Path) -> None:
    reader, manifest = dataset(tmp_path)
    arrays = make_batch_arrays(rows_of(reader, [1, 2]), PLAIN, manifest)
    for array in arrays.values():
        array.flags.writeable = writeable
    batch = Batch.from_arrays(arrays)
    assert len(batch) == 2
    assert batch.image.shape == (2, 3, 8, 8) and batch.image.is_contiguous(memory_format=torch.channels_last)
    assert (batch.image.data_ptr() == arrays["image"].ctypes.data) == writeable
    assert torch.equal(batch.image, torch.tensor(arrays["image"]).permute(0, 3, 1, 2))
    dtypes = [batch.mask.dtype, batch.extent.dtype, batch.seed.dtype, batch.position.dtype, batch.source.dtype]
    assert dtypes == [torch.uint8, torch.int32, torch.int64, torch.int64, torch.int16]
    assert batch.ingredients.dtype == batch.ingredients_known.dtype == torch.bool
    assert batch.to(torch.device("cpu")) is batch


def test_what_decides_stays_on_the_cpu(tmp_path: Path) -> None:
    reader, manifest = dataset(tmp_path)
    rows = encode_rows(reader, TrainingOrder(reader.shard_rows, 3, 2), [range(2)])
    batch = Batch.from_arrays(make_batch_arrays(rows, PLAIN, manifest))
    assert batch.to(torch.device("cpu")) is batch
    moved = batch.to(torch.device("meta"))

    def on_meta(tensor: torch.Tensor | None) -> bool:
        return tensor is not None and tensor.device.type == "meta"

    assert {name for name, tensor in vars(moved).items() if on_meta(tensor)} == {"image", "mask", "extent"}
    assert torch.equal(moved.seed, batch.seed)
