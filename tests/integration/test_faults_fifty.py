"""A directory with fifty faults, prepared: each is found and named, none is missed, none is invented."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from foodseg.data.image_io import decode_mask
from foodseg.data.reader import RowReader
from foodseg.data.shards import Manifest, read_findings, read_quarantine
from foodseg.errors import DataRefused
from foodseg.prepare.findings import FINDINGS
from foodseg.prepare.ray_prepare import prepare_dataset
from tests.support.faulty_meals import FAULTS, ONE_CLASS, FaultyMeals, write_faulty_meals


@pytest.fixture(scope="module")
def meals(tmp_path_factory: pytest.TempPathFactory) -> FaultyMeals:
    return write_faulty_meals(tmp_path_factory.mktemp("faulty") / "meals")


@pytest.fixture(scope="module")
def prepared(ray_cluster: None, meals: FaultyMeals, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Manifest]:
    uri = str(tmp_path_factory.mktemp("prepared"))
    return uri, prepare_dataset(str(meals.folder), uri, max_bad=1)


def test_every_fault_is_found_and_none_is_invented(meals: FaultyMeals, prepared: tuple[str, Manifest]) -> None:
    uri, manifest = prepared
    found: dict[tuple[str, str], set[str]] = {}
    rows = read_findings(uri, manifest.folder)
    for row in rows:
        found.setdefault((row["image_id"], row["split"]), set()).add(row["finding"])
    assert len(meals.expected) == FAULTS
    assert found == meals.expected
    assert len(rows) == sum(map(len, meals.expected.values())), "nothing is said twice"
    assert manifest.audit == dict(Counter(row["finding"] for row in rows))
    assert {name for names in meals.expected.values() for name in names} | set(ONE_CLASS) == set(FINDINGS), "each kind"


def test_exactly_the_refused_records_are_in_the_quarantine(meals: FaultyMeals, prepared: tuple[str, Manifest]) -> None:
    uri, manifest = prepared
    refusing = {
        key: {name for name in names if FINDINGS[name].effect == "refused"} for key, names in meals.expected.items()
    }
    quarantine = read_quarantine(uri, manifest.folder)
    assert {(row["image_id"], row["split"]): set(row["findings"]) for row in quarantine} == {
        key: names for key, names in refusing.items() if names
    }
    assert manifest.quarantined == len(quarantine)
    assert all(row["reason"] and "\n" not in row["reason"] for row in quarantine)
    taken = {
        (image_id, split)
        for split in manifest.counts
        for image_id in RowReader(uri, manifest, [split]).column("image_id").to_pylist()
    }
    listed = Counter((name, split) for split, names in meals.lists.items() for name in names)
    refused = Counter(key for key, names in refusing.items() if names)
    assert Counter(taken) == listed - refused, "every record is in a shard or in the quarantine"


def test_masks_are_those_that_fit_their_image(meals: FaultyMeals, prepared: tuple[str, Manifest]) -> None:
    uri, manifest = prepared
    reader = RowReader(uri, manifest, list(manifest.counts))
    seen = 0
    for row in reader.take(range(len(reader))).to_pylist():
        if row["mask"] is None:
            assert row["image_id"] not in meals.masks
            continue
        np.testing.assert_array_equal(decode_mask(row["mask"]), meals.masks[row["image_id"]], row["image_id"])
        seen += 1
    assert seen == len(meals.masks)


def test_above_max_bad_nothing_is_switched_and_the_lists_are_there(
    ray_cluster: None, meals: FaultyMeals, prepared: tuple[str, Manifest], tmp_path: Path
) -> None:
    total, bad = sum(map(len, meals.lists.values())), prepared[1].quarantined
    words = (
        rf"{bad} of {total} records are bad, a share of {bad / total:.3g}, more than --max-bad 0\.05 allows; "
        r"the first is 'no_image' of train: image: train\.txt lists 'no_image', and no image in images/ has that "
        "name; all are listed in "
    )
    with pytest.raises(DataRefused, match=words):
        prepare_dataset(str(meals.folder), str(tmp_path / "out"), max_bad=0.05)
    assert not (tmp_path / "out" / "dataset.json").exists()
    (folder,) = (path.name for path in (tmp_path / "out").iterdir())
    assert len(read_quarantine(str(tmp_path / "out"), folder)) == bad
    assert read_findings(str(tmp_path / "out"), folder) == read_findings(prepared[0], prepared[1].folder)
