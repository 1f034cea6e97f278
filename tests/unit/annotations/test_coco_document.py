"""A COCO file that the memory cannot hold is refused before it is parsed."""

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from foodseg.annotations.coco_document import PARSED, read_document
from foodseg.errors import UserError


def test_a_file_that_does_not_fit_into_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "train.json"
    path.write_text('{"images": [{"id": 1, "file_name": "a.jpg"}]}')
    for free, fits in ((PARSED * path.stat().st_size, True), (PARSED * path.stat().st_size - 1, False)):
        monkeypatch.setattr(psutil, "virtual_memory", lambda free=free: SimpleNamespace(available=free))
        if fits:
            assert len(read_document(str(tmp_path), "train.json", "train", "own").images) == 1
            continue
        with pytest.raises(UserError, match=r"train\.json has 0\.0 GiB, .* are free: split it into several files"):
            read_document(str(tmp_path), "train.json", "train", "own")
