"""Commands that prepare different data never mix their files, those that prepare the same share them."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from foodseg import storage
from foodseg.data.reader import RowReader
from foodseg.data.shards import FORMAT_VERSION, Manifest, SplitCounts, read_manifest, write_shard
from foodseg.errors import RetryLater, UserError
from foodseg.prepare import generations
from foodseg.prepare.generations import (
    Generation,
    next_generation,
    refuse_prepared,
    refuse_superseded,
    switch_to,
)

IDENTITY = "0123456789abcdef"


def written(generation: Generation, name: str) -> Manifest:
    """Writes one row called `name` below the generation's folder; returns its manifest."""
    row = {
        "image_id": name, "image": b"i", "mask": b"m", "height": 1, "width": 1, "ingredients": [1],
        "ingredient_pixels": [1], "group_id": name, "source": "s",
    }  # fmt: skip
    shard = write_shard(generation.uri, f"{generation.folder}/train/part-00000.parquet", "train", [row])
    counts = SplitCounts(images=1, unlabelled=0, groups=1, class_images=(0, 1), class_pixels=(0, 1), ignored_pixels=0)
    return Manifest(
        format_version=FORMAT_VERSION, name="meals", generation=generation.number, folder=generation.folder,
        classes=("background", "rice"), ignore_id=255, annotated={"s": None}, shards=(shard,),
        counts={"train": counts}, quarantined=0,
    )  # fmt: skip


def rows(uri: str | Path) -> list[str]:
    found: list[str] = RowReader(str(uri), read_manifest(str(uri)), ["train"]).column("image_id").to_pylist()
    return found


def test_generations_follow_each_other_and_the_one_before_is_kept(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        begun = next_generation(str(tmp_path), number > 1, IDENTITY)
        assert begun.number == number and begun.folder == f"v-{number}-{IDENTITY[:12]}"
        switch_to(begun, written(begun, f"row-{number}"))
        assert rows(tmp_path) == [f"row-{number}"] and read_manifest(str(tmp_path)).folder == begun.folder
    kept = sorted(path.name.rpartition("-")[0] for path in tmp_path.iterdir() if path.is_dir())
    assert kept == ["v-2", "v-3"]
    with pytest.raises(UserError, match="holds a prepared data set already: give --overwrite"):
        next_generation(str(tmp_path), False, IDENTITY)
    with pytest.raises(UserError, match="holds a prepared data set already: give --overwrite"):
        refuse_prepared(str(tmp_path), False)
    refuse_prepared(str(tmp_path), True)


def test_the_last_of_two_at_the_same_time_wins(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = next_generation(str(tmp_path), False, IDENTITY)
    switch_to(first, written(first, "old"))
    one, two = (next_generation(str(tmp_path), True, each) for each in ("1a", "2b"))
    assert one.number == two.number == 2 and one.folder != two.folder
    manifests = [written(each, name) for each, name in ((one, "one"), (two, "two"))]
    switch_to(two, manifests[1])
    assert rows(tmp_path) == ["two"] and not caplog.records
    switch_to(one, manifests[0])
    assert rows(tmp_path) == ["one"]
    (record,) = caplog.records
    assert (
        f"has been switched to {two.folder} by another command meanwhile: {one.folder} replaces" in record.getMessage()
    )
    assert RowReader(str(tmp_path), manifests[1], ["train"]).column("image_id").to_pylist() == ["two"]  # still readable
    for name in ("later", "latest"):
        after = next_generation(str(tmp_path), True, IDENTITY)
        switch_to(after, written(after, name))
    assert not (tmp_path / two.folder).exists() and not (tmp_path / one.folder).exists()


def test_without_overwrite_the_first_that_is_ready_wins(tmp_path: Path) -> None:
    one, two = (next_generation(str(tmp_path), False, each) for each in ("1a", "2b"))
    manifests = [written(each, name) for each, name in ((one, "one"), (two, "two"))]
    switch_to(one, manifests[0])
    with pytest.raises(UserError, match=r"has been prepared by another command meanwhile, and stays .* --overwrite"):
        switch_to(two, manifests[1])
    assert rows(tmp_path) == ["one"]
    assert not (tmp_path / two.folder).exists() and (tmp_path / one.folder).exists()


@pytest.mark.parametrize("where", ["local", "s3"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_two_that_switch_at_the_same_moment(
    where: str, overwrite: bool, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = str(tmp_path) if where == "local" else request.getfixturevalue("bucket")
    if overwrite:
        first = next_generation(uri, False, IDENTITY)
        switch_to(first, written(first, "old"))
    both = [next_generation(uri, overwrite, identity) for identity in ("1a", "2b")]
    manifests = [written(each, name) for each, name in zip(both, ("one", "two"), strict=True)]
    looked, look, looks = threading.Barrier(2), generations._current, iter([True, True])

    def look_together(uri: str) -> tuple[str | None, str | None]:
        found = look(uri)
        if next(looks, False):
            looked.wait()
        return found

    def switch(number: int) -> str:
        try:
            switch_to(both[number], manifests[number])
        except UserError as error:
            return str(error)
        return "switched"

    monkeypatch.setattr(generations, "_current", look_together)
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(switch, range(2)))
    if overwrite:
        assert outcomes == ["switched", "switched"]  # the second one has looked again
    else:
        assert sorted("has been prepared by another command meanwhile" in said for said in outcomes) == [False, True]
        assert rows(uri) == [("one", "two")[outcomes.index("switched")]]


def test_files_deleted_by_others_are_noticed_before_the_switch(tmp_path: Path) -> None:
    slow = next_generation(str(tmp_path), True, "51")
    manifest = written(slow, "slow")
    for name in ("a", "b", "c"):
        quick = next_generation(str(tmp_path), True, "9c")
        switch_to(quick, written(quick, name))
    with pytest.raises(RetryLater, match=rf"another command has deleted files of .*{slow.folder}: prepare again"):
        switch_to(slow, manifest)
    assert rows(tmp_path) == ["c"]


def test_a_set_of_an_older_format_is_refused_and_replaced_by_the_next_generation(tmp_path: Path) -> None:
    old = Generation(str(tmp_path), 4, "v-4", None, False)
    switch_to(old, written(old, "old"))
    tree = json.loads((tmp_path / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps({**tree, "format_version": 1}))
    with pytest.raises(UserError, match="has format 1, this foodseg reads 2 and 3: prepare again"):
        read_manifest(str(tmp_path))
    begun = next_generation(str(tmp_path), True, IDENTITY)
    assert begun.number == 5
    switch_to(begun, written(begun, "new"))
    assert rows(tmp_path) == ["new"]


def test_a_damaged_list_is_replaced_by_a_generation_after_all_that_are_there(tmp_path: Path) -> None:
    first = next_generation(str(tmp_path), False, IDENTITY)
    switch_to(first, written(first, "old"))
    (tmp_path / "v-7").mkdir()
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(UserError, match="give --overwrite"):
        next_generation(str(tmp_path), False, IDENTITY)
    begun = next_generation(str(tmp_path), True, IDENTITY)
    assert begun.number == 8
    switch_to(begun, written(begun, "new"))
    assert rows(tmp_path) == ["new"]


def test_of_two_that_prepare_the_same_one_switches_and_the_other_deletes_nothing_of_it(tmp_path: Path) -> None:
    one, two = (next_generation(str(tmp_path), False, IDENTITY) for _ in range(2))
    assert one == two
    manifest = written(one, "same")
    assert written(two, "same") == manifest
    switch_to(one, manifest)
    storage.write_text(storage.join(two.work("audit"), "000007"), "of the slower one")
    with pytest.raises(UserError, match=r"has been prepared by another command meanwhile, and stays"):
        switch_to(two, manifest)
    assert rows(tmp_path) == ["same"] and not (tmp_path / two.folder / ".work").exists()


def test_with_overwrite_the_slower_of_two_that_prepare_the_same_is_content(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = next_generation(str(tmp_path), False, IDENTITY)
    switch_to(first, written(first, "old"))
    one, two = (next_generation(str(tmp_path), True, IDENTITY) for _ in range(2))
    manifest = written(one, "new")
    switch_to(one, manifest)
    switch_to(two, manifest)
    assert rows(tmp_path) == ["new"] and not caplog.records
    assert {path.name for path in tmp_path.iterdir()} == {"dataset.json", first.folder, one.folder}


@pytest.mark.parametrize("lost", [False, True])
def test_results_of_tasks_are_deleted_after_the_switch_and_where_shards_are_lost(tmp_path: Path, lost: bool) -> None:
    begun = next_generation(str(tmp_path), False, IDENTITY)
    manifest = written(begun, "new")
    storage.write_text(storage.join(begun.work("shards"), "train-00000"), "{}")
    if lost:
        storage.delete(storage.join(str(tmp_path), manifest.shards[0].path))
        with pytest.raises(RetryLater):
            switch_to(begun, manifest)
    else:
        switch_to(begun, manifest)
    assert not (tmp_path / begun.folder / ".work").exists()


def test_results_that_another_command_has_deleted(tmp_path: Path) -> None:
    """The slower of two that prepare the same finds the work folder gone, which the faster one has tidied up."""
    slower, faster = (next_generation(str(tmp_path), False, IDENTITY) for _ in range(2))
    with pytest.raises(RetryLater, match=r"another command has deleted files of .*v-1-.*: prepare again"):
        refuse_superseded(slower)
    switch_to(faster, written(faster, "done"))
    with pytest.raises(UserError, match="has been prepared by another command meanwhile, and stays as that one wrote"):
        refuse_superseded(slower)
    assert rows(tmp_path) == ["done"]
    again = next_generation(str(tmp_path), True, IDENTITY)
    with pytest.raises(RetryLater, match="prepare again"):
        refuse_superseded(again)


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_was_begun_of_another_source_is_deleted_unless_it_may_still_win(tmp_path: Path, overwrite: bool) -> None:
    begun = next_generation(str(tmp_path), overwrite, "fedcba9876543210")
    storage.write_bytes(storage.join(begun.work("content"), "000000"), b"images")
    done = next_generation(str(tmp_path), overwrite, IDENTITY)
    switch_to(done, written(done, "done"))
    assert storage.exists(begun.where) == overwrite and rows(tmp_path) == ["done"]
