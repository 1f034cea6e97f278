"""Stamps of files change with the files."""

import os
from pathlib import Path

import pytest

from foodseg import storage
from foodseg.errors import UserError


def test_stamps_on_a_disk(tmp_path: Path) -> None:
    assert storage.list_stamps(str(tmp_path / "nowhere")) == {}
    (tmp_path / "a.jpg").write_bytes(b"12345")
    (tmp_path / "folder").mkdir()
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere")
    os.utime(tmp_path / "a.jpg", ns=(1, 1_700_000_000_000_000_001))
    (tmp_path / "link").symlink_to(tmp_path / "a.jpg")
    stamps = storage.list_stamps(str(tmp_path))
    assert stamps["a.jpg"] == stamps["link"] == "5 1700000000000000001"
    assert stamps["lost"] == "missing" and set(stamps) == {"a.jpg", "folder", "lost", "link"}
    with pytest.raises(UserError, match=r"cannot list .*a.jpg: .*is a file, not a folder"):
        storage.list_stamps(str(tmp_path / "a.jpg"))


def test_stamps_in_s3(bucket: str) -> None:
    uri = f"{bucket}/stamps"
    assert storage.list_stamps(uri) == {}
    for name in ("a b+#.jpg", "same.jpg", "folder/below.jpg"):
        storage.write_bytes(storage.join(uri, name), b"12345")
    before = storage.list_stamps(uri)
    assert set(before) == {"a b+#.jpg", "same.jpg"}
    storage.write_bytes(storage.join(uri, "a b+#.jpg"), b"54321")
    after = storage.list_stamps(uri)
    assert after["same.jpg"] == before["same.jpg"] and after["a b+#.jpg"] != before["a b+#.jpg"]
