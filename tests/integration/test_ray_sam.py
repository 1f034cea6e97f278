"""Segment Anything on a real Ray Serve, with the published MobileSAM and a tiny CLIP: prompts by id, the vote."""

import asyncio
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import numpy as np
import pytest
import ray
import yaml

from foodseg.config.serve import parse_serve_config
from foodseg.models.clip.clip import ClipModel, load_clip
from foodseg.models.sam.sam import MaskGrid, SamModel, load_sam
from foodseg.predict.device import pick_device
from foodseg.serve.client import Client
from foodseg.serve.deploy_file import IMPORT_PATH
from foodseg.serve.http.masks import from_rle
from foodseg.serve.http.schema import Rle
from foodseg.serve.protocols import SamMask
from foodseg.serve.ray_serving import ServedEndpoint, serving
from foodseg.serve.refine import vote
from foodseg.serve.served_model import ServedModel, checkpoint_sha
from tests.support.compare import close
from tests.support.tiny_checkpoints import free_port, meal, png, write_checkpoint, write_clip

pytestmark = pytest.mark.chaos

GRID = MaskGrid(points_per_side=3, points_per_batch=9)  # a click of the grid takes a tenth of a second
IMAGES = 3


@pytest.fixture(scope="module")
def weights(shared: Path) -> str:
    path = shared / "weights" / "mobile_sam.safetensors"
    if not path.exists():
        pytest.skip(f"shared data missing: {path}")
    return str(path)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_checkpoint(tmp_path_factory.mktemp("sam") / "a", seed=1)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def endpoint(
    ray_cluster: None, weights: str, checkpoint: str, clip_folder: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServedEndpoint]:
    args = {
        "http": {"port": free_port()},
        "segmenter": {"models": {"meals": checkpoint}},
        "sam": {"weights": weights, "points_per_side": GRID.points_per_side, "points_per_batch": GRID.points_per_batch},
        "clip": {"model": clip_folder},
    }
    deployments = [{"name": "Sam", "num_replicas": 2}]
    file = tmp_path_factory.mktemp("deploy") / "serve.yaml"
    application = {"import_path": IMPORT_PATH, "args": args, "deployments": deployments}
    file.write_text(yaml.safe_dump({"applications": [application]}))
    with serving(str(file)) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def sam(weights: str) -> SamModel:
    return load_sam("vit_t", weights, pick_device(), GRID)


@pytest.fixture(scope="module")
def clip(clip_folder: str) -> ClipModel:
    return load_clip(clip_folder, None, pick_device())


def sample_images() -> list[np.ndarray]:
    return [meal(seed, 120, 160) for seed in range(IMAGES)]


def kill_one_sam() -> None:
    actors = [one for one in ray.util.list_named_actors(all_namespaces=True) if "#Sam#" in one["name"]]
    assert len(actors) == 2
    os.kill(ray.get(ray.get_actor(**actors[0]).__ray_call__.remote(lambda _: os.getpid())), signal.SIGKILL)


def test_prompts_by_id_find_the_replica(endpoint: ServedEndpoint, sam: SamModel) -> None:
    images = sample_images()
    clicks = {"points": "[[80, 60, 1]]"}
    with httpx.Client(base_url=endpoint.url, timeout=120) as client:
        firsts = [
            client.post("v1/prompt", files={"image": ("meal.png", png(image))}, data=clicks).raise_for_status().json()
            for image in images
        ]
        for _ in range(2):  # if they went to either replica at random, half of these would be 404 image_expired
            for first in firsts:
                second = client.post("v1/prompt", data={"image_id": first["image"]["id"], **clicks})
                assert second.raise_for_status().json()["masks"] == first["masks"]
    for image, first in zip(images, firsts, strict=True):
        masks = sam.prompt(sam.embed(image), [(80.0, 60.0, 1)])
        assert len(first["masks"]) == len(masks) == 3
        for found, mask in zip(first["masks"], masks, strict=True):
            assert found["score"] == close(mask.score)
            same = from_rle(Rle(**found["mask"])).astype(bool) == mask.mask
            assert same.mean() > 0.999  # the last bits of a sum depend on the threads


def test_images_of_a_lost_replica_are_sent_again(endpoint: ServedEndpoint) -> None:
    images = sample_images()
    with Client(endpoint.url) as client:
        known = [client.prompt(png(image), points=[(80, 60, 1)]) for image in images]
        kill_one_sam()
        healed = [client.prompt(png(image), points=[(80, 60, 1)]) for image in images]
    for before, after in zip(known, healed, strict=True):
        assert [mask.pixels for mask in after.masks] == pytest.approx([mask.pixels for mask in before.masks], rel=0.01)


class ClipInProcess:
    """What the deployment of CLIP does, in this process."""

    def __init__(self, model: ClipModel) -> None:
        self._model = model

    async def mask_scores(
        self, image: np.ndarray, masks: Sequence[np.ndarray], names: Sequence[str]
    ) -> list[list[float]]:
        return self._model.mask_scores(image, masks, names)


class InProcess:
    """What the deployment does, in this process."""

    def __init__(self, model: SamModel) -> None:
        self._model = model

    async def masks(self, image: np.ndarray, seconds: float) -> Sequence[SamMask]:
        return [SamMask(one.mask, one.score) for one in self._model.automatic(self._model.embed(image))]


def test_regions_come_from_sam_and_their_scores_from_clip(
    endpoint: ServedEndpoint, sam: SamModel, clip: ClipModel
) -> None:
    image, names = sample_images()[1], ["rice", "egg", "tofu"]
    masks = [one.mask for one in sam.automatic(sam.embed(image))]
    rows = clip.mask_scores(image, masks, names)
    with Client(endpoint.url) as client:
        answer = client.zero_shot(png(image), names, masks=True)
    assert answer.masks is not None and len(answer.masks) == len(masks) > 0
    for found, mask, row in zip(answer.masks, masks, rows, strict=True):
        assert isinstance(found.mask, Rle)
        assert (from_rle(found.mask).astype(bool) == mask).mean() > 0.999
        assert {one.name: one.score for one in found.scores} == pytest.approx(
            dict(zip(names, row, strict=True)), abs=0.02
        )


def test_refine_is_the_vote_of_sams_masks(
    endpoint: ServedEndpoint, sam: SamModel, clip: ClipModel, checkpoint: str
) -> None:
    image = sample_images()[0]
    model = ServedModel("meals", checkpoint, checkpoint_sha(checkpoint))
    (labelled,) = model.label([image], [(120, 160)], confidence_below=0.5)
    config = parse_serve_config({}).refine
    right = asyncio.run(vote(image, labelled, model.card.classes, config, InProcess(sam), ClipInProcess(clip)))  # type: ignore[arg-type]
    with Client(endpoint.url) as client:
        answer = client.segment(png(image), refine="sam")
    assert answer.refined
    labels = np.zeros((120, 160), np.uint8)
    for one in answer.ingredients:
        assert isinstance(one.mask, Rle)
        labels[from_rle(one.mask).astype(bool)] = one.id
    assert (labels == right.ids).mean() > 0.99
    assert (labels != labelled.ids).any()
