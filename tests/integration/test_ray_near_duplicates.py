"""Near-duplicate groups by tasks over blocks: those of one comparison of all; a second command finds the tasks done."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from foodseg.classes import ClassTable
from foodseg.cluster import ray_shards
from foodseg.data.image_io import encode_mask
from foodseg.prepare import ray_near_duplicates
from foodseg.prepare.audit import audit_record
from foodseg.prepare.audit_rows import encode_audit
from foodseg.prepare.generations import Generation
from foodseg.prepare.near_duplicates import unit_thumbnails
from foodseg.prepare.ray_near_duplicates import AuditedRows, near_duplicate_groups
from foodseg.prepare.record import ImageFile, MaskFile, Record

CLASSES = ClassTable(("background", "rice"))


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[AuditedRows], np.ndarray, np.ndarray]:
    """Shards of the audit with 5 rows each, of which some did not pass; thumbnails and digests of those that did."""
    folder = tmp_path_factory.mktemp("audited")
    (folder / "mask.png").write_bytes(encode_mask(np.ones((32, 32), np.uint8)))
    rng = np.random.default_rng(0)
    scenes = [cv2.resize(rng.integers(0, 256, (4, 4, 3), np.uint8), (32, 32)) for _ in range(9)]
    parts, thumbnails, digests = [], [], []
    for number in range(8):
        facts = []
        for row in range(5):
            path = folder / f"{number}-{row}.png"
            noisy = np.clip(scenes[rng.integers(9)] + rng.normal(0, 6, (32, 32, 3)), 0, 255).astype(np.uint8)
            path.write_bytes(cv2.imencode(".png", noisy)[1].tobytes())
            record = Record(path.stem, "train", "", ImageFile(str(path)), MaskFile(str(folder / "mask.png")))
            facts.append(audit_record(record, CLASSES))
        passed = tuple(row for row in range(5) if (number + row) % 4) if number != 3 else ()
        (folder / f"{number}.audit").write_bytes(encode_audit(facts))
        parts.append(AuditedRows(str(folder / f"{number}.audit"), passed))
        thumbnails += [facts[row].thumbnail for row in passed]
        digests += [facts[row].digest for row in passed]
    return parts, unit_thumbnails(np.stack(thumbnails)), np.array(digests)


@pytest.mark.parametrize("block", [4, 7, 4096])
def test_groups_are_those_of_all_pairs(ray_cluster, audited, block, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_shards, "WAVE", 3)  # of 4 and 7 tasks
    monkeypatch.setattr(ray_shards, "WAVE_PER_CPU", 0)
    parts, units, digests = audited
    generation = Generation(str(tmp_path), 1, "v-1-0", None, False)
    groups, found = near_duplicate_groups(parts, digests, generation, block)
    expected = np.arange(len(units))
    while True:  # until no row has a neighbour of a smaller group
        smallest = np.where(units @ units.T > 0.95, expected, len(units)).min(1)
        smallest = np.minimum(smallest, expected)
        if (smallest == expected).all():
            break
        expected = smallest
    assert groups.tolist() == expected.tolist() and 3 < len(set(groups.tolist())) < len(units)
    rows = np.array([5, 0, len(units) - 1, 5])
    np.testing.assert_allclose(found(rows), units[rows], atol=1e-6)


def test_tasks_that_are_done_are_not_done_again(ray_cluster, audited, tmp_path, monkeypatch):
    parts, _, digests = audited
    generation = Generation(str(tmp_path), 1, "v-1-0", None, False)
    groups, _ = near_duplicate_groups(parts, digests, generation, 8)
    done = sorted(Path(generation.work("near-duplicates")).iterdir())
    assert len(done) == -(-len(digests) // 8)
    done[0].write_bytes(b"damaged")
    links, tasks = ray_near_duplicates._links, len(done)

    def only_the_first(uris, block):
        assert len(uris) == tasks, "the others are there"
        return links(uris, block)

    monkeypatch.setattr(ray_near_duplicates, "_links", only_the_first)
    again, _ = near_duplicate_groups(parts, digests, generation, 8)
    assert again.tolist() == groups.tolist()
