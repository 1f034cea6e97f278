"""Every code block of README.md and docs/*.md works, in a small world and against an endpoint that knows its images.

Blocks of one page run in their order. Those that take seconds (Ray, training, the endpoint as a process, S3) run with
`make chaos`, the whole page from its first line on; `make test` runs the others, as if the commands had been run.
"""

import contextlib
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from foodseg.config import load_config
from foodseg.config.serve import ServeConfig, parse_serve_config
from foodseg.demo.synthetic import SYNTHETIC_CLASSES, draw_meal
from foodseg.serve.deploy_file import IMPORT_PATH
from foodseg.serve.http.api import make_api
from foodseg.serve.http.schema import RegionsAnswer, SegmentAnswer
from foodseg.serve.protocols import Backends
from foodseg.tune.sweep_files import read_ablation, read_sweep
from tests.support.doc_blocks import PAGES, REASONS, ROOT, RUN, SHOWN, TESTED, Block, blocks, runnable
from tests.support.doc_world import ADDRESS, DINNER, HEIGHT, LUNCH, WIDTH, Shell, make_doc_world
from tests.support.page_server import FakeClip, FakeRefine, FakeSam, FakeSegmenter, KnownImages, MealServer
from tests.support.s3_server import S3Server

# What the commands of a page make themselves, and what of an earlier page they stand on, beyond the usual world.
MADE_HERE = {
    "README.md": ("prepared", "runs"),
    "docs/index.md": ("prepared", "runs"),
    "docs/data.md": ("prepared",),
    "docs/train.md": ("runs",),
}
BEFORE = {
    "docs/evaluate.md": "foodseg data map prepared/meals to_foodseg103.tsv prepared/meals103 --classes foodseg103.tsv"
}
FAST = [page for page in PAGES if any(not block.slow for block in runnable(page))]
SLOW = [page for page in PAGES if any(block.slow for block in runnable(page))]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """The address of an endpoint that knows the right labels of lunch.jpg."""
    images = KnownImages(SYNTHETIC_CLASSES.names, [draw_meal(seed, HEIGHT, WIDTH) for seed in (LUNCH, DINNER)])
    segmenter, sam = FakeSegmenter(images), FakeSam(images)
    api = make_api(ServeConfig(), Backends(segmenter, sam, FakeClip(), FakeRefine()), secret=b"secret", keys=None)
    with MealServer(api, segmenter, sam) as server:
        yield server.url.rstrip("/")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    make_doc_world(folder)
    return folder


class Reader:
    """Does what a reader of a page does: runs its blocks one after the other, in one folder and one Python session."""

    def __init__(self, folder: Path, endpoint: str, shell: Shell) -> None:
        self.folder, self.endpoint, self.shell = folder, endpoint, shell
        self.session: dict[str, Any] = {"__name__": "__main__"}

    def does(self, block: Block) -> str:
        """Runs or checks a block; returns what it printed."""
        if block.language == "sh":
            printed = self.shell.run(block.text)
            assert '"error":{' not in printed.replace(" ", ""), block.where
            return printed
        if block.language == "python":
            with contextlib.chdir(self.folder), contextlib.redirect_stdout(io.StringIO()) as printed:
                code = compile(block.text.replace(ADDRESS, self.endpoint), block.where, "exec")
                exec(code, self.session)
            return printed.getvalue()
        with contextlib.chdir(self.folder):
            (check_yaml if block.language == "yaml" else check_json)(block)
        return ""


@pytest.fixture
def reader(whole: Path, endpoint: str, tmp_path: Path) -> Iterator[Reader]:
    folder = tmp_path / "world"
    shutil.copytree(whole, folder)
    with Shell(folder, endpoint) as shell:
        yield Reader(folder, endpoint, shell)


def check_yaml(block: Block) -> None:
    """A part of a configuration, a sweep, an ablation or a deploy file, without unknown keys or wrong values."""
    tree, path = yaml.safe_load(block.text), "block.yaml"
    Path(path).write_text(block.text)
    if "space" in tree:
        read_sweep(path, ["config.data.uri=prepared/meals"])
    elif "variants" in tree:
        read_ablation(path, ["config.data.uri=prepared/meals"])
    elif {"applications", "deployments"} & tree.keys():
        whole = tree if "applications" in tree else {"applications": [{"import_path": IMPORT_PATH, **tree}]}
        schema = ServeDeploySchema.model_validate(whole)
        parse_serve_config(schema.applications[0].args, path)
    else:
        load_config(path)


def check_json(block: Block) -> None:
    """The answer of `/v1/segment`, or of `/v1/classify-regions`, which has regions."""
    answer = json.loads(block.text)
    (RegionsAnswer if "regions" in answer else SegmentAnswer).model_validate(answer)


@pytest.mark.parametrize("page", FAST)
def test_page(page: str, reader: Reader) -> None:
    for block in runnable(page):
        if not block.slow:
            reader.does(block)


@pytest.mark.chaos
@pytest.mark.parametrize("page", SLOW)
def test_page_with_everything(page: str, reader: Reader, ray_cluster: None, s3: S3Server) -> None:
    s3.make_bucket("bucket")
    for made in MADE_HERE.get(page, ()):
        shutil.rmtree(reader.folder / made)
    if page in BEFORE:
        reader.shell.run(BEFORE[page])
    for block in runnable(page):
        reader.does(block)


@pytest.mark.parametrize("page", PAGES)
def test_what_is_not_run_says_why(page: str) -> None:
    for block in blocks(page):
        assert block.language in (*RUN, *SHOWN), f"{block.where}: a block of code names its language"
        if block.not_run is not None and block.not_run.startswith(TESTED):
            assert (ROOT / block.not_run.removeprefix(TESTED)).is_file(), block.where
        elif block.not_run is not None:
            assert block.not_run in REASONS, block.where


def test_most_is_run() -> None:
    ran = [block for page in PAGES for block in runnable(page)]
    left = [block.where for page in PAGES for block in blocks(page) if block.not_run is not None]
    assert len(ran) >= 45 and len(left) <= 16, left
    assert sum(block.text.count("curl ") for block in ran) >= 15


def test_the_png_of_the_endpoint_page_is_a_label_map(reader: Reader) -> None:
    (block,) = (block for block in runnable("docs/serve.md") if "lunch.ids.png" in block.text)
    reader.does(block)
    ids = cv2.imread(str(reader.folder / "lunch.ids.png"), cv2.IMREAD_UNCHANGED)
    assert np.mean(ids == draw_meal(LUNCH, HEIGHT, WIDTH)[1]) > 0.99


def test_a_block_that_fails_is_noticed(reader: Reader) -> None:
    for language, text in (("sh", "foodseg predict runs/none lunch.jpg --out out\n"), ("yaml", "optim: {lrr: 1}\n")):
        with pytest.raises((AssertionError, ValueError), match=r"no checkpoint|runs/none|lrr"):
            reader.does(Block("here", 1, language, text, None))
    with pytest.raises(AssertionError, match="exit code"):
        reader.does(Block("here", 1, "sh", f"curl -sf {ADDRESS}/v1/nothing\n", None))
