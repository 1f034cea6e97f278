"""Results of tasks are files: written once, read back, and never those of another plan."""

import logging
from pathlib import Path

import pytest

from foodseg import storage
from foodseg.cluster.shard_plan import (
    ShardPlan,
    ShardTask,
    create_or_take,
    one_row_each,
    plan_identity,
    stored_results,
)
from foodseg.errors import RetryLater, UserError


def number_of(inputs: str, data: bytes) -> int:
    name, _, number = data.decode().partition("=")
    if name != inputs:
        raise ValueError(f"it is about {name}")
    return int(number)


def plan(folder: Path, *names: str) -> ShardPlan[str]:
    return ShardPlan(str(folder), [ShardTask(f"task-{name}", name) for name in names])


def test_the_identity_depends_on_every_part_and_on_where_it_ends() -> None:
    made = [plan_identity(parts) for parts in (["ab", "c"], ["a", "bc"], ["abc"], ["c", "ab"], ["ab", "c", ""], [])]
    assert len(set(made)) == len(made) and all(len(one) == 64 for one in made)
    assert plan_identity(iter(["ab", "c"])) == made[0]
    assert plan_identity(["r\udcffis"]) != plan_identity(["ris"])  # a file name that is not UTF-8


def test_the_first_of_two_that_write_a_shard_wins_and_the_other_takes_it(tmp_path: Path) -> None:
    where = str(tmp_path / "folder" / "shard")
    assert create_or_take(where, b"first") == b"first"
    assert create_or_take(where, b"second") == b"first"
    assert storage.read_bytes(where) == b"first"


def test_a_shard_that_is_deleted_meanwhile_is_taken_from_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "create_bytes", lambda uri, data: False)
    assert create_or_take(str(tmp_path / "shard"), b"own") == b"own"


def test_stored_results_are_found_by_key(tmp_path: Path) -> None:
    a_to_c = plan(tmp_path, "a", "b", "c")
    assert stored_results(a_to_c, number_of) == {}
    for name, number in (("c", 3), ("a", 1), ("of another plan", 7)):
        create_or_take(str(tmp_path / f"task-{name}"), f"{name}={number}".encode())
    assert stored_results(a_to_c, number_of) == {0: 1, 2: 3}


def test_a_damaged_shard_is_deleted_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "task-a").write_bytes(b"a=1")
    (tmp_path / "task-b").write_bytes(b"x=1")
    with caplog.at_level(logging.WARNING):
        assert stored_results(plan(tmp_path, "a", "b"), number_of) == {0: 1}
    assert [path.name for path in tmp_path.iterdir()] == ["task-a"]
    assert "task-b is damaged (it is about x): it is deleted and made again" in caplog.text


def test_every_input_has_a_row_whatever_happens() -> None:
    def halves(number: int) -> str:
        return str(84 // number)

    def refused(number: int, error: Exception) -> str:
        return f"{number}: {type(error).__name__}"

    assert one_row_each([2, 0, 4], halves, refused) == ["42", "0: ZeroDivisionError", "21"]
    assert one_row_each([], halves, refused) == []


@pytest.mark.parametrize("error", [RetryLater("storage is away"), MemoryError(), KeyboardInterrupt()])
def test_what_is_no_fault_of_an_input_ends_the_task(error: BaseException) -> None:
    def fails(number: int) -> str:
        raise error

    with pytest.raises(type(error)):
        one_row_each([1], fails, lambda number, _: "refused")
    assert one_row_each([1], lambda _: "row", lambda number, _: "refused") == ["row"]


def test_a_fault_of_the_input_is_refused_even_if_it_is_one_of_the_user() -> None:
    def fails(number: int) -> str:
        raise UserError("not an image")

    assert one_row_each([1], fails, lambda number, error: f"{number}: {error}") == ["1: not an image"]
