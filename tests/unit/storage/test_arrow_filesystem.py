"""What Ray asks of a pyarrow file system, over storage (moto); nothing secret of the environment is pickled."""

import pickle
from pathlib import Path

import pyarrow.fs
import pytest

from foodseg import storage
from foodseg.storage.arrow_filesystem import ray_storage


def test_a_disk_needs_none(tmp_path: Path) -> None:
    assert ray_storage(str(tmp_path / "a b#")) == (None, str(tmp_path / "a b#"))


def test_files_and_folders(bucket: str, tmp_path: Path) -> None:
    filesystem, root = ray_storage(storage.join(bucket, "my run#1 50%"))
    assert filesystem is not None and root == f"{bucket.removeprefix('s3://')}/my run#1 50%"
    filesystem = pickle.loads(pickle.dumps(filesystem))
    filesystem.create_dir(f"{root}/deep/er")
    with filesystem.open_output_stream(f"{root}/deep/er/a.json") as stream:
        stream.write(b"one")
        stream.write(b" two")
    where = storage.join(bucket, "my run#1 50%", "deep/er/a.json")
    assert storage.read_bytes(where) == b"one two"
    with filesystem.open_input_file(f"{root}/deep/er/a.json") as stream:
        assert stream.read() == b"one two"
    with filesystem.open_input_stream(f"{root}/deep/er/a.json") as stream:
        assert stream.read(3) == b"one"
    file, folder, nothing = filesystem.get_file_info([f"{root}/deep/er/a.json", f"{root}/deep", f"{root}/no"])
    kinds = pyarrow.fs.FileType
    assert (file.type, file.size, folder.type, nothing.type) == (kinds.File, 7, kinds.Directory, kinds.NotFound)
    with pytest.raises(FileNotFoundError):
        filesystem.open_input_file(f"{root}/none")

    def listed(recursive: bool) -> list[tuple[str, bool]]:
        found = filesystem.get_file_info(pyarrow.fs.FileSelector(root, recursive=recursive))
        return sorted((info.path.removeprefix(f"{root}/"), info.is_file) for info in found)

    assert listed(False) == [("deep", False)]
    assert listed(True) == [("deep", False), ("deep/er", False), ("deep/er/a.json", True)]
    pyarrow.fs.copy_files(
        f"{root}/deep", str(tmp_path), source_filesystem=filesystem, destination_filesystem=pyarrow.fs.LocalFileSystem()
    )
    assert (tmp_path / "er" / "a.json").read_bytes() == b"one two"
    filesystem.delete_dir(f"{root}/deep")
    assert filesystem.get_file_info(root).type == kinds.NotFound
    with pytest.raises(FileNotFoundError):
        filesystem.get_file_info(pyarrow.fs.FileSelector(root))


def test_no_secret_is_pickled_but_that_of_the_uri(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden-secret")
    storage.write_text(storage.join(bucket, "a"), "x")
    plain, root = ray_storage(f"{bucket}?region=us-east-1")
    assert plain is not None and plain.get_file_info(f"{root}/a").is_file
    assert b"hidden-secret" not in pickle.dumps(plain)
    own, path = ray_storage("s3://key:of-the-uri@food/p?region=eu-1")
    assert path == "food/p" and b"of-the-uri" in pickle.dumps(own)
    assert own == pickle.loads(pickle.dumps(own)) != plain
