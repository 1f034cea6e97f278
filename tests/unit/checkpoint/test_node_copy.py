"""The files of a checkpoint on one machine: read once, verified once, never trusted after a change."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from foodseg import storage
from foodseg.checkpoint import node_copy
from foodseg.checkpoint.checkpoint import load_checkpoint
from foodseg.checkpoint.manifest import TornCheckpoint, read_manifest_file
from foodseg.checkpoint.node_copy import local_files, verify_checkpoint
from foodseg.errors import UserError
from tests.support.s3_proxy import S3Proxy
from tests.support.tiny_checkpoints import write_checkpoint

LOAD = "import sys; from foodseg.checkpoint.checkpoint import load_checkpoint; load_checkpoint(sys.argv[1])"


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder of this process and of those that it starts."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a checkpoint."""
    folder = Path(write_checkpoint(tmp_path_factory.mktemp("c"), seed=1))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def proxy(moto_endpoint: str) -> Iterator[S3Proxy]:
    with S3Proxy(moto_endpoint) as running:
        yield running


def put(bucket: str, name: str, files: dict[str, bytes], proxy: S3Proxy) -> str:
    """Writes a checkpoint past the proxy; returns its URI through the proxy."""
    for file, data in files.items():
        storage.write_bytes(storage.join(bucket, name, file), data)
    return f"{storage.join(bucket, name)}{proxy.query}"


def read(proxy: S3Proxy, uri: str) -> dict[str, int]:
    """Bytes by the name of the file, without the manifest."""
    found = proxy.below(storage.without_query(uri).removeprefix("s3://"))
    return {name: count for name, count in found.items() if name != "manifest.json"}


def sizes(files: dict[str, bytes]) -> dict[str, int]:
    """Bytes by the name of the file, without the manifest and what is empty."""
    return {name: len(data) for name, data in files.items() if data and name != "manifest.json"}


def test_the_processes_of_a_machine_read_a_checkpoint_once(bucket, proxy, files, temporary):
    uri = put(bucket, "c", files, proxy)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(verify_checkpoint, [uri] * 4))
    assert load_checkpoint(uri, with_trainer=True).step == 1
    subprocess.run([sys.executable, "-c", LOAD, uri], check=True)
    assert read(proxy, uri) == sizes(files)
    assert (temporary / f"foodseg-{os.getuid()}").stat().st_mode & 0o777 == 0o700


def test_without_the_trainer_its_file_is_not_read(bucket, proxy, files):
    uri = put(bucket, "c", files, proxy)
    load_checkpoint(uri)
    assert read(proxy, uri) == {name: size for name, size in sizes(files).items() if name != "trainer.pt"}


def test_a_copy_outlives_neither_its_object_nor_another_content(bucket, proxy, files, tmp_path):
    uri = put(bucket, "c", files, proxy)
    verify_checkpoint(uri)
    storage.delete(storage.join(bucket, "c", "trainer.pt"))
    with pytest.raises(TornCheckpoint, match=r"/c.* is torn: trainer\.pt is missing"):
        verify_checkpoint(uri)
    other = Path(write_checkpoint(tmp_path / "other", seed=2))
    put(bucket, "c", {path.name: path.read_bytes() for path in other.iterdir()}, proxy)
    assert load_checkpoint(uri).step == 2


def test_what_does_not_match_gets_no_copy(bucket, proxy, files, temporary):
    uri = put(bucket, "c", {**files, "trainer.pt": files["trainer.pt"][:-1] + b"?"}, proxy)
    for _ in range(2):
        with pytest.raises(TornCheckpoint, match=r"the content of trainer\.pt does not match its sha256"):
            verify_checkpoint(uri)
    assert not list(temporary.rglob("*trainer.pt"))


def test_what_a_killed_process_left_is_removed(bucket, proxy, files, temporary):
    uri = put(bucket, "c", files, proxy)
    verify_checkpoint(uri)
    (copy,) = temporary.rglob("config.json")
    copy.unlink()
    (copy.parent / ".config.json").write_text("{")
    verify_checkpoint(uri)
    assert sorted(path.name for path in copy.parent.iterdir()) == sorted(set(files) - {"manifest.json"})


def test_old_copies_go_but_not_one_in_use(bucket, proxy, files, temporary, monkeypatch):
    monkeypatch.setattr(node_copy, "KEEP", 1)
    first, second = (put(bucket, name, files, proxy) for name in ("a", "b"))
    with local_files(first, read_manifest_file(first)) as file:
        kept = file("config.json")
        verify_checkpoint(second)
        assert kept.read_bytes() == files["config.json"]
    verify_checkpoint(second)
    assert not kept.exists() and len(list(temporary.rglob("config.json"))) == 1


def test_a_folder_that_others_may_write_to_is_refused(bucket, proxy, files, temporary):
    uri = put(bucket, "c", files, proxy)
    folder = temporary / f"foodseg-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(UserError, match=r"foodseg-\d+ can be written by other users: remove it, or set TMPDIR"):
        verify_checkpoint(uri)
    folder.rmdir()
    folder.write_text("")
    with pytest.raises(UserError, match=r"cannot write .*foodseg-\d+.*; set TMPDIR to a folder that can be written"):
        verify_checkpoint(uri)


def test_no_space_for_a_copy(bucket, proxy, files, monkeypatch):
    uri = put(bucket, "c", files, proxy)
    monkeypatch.setattr(node_copy.shutil, "disk_usage", lambda folder: SimpleNamespace(free=7))
    with pytest.raises(UserError, match=r"no space for a copy of .* 0 MiB are free; set TMPDIR"):
        verify_checkpoint(uri)


# --- on a local disk ---


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are read as a whole, in order. They were written long ago."""
    names: list[str] = []
    plain = node_copy.entry_of
    monkeypatch.setattr(node_copy, "SETTLED_SECONDS", -1.0)
    monkeypatch.setattr(node_copy, "entry_of", lambda path: (names.append(path.name), plain(path))[1])
    return names


def local(folder: Path, files: dict[str, bytes]) -> str:
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return str(folder)


def test_local_files_are_read_where_they_are_and_verified_once(files, tmp_path, hashed, monkeypatch):
    uri = local(tmp_path / "c", files)
    for _ in range(2):
        verify_checkpoint(uri)
    with local_files(uri, read_manifest_file(uri)) as file:
        assert file("config.json") == tmp_path / "c" / "config.json"
    assert sorted([*hashed, "manifest.json"]) == sorted(files)
    (tmp_path / "c" / "config.json").write_bytes(files["config.json"])
    verify_checkpoint(uri)
    assert hashed[len(files) - 1 :] == ["config.json"]
    monkeypatch.setattr(node_copy, "NOTE_SECONDS", -1.0)
    verify_checkpoint(uri)
    assert len(hashed) == 1 + 2 * (len(files) - 1)


def test_a_file_that_has_just_changed_is_verified_again(files, tmp_path, hashed, monkeypatch):
    monkeypatch.setattr(node_copy, "SETTLED_SECONDS", 3600.0)
    uri = local(tmp_path / "c", files)
    for _ in range(2):
        verify_checkpoint(uri)
    assert len(hashed) == 2 * (len(files) - 1)


def test_without_a_temporary_folder_local_files_are_verified_each_time(files, tmp_path, temporary, hashed):
    (temporary / f"foodseg-{os.getuid()}").write_text("")
    uri = local(tmp_path / "c", files)
    for _ in range(2):
        verify_checkpoint(uri)
    assert len(hashed) == 2 * (len(files) - 1)


def test_a_name_in_a_manifest_is_no_path(files, tmp_path):
    manifest = json.loads(files["manifest.json"])
    manifest["files"]["../config.json"] = manifest["files"]["config.json"]
    uri = local(tmp_path / "c", {**files, "manifest.json": json.dumps(manifest).encode()})
    with pytest.raises(TornCheckpoint, match=r"manifest\.json is damaged"):
        verify_checkpoint(uri)
