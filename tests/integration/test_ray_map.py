"""Mapping a prepared data set on Ray: every row in the target label space."""

from pathlib import Path

import numpy as np
import pytest

from foodseg.data.image_io import decode_mask
from foodseg.data.reader import RowReader
from foodseg.data.shards import Manifest, read_manifest, read_quarantine, write_quarantine
from foodseg.demo.synthetic import SYNTHETIC_CLASSES
from foodseg.errors import UserError
from foodseg.prepare.ray_map import map_data_set
from tests.support.synthetic_set import IGNORE, write_synthetic

K = len(SYNTHETIC_CLASSES)
REFUSED = [{"image_id": "torn", "reason": "the file is empty", "source": "synthetic"}]


@pytest.fixture(scope="module")
def src(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = write_synthetic(tmp_path_factory.mktemp("map") / "src", train=9, val=3, test=2)
    write_quarantine(uri, "v-1", REFUSED)
    return uri


def write_map(path: Path, becomes: dict[int, int | None], name: str = "wide") -> str:
    lines = [f"plate_id\tplate_name\t{name}_id\t{name}_name"]
    for index, target in becomes.items():
        to = "ignore" if target is None else f"{target}\t{'background' if target == 0 else f'food {target}'}"
        lines.append(f"{index}\t{SYNTHETIC_CLASSES.names[index]}\t{to}")
    path.write_text("\n".join(lines))
    return str(path)


def rows_of(uri: str, manifest: Manifest, split: str) -> list[dict]:
    reader = RowReader(uri, manifest, [split])
    return reader.take(range(len(reader)), ["image_id", "image", "mask", "height", "width", "group_id", "source",
                                            "ingredients", "ingredient_pixels"]).to_pylist()  # fmt: skip


def test_every_mask_is_mapped_and_counted_and_nothing_else_changes(ray_cluster, src, tmp_path):
    """Into 16 bits: ids are spread over 300, the last two merge, id 1 is ignored."""
    becomes = {0: 0, 1: None, **{index: 20 * index for index in range(2, K)}, K - 1: 299, K - 2: 299}
    dst = str(tmp_path / "dst")
    manifest = map_data_set(src, write_map(tmp_path / "m.tsv", becomes), dst)

    assert manifest == read_manifest(dst)
    assert (manifest.name, manifest.generation, manifest.ignore_id) == ("synthetic-as-wide", 1, 65535)
    assert len(manifest.classes) == 300 and manifest.classes[299] == "food 299" and manifest.classes[1] == "unused 1"
    assert manifest.annotated == {"synthetic": tuple(sorted({t for t in becomes.values() if t is not None}))}
    assert read_quarantine(dst, manifest.folder) == read_quarantine(src, "v-1") != []
    before = read_manifest(src)
    table = np.full(256, 65535)
    table[list(becomes)] = [65535 if target is None else target for target in becomes.values()]
    for split, counts in manifest.counts.items():
        pixels, images = np.zeros(300, np.int64), np.zeros(300, np.int64)
        for old, new in zip(rows_of(src, before, split), rows_of(dst, manifest, split), strict=True):
            for name in ("image_id", "image", "height", "width", "group_id", "source"):
                assert new[name] == old[name]
            if old["mask"] is None:
                assert new["mask"] is None
                continue
            mask = decode_mask(new["mask"])
            assert mask.dtype == np.uint16 and np.array_equal(mask, table[decode_mask(old["mask"])])
            found = np.bincount(mask[mask != 65535], minlength=300)
            assert new["ingredients"] == np.flatnonzero(found)[np.flatnonzero(found) > 0].tolist()
            assert new["ingredient_pixels"] == found[new["ingredients"]].tolist()
            pixels += found
            images += found > 0
        assert counts.class_pixels == tuple(pixels.tolist()) and counts.class_images == tuple(images.tolist())
        old_counts = before.counts[split]
        assert (counts.images, counts.unlabelled, counts.groups) == (
            old_counts.images, old_counts.unlabelled, old_counts.groups,
        )  # fmt: skip


def test_a_complete_map_annotates_everything_and_is_switched_in_place(ray_cluster, src, tmp_path):
    becomes = dict.fromkeys(range(1, K), 1) | {0: 0}
    space_map, dst = write_map(tmp_path / "m.tsv", becomes, "food"), str(tmp_path / "dst")
    assert map_data_set(src, space_map, dst, name="foods").annotated == {"synthetic": None}
    with pytest.raises(UserError, match="--overwrite"):
        map_data_set(src, space_map, dst)
    again = map_data_set(src, space_map, dst, overwrite=True)
    assert (again.generation, again.classes) == (2, ("background", "food 1"))
    mask = decode_mask(rows_of(dst, again, "val")[0]["mask"])
    assert mask.dtype == np.uint8 and set(np.unique(mask)) <= {0, 1, IGNORE}


def test_a_map_from_another_label_space_is_refused_and_nothing_is_written(ray_cluster, src, tmp_path):
    space_map = write_map(tmp_path / "m.tsv", {index: index for index in range(K - 2)})
    with pytest.raises(UserError, match=rf"m.tsv does not map from the label space of .*: 2 ids .* first {K - 2} '"):
        map_data_set(src, space_map, str(tmp_path / "dst"))
    assert not (tmp_path / "dst").exists()
