"""Computes masks of Segment Anything for all images of a prepared data set on Ray, and keeps them beside it.

    make_masks("prepared/meals", "mobile_sam.safetensors")

A command that was killed is resumed by the same command: tasks of TASK_ROWS images write a shard each.
"""

import functools
from dataclasses import asdict, dataclass
from functools import partial
from io import BytesIO

import pyarrow.parquet as pq
import ray
import torch

from foodseg import storage
from foodseg.cluster.ray_session import cores, expected_failure, ray_session
from foodseg.cluster.ray_shards import run_shards
from foodseg.cluster.shard_plan import ShardPlan, ShardTask, plan_identity
from foodseg.data.image_io import decode_image, fit_longest, image_size
from foodseg.data.reader import RowReader
from foodseg.data.sam_masks import FILE, FOLDER, FORMAT_VERSION, MASK_SIDE, SCHEMA, MaskSet, encode_mask_rows, mask_row
from foodseg.data.shards import Manifest, Shard, entry_of_shard, read_manifest
from foodseg.errors import UserError
from foodseg.models.sam.mask_grid import MaskGrid
from foodseg.models.sam.sam import SamModel, load_sam, weights_identity
from foodseg.predict.device import Device, pick_device

TASK_ROWS = 32  # images of a task: some minutes on a CPU


@dataclass(frozen=True)
class MasksMade:
    """What `make_masks` gives: the folder of the masks, the number of images and of masks."""

    folder: str
    images: int
    masks: int


def make_masks(
    data: str,
    weights: str,
    grid: MaskGrid | None = None,
    *,
    overwrite: bool = False,
    address: str | None = None,
    device: Device = "auto",
) -> MasksMade:
    """Writes the masks of all images of the data set `data`.

    Args:
        weights: file or URI of segment-anything or MobileSAM.
        overwrite: make them again where there are masks of other weights, another grid or another generation.
        address: Ray cluster to join; None = this machine.
        device: what Segment Anything computes on; auto = a GPU for each task where the cluster has any.

    Raises:
        UserError: the weights cannot be read, or there are other masks (without `overwrite`).
    """
    data, grid = storage.absolute(data), grid or MaskGrid()
    manifest = read_manifest(data)
    sam = weights_identity(weights)
    settings = {name: float(value) for name, value in asdict(grid).items()}
    identity = plan_identity(["masks", str(FORMAT_VERSION), manifest.model_dump_json(), sam, repr(settings)])
    folder = identity[:12]
    where = storage.join(data, FOLDER)
    listed = storage.join(where, FILE)
    if storage.exists(listed) and not overwrite and folder not in storage.read_text(listed):
        raise UserError(
            f"{storage.redact(where)} holds masks of other weights, another grid or another generation of the data: "
            "give --overwrite to make them again"
        )
    reader = RowReader(data, manifest, list(manifest.counts))
    tasks = [
        ShardTask(f"part-{number:05d}.parquet", (start, end), end - start)
        for number, start in enumerate(range(0, len(reader), TASK_ROWS))
        for end in [min(start + TASK_ROWS, len(reader))]
    ]
    with ray_session(address, logical_cpus=cores()):
        gpus = 1.0 if device == "gpu" or (device == "auto" and ray.cluster_resources().get("GPU", 0) >= 1) else 0.0
        write = partial(_masks_of, job=_Job(data, manifest, weights, grid, "gpu" if gpus else "cpu"))
        read = partial(_entry, folder=folder)
        try:
            made = run_shards(ShardPlan(storage.join(where, folder), tasks), write, read, "finding masks", gpus=gpus)
        except ray.exceptions.RayError as error:
            raise expected_failure(error) or error from None
    result = MaskSet(
        data=manifest.identity, sam=sam, grid=settings, folder=folder, shards=tuple(shard for shard, _ in made)
    )
    storage.write_text(listed, result.model_dump_json(indent=1) + "\n")
    return MasksMade(storage.redact(where), len(reader), sum(masks for _, masks in made))


@dataclass(frozen=True)
class _Job:
    """Input of every task."""

    data: str
    manifest: Manifest
    weights: str
    grid: MaskGrid
    device: Device


@functools.cache
def _sam(weights: str, grid: MaskGrid, device: Device) -> SamModel:
    torch.set_num_threads(1)
    return load_sam(None, weights, pick_device(device, mps=False), grid)


def _masks_of(rows: tuple[int, int], job: _Job) -> bytes:
    reader = RowReader(job.data, job.manifest, list(job.manifest.counts))
    model = _sam(job.weights, job.grid, job.device)
    made = []
    for index in range(*rows):
        (row,) = reader.take([index], ["image_id", "image"]).to_pylist()
        try:
            size = image_size(row["image"])
            image = decode_image(row["image"], None if max(size) <= MASK_SIDE else fit_longest(*size, MASK_SIDE))
            found = model.automatic(model.embed(image))
        except UserError as error:
            raise UserError(f"{row['image_id']!r} of {storage.redact(job.data)}: {error}") from None
        masks, scores = [each.mask for each in found], [each.score for each in found]
        made.append(mask_row(row["image_id"], (image.shape[0], image.shape[1]), masks, scores))
    return encode_mask_rows(made)


def _entry(rows: tuple[int, int], data: bytes, folder: str) -> tuple[Shard, int]:
    """Returns the entry of a shard, and the number of masks in it; ValueError where it is not of these rows."""
    table = pq.read_table(BytesIO(data), columns=["scores"])
    if table.num_rows != rows[1] - rows[0] or pq.read_schema(BytesIO(data)) != SCHEMA:
        raise ValueError(f"it has {table.num_rows} rows")
    number = rows[0] // TASK_ROWS
    masks = sum(len(scores) for scores in table.column("scores").to_pylist())
    return entry_of_shard("all", f"{folder}/part-{number:05d}.parquet", data), masks
