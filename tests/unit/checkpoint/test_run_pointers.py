"""Which checkpoint is the best: of a region classifier that with the greatest macro F1, in training and on resume."""

import json
from pathlib import Path

import pytest

from foodseg import storage
from foodseg.checkpoint.history import Validation
from foodseg.checkpoint.run_layout import checkpoint_uri
from foodseg.checkpoint.run_pointers import restore_pointers, write_pointers

MIOU = {2: 0.2, 4: 0.5, 6: 0.3}


@pytest.mark.parametrize(
    ("macro_f1", "best"),
    [((0.6, 0.4, 0.5), 2), ((0.1, 0.4, 0.4), 6), ((None, None, None), 4)],  # as good as 4 and newer; a segmenter
)
def test_the_best_of_three(tmp_path: Path, macro_f1: tuple[float | None, ...], best: int) -> None:
    uri, history = str(tmp_path), []
    for (step, miou), f1 in zip(MIOU.items(), macro_f1, strict=True):
        storage.write_text(storage.join(checkpoint_uri(uri, step), "manifest.json"), "{}")
        history.append(Validation(step, miou, aacc=0.5, macc=0.5, miou_student=miou, macro_f1=f1))
        write_pointers(uri, step, history)
    found = json.loads((tmp_path / "best.json").read_text())
    assert (found["step"], found["miou"]) == (best, MIOU[best])
    (tmp_path / "best.json").unlink()
    restore_pointers(uri, 6, history)
    assert json.loads((tmp_path / "best.json").read_text()) == found
