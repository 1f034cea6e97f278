"""Of several writers at once one alone succeeds, on a disk and on S3 (moto); a lost answer is not a lost write."""

import errno
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from botocore import exceptions

from foodseg import storage
from foodseg.errors import MissingFile, UserError
from foodseg.storage import local, s3_client


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "root") if request.param == "local" else request.getfixturevalue("bucket")


def at_once(write: Callable[[int], bool]) -> list[bool]:
    """What eight writers that begin together get."""
    barrier = threading.Barrier(8)

    def one(number: int) -> bool:
        barrier.wait()
        return write(number)

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(one, range(8)))


def test_create(root: str) -> None:
    uri = storage.join(root, "deep", "a b+#\u00fc")
    assert storage.create_bytes(uri, b"one") and not storage.create_bytes(uri, b"two")
    assert storage.read_bytes(uri) == b"one" and storage.list_names(storage.join(root, "deep")) == ["a b+#\u00fc"]
    storage.delete(uri)
    assert storage.create_bytes(uri, b"") and storage.read_bytes(uri) == b""


def test_of_writers_that_create_at_once_one_wins(root: str) -> None:
    uri = storage.join(root, "a")
    outcomes = at_once(lambda number: storage.create_bytes(uri, b"%d" % number))
    assert sum(outcomes) == 1 and storage.read_bytes(uri) == b"%d" % outcomes.index(True)
    assert storage.list_names(root) == ["a"]


def test_replace(root: str) -> None:
    uri = storage.join(root, "a")
    assert not storage.replace_bytes(uri, b"x", "no such version")
    storage.write_bytes(uri, b"one")
    data, version = storage.read_versioned(uri)
    assert data == b"one" and storage.replace_bytes(uri, b"two", version)
    assert not storage.replace_bytes(uri, b"three", version) and storage.read_bytes(uri) == b"two"
    storage.delete(uri)
    assert not storage.replace_bytes(uri, b"x", version) and not storage.exists(uri)
    with pytest.raises(MissingFile, match="no such file"):
        storage.read_versioned(uri)


def test_of_writers_that_replace_at_once_one_wins(root: str) -> None:
    uri = storage.join(root, "a")
    storage.write_bytes(uri, b"before")
    version = storage.read_versioned(uri)[1]
    outcomes = at_once(lambda number: storage.replace_bytes(uri, b"%d" % number, version))
    assert sum(outcomes) == 1 and storage.read_bytes(uri) == b"%d" % outcomes.index(True)


@pytest.mark.parametrize("there", [False, True])
def test_a_write_whose_answer_was_lost_is_not_taken_for_that_of_another(
    there: bool, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = storage.join(bucket, "a")
    if there:
        storage.write_bytes(uri, b"same")
    client = s3_client.target_of(uri).client
    put, lost = client.put_object, [True]

    def losing(**request: Any) -> Any:
        answer = put(**request)
        if lost.pop() if lost else False:
            raise exceptions.ReadTimeoutError(endpoint_url="http://there")
        return answer

    monkeypatch.setattr(client, "put_object", losing)
    monkeypatch.setattr(s3_client, "FIRST_DELAY", 0.0)
    assert storage.create_bytes(uri, b"same") is not there
    assert storage.read_bytes(uri) == b"same"


def test_a_conflict_is_tried_again(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = storage.join(bucket, "a")
    client = s3_client.target_of(uri).client
    put, conflicts = client.put_object, [True, True]

    def busy(**request: Any) -> Any:
        if conflicts:
            conflicts.pop()
            answer = {"Error": {"Code": "ConditionalRequestConflict"}, "ResponseMetadata": {"HTTPStatusCode": 409}}
            raise exceptions.ClientError(answer, "PutObject")
        return put(**request)

    monkeypatch.setattr(client, "put_object", busy)
    monkeypatch.setattr(s3_client, "FIRST_DELAY", 0.0)
    assert storage.create_bytes(uri, b"x") and storage.read_bytes(uri) == b"x"


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(local.os, "link", no_links)
    outcomes = at_once(lambda number: storage.create_bytes(str(tmp_path / "a"), b"%d" % number))
    assert sum(outcomes) == 1 and [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(local.os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*No space left"):
        storage.create_bytes(str(tmp_path / "a"), b"x")
    assert not list(tmp_path.iterdir())


def test_a_missing_bucket_is_named(bucket: str) -> None:
    with pytest.raises(UserError, match="cannot write s3://nowhere/k: there is no bucket nowhere"):
        storage.create_bytes("s3://nowhere/k", b"x")
