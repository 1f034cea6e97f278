"""Files in a folder that another process deletes, or writes into, at the same moment."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from foodseg import storage
from foodseg.errors import UserError
from foodseg.storage import local


@pytest.mark.parametrize("times", [1, local.TRIES - 1, local.TRIES])
def test_a_folder_deleted_while_a_file_is_created_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    link, deleted = os.link, []

    def delete_first(*paths: Path) -> None:
        if len(deleted) < times:
            deleted.append(shutil.rmtree(tmp_path / "work"))
        link(*paths)

    monkeypatch.setattr(os, "link", delete_first)
    if times < local.TRIES:
        assert storage.create_bytes(str(tmp_path / "work" / "a"), b"x")
        assert storage.read_bytes(str(tmp_path / "work" / "a")) == b"x"
    else:
        with pytest.raises(UserError, match=r"^cannot write .*/work/a: no such file$"):
            storage.create_bytes(str(tmp_path / "work" / "a"), b"x")
    assert len(deleted) == times


@pytest.mark.parametrize("other", ["creates", "deletes"])
def test_a_folder_that_another_process_changes_while_it_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    work, rmdir = tmp_path / "work", os.rmdir
    storage.write_text(str(work / "audit" / "a"), "x")
    meetings = iter(range(1))

    def meet(*where: Any, **options: Any) -> None:
        if next(meetings, None) is not None:
            if other == "deletes":
                shutil.rmtree(work / "audit")
            else:
                (work / "audit" / "b").write_text("x")
        rmdir(*where, **options)

    monkeypatch.setattr(os, "rmdir", meet)
    storage.delete(str(work))
    assert next(meetings, None) is None and not work.exists()
