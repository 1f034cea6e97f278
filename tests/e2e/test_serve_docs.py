"""Every curl line and the Python example of README.md and docs/serve.md, exactly as written except for the address."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from foodseg.config.serve import ServeConfig
from foodseg.demo.synthetic import SYNTHETIC_CLASSES, draw_meal
from foodseg.serve.http.api import make_api
from foodseg.serve.protocols import Backends
from tests.support.page_server import FakeClip, FakeRefine, FakeSam, FakeSegmenter, KnownImages, MealServer

ROOT = Path(__file__).resolve().parents[2]
TEXT = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/serve.md"))
ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of an endpoint that knows lunch.jpg, and the folder where that lies."""
    folder = tmp_path_factory.mktemp("kitchen")
    image, mask = draw_meal(5, 240, 320)
    cv2.imwrite(str(folder / "lunch.jpg"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    images = KnownImages(SYNTHETIC_CLASSES.names, [(image, mask)])
    segmenter, sam = FakeSegmenter(images), FakeSam(images)
    api = make_api(ServeConfig(), Backends(segmenter, sam, FakeClip(), FakeRefine()), secret=b"secret", keys=None)
    with MealServer(api, segmenter, sam) as server:
        yield server.url.rstrip("/"), folder


def _blocks(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    return [block for block in found if ADDRESS in block and "foodseg serve" not in block]


@pytest.mark.parametrize("block", _blocks("sh"))
def test_curl(kitchen: tuple[str, Path], block: str) -> None:
    url, folder = kitchen
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.replace(ADDRESS, url)],
        cwd=folder, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert '"error":{' not in done.stdout.replace(" ", "")
    for answer in re.findall(r"^\{.*\}$", done.stdout.replace("}{", "}\n{"), re.MULTILINE):
        json.loads(answer)


def test_there_is_something_to_test() -> None:
    assert sum(block.count("curl ") for block in _blocks("sh")) >= 15
    assert len(_blocks("python")) == 1


def test_what_the_examples_leave_behind(kitchen: tuple[str, Path]) -> None:
    url, folder = kitchen
    (block,) = (block for block in _blocks("sh") if "label_map" in block)
    subprocess.run(["bash", "-c", block.replace(ADDRESS, url)], cwd=folder, check=True, timeout=60)
    ids = cv2.imread(str(folder / "lunch.ids.png"), cv2.IMREAD_UNCHANGED)
    assert np.mean(ids == draw_meal(5, 240, 320)[1]) > 0.99


def test_python(kitchen: tuple[str, Path]) -> None:
    url, folder = kitchen
    code = _blocks("python")[0].replace(ADDRESS, url) + "\n    print(ids.shape, best.score)\n"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("(240, 320)")
