"""A prepared data set of masks that are filled with one id, for what depends on groups, sources and labels alone.

uri = write_filled(tmp_path, ("train", [("g", "s", 1), ("h", "t", None)]))
"""

from pathlib import Path

import numpy as np

from foodseg import storage
from foodseg.data.image_io import encode_mask
from foodseg.data.shards import FORMAT_VERSION, Manifest, SplitCounts, write_manifest, write_shard

Filled = tuple[str, str, int | None]
"""Group, source, and the id that fills the mask: 0 background, 1 rice, 2 egg, 255 ignored; None = unlabelled."""


def write_filled(folder: Path, *splits: tuple[str, list[Filled]], prefix: str = "") -> str:
    """Writes rows of 2 x 2 pixels without an image, in two shards a split; returns the URI.

    The ids are `<prefix><split>-<number>`.
    """
    shards, counts = [], {}
    for split, rows in splits:
        written = [
            {
                "image_id": f"{prefix}{split}-{number}", "image": b"", "height": 2, "width": 2,
                "mask": None if index is None else encode_mask(np.full((2, 2), index, np.uint8)),
                "ingredients": [index] if index in (1, 2) else [], "ingredient_pixels": [4] if index in (1, 2) else [],
                "group_id": group, "source": source,
            }
            for number, (group, source, index) in enumerate(rows)
        ]  # fmt: skip
        for part, chosen in enumerate([written[: len(rows) // 2], written[len(rows) // 2 :]]):
            if chosen:
                shards.append(write_shard(str(folder), f"v-1/{split}/part-{part}.parquet", split, chosen))
        counts[split] = filled_counts(rows)
    manifest = Manifest(
        format_version=FORMAT_VERSION, name="m", generation=1, folder="v-1", classes=("background", "rice", "egg"),
        ignore_id=255, annotated={"s": None, "t": None}, shards=tuple(shards), counts=counts, quarantined=0,
    )  # fmt: skip
    storage.delete(storage.join(str(folder), "dataset.json"))
    write_manifest(str(folder), manifest)
    return str(folder)


def filled_counts(rows: list[Filled]) -> SplitCounts:
    """Counts rows as `foodseg data prepare` does."""
    images = tuple(sum(index == each for _, _, index in rows) for each in range(3))
    return SplitCounts(
        images=len(rows),
        unlabelled=sum(index is None for _, _, index in rows),
        groups=len({group for group, _, _ in rows}),
        class_images=images,
        class_pixels=tuple(4 * count for count in images),
        ignored_pixels=4 * sum(index == 255 for _, _, index in rows),
    )
