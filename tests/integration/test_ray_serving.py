"""The endpoint on a real Ray Serve: batches, models, swaps, lost replicas. The same tests run in its throughput mode.

Images are tiny and checkpoints random; what an answer has to be is computed here, one image at a time.
"""

import asyncio
import base64
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
import ray
from ray import serve
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ServeDeploySchema

import foodseg
from foodseg.bench.memory import PeakMemory
from foodseg.checkpoint.checkpoint import load_checkpoint, load_model
from foodseg.checkpoint.run_layout import checkpoint_uri
from foodseg.checkpoint.run_pointers import prune_checkpoints
from foodseg.cluster.ray_internals.serve import connected_client, deploy, deployed_applications
from foodseg.data.image_io import decode_mask
from foodseg.errors import UserError
from foodseg.models.clip.clip import load_clip
from foodseg.predict.device import pick_device
from foodseg.predict.predictor import Predictor
from foodseg.serve.client import Client
from foodseg.serve.deploy_file import find_application, with_model
from foodseg.serve.http.masks import from_rle
from foodseg.serve.http.schema import ApiError, Rle
from foodseg.serve.ray_handles import RaySegmenter, ask
from foodseg.serve.ray_serving import ServedEndpoint, serving, swap
from foodseg.serve.served_model import checkpoint_sha
from tests.support.compare import assert_same_ids, close, scores_of
from tests.support.tiny_checkpoints import (
    free_port,
    meal,
    png,
    spoil,
    write_checkpoint,
    write_clip,
    write_open_vocabulary,
)

SIZES = [(96, 96), (72, 96), (96, 64), (40, 90), (180, 240)]


@dataclass(frozen=True)
class World:
    """checkpoints: a and b are served from the start, c is another one, bad is torn. clip: folder of a tiny one."""

    endpoint: ServedEndpoint
    checkpoints: dict[str, str]
    clip: str


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("checkpoints")
    uris = {name: write_checkpoint(folder / name, seed) for seed, name in enumerate(("a", "b", "c", "bad"), start=1)}
    spoil(uris["bad"])
    return uris


@pytest.fixture(scope="module")
def world(ray_cluster: None, checkpoints: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    clip = write_clip(tmp_path_factory.mktemp("clip"))
    models = [f"segmenter.models.{name}={checkpoints[name]}" for name in ("a", "b")]
    settings = [*models, f"http.port={free_port()}", "segmenter.max_batch=4", f"clip.model={clip}"]
    with serving(None, settings) as endpoint:
        yield World(endpoint, checkpoints, clip)


@dataclass(frozen=True)
class Expected:
    """What one checkpoint predicts for one image alone: (height, width) ids, and the scores behind them."""

    sha: str
    ids: np.ndarray
    scores: np.ndarray


def expected(checkpoint: str, images: dict[str, np.ndarray]) -> dict[str, Expected]:
    loaded = load_checkpoint(checkpoint)
    predictor = Predictor(load_model(loaded, "student"), loaded.config.eval, pick_device())
    answers = {}
    for name, image in images.items():
        (logits,) = predictor.logits([image], [image.shape[:2]])
        answers[name] = Expected(checkpoint_sha(checkpoint), logits.ids(), scores_of(logits))
    return answers


def meals() -> dict[str, np.ndarray]:
    return {f"{height}x{width}": meal(seed, height, width) for seed, (height, width) in enumerate(SIZES)}


def check(answer: dict[str, Any], right: Expected) -> None:
    assert answer["model"]["sha"] == right.sha
    ids = np.zeros_like(right.ids)
    for one in answer["ingredients"]:
        ids[from_rle(Rle(**one["mask"])).astype(bool)] = one["id"]
    assert_same_ids(ids, right.ids, right.scores)


def test_interleaved_sizes_and_models_answer_as_each_image_alone(world: World) -> None:
    images = meals()
    right = {name: expected(world.checkpoints[name], images) for name in ("a", "b")}
    encoded = {name: png(image) for name, image in images.items()}
    requests = [(model, name) for model in ("a", "b") for name in images] * 4
    np.random.default_rng(0).shuffle(requests)

    with httpx.Client(base_url=world.endpoint.url, timeout=60) as client, ThreadPoolExecutor(12) as pool:

        def ask(request: tuple[str, str]) -> dict[str, Any]:
            model, name = request
            response = client.post("v1/segment", files={"image": ("meal.png", encoded[name])}, data={"model": model})
            return dict(response.raise_for_status().json())

        answers = list(pool.map(ask, requests))
    for (model, name), answer in zip(requests, answers, strict=True):
        assert answer["model"]["name"] == model
        check(answer, right[model][name])


def test_what_is_not_configured_and_which_model_answers(world: World) -> None:
    with httpx.Client(base_url=world.endpoint.url, timeout=60) as client:
        response = client.post("v1/prompt", files={"image": ("meal.png", png(meal(1, 40, 40)))})
        assert (response.status_code, response.json()["error"]["code"]) == (503, "sam_not_configured")
        assert response.headers.get_list("x-request-id") == [response.headers["x-request-id"]]
        assert client.get("readyz").status_code == 200
        assert "text/html" in client.get("").headers["content-type"]
        assert client.post("v1/segment", content=b"x" * (33 * 2**20)).status_code == 413


def test_clip_scores_any_names(world: World) -> None:
    image, names = meal(3, 60, 80), ["rice", "fried tofu", "egg"]
    right = load_clip(world.clip, None, pick_device()).scores(image, names)
    with Client(world.endpoint.url) as client:
        for _ in range(2):  # the second time, the text embeddings of the names are cached
            answer = client.zero_shot(png(image), names)
            found = {one.name: one.score for one in answer.scores}
            assert found == close(dict(zip(names, right, strict=True)))
        assert answer.masks is None
        with pytest.raises(ApiError, match="Segment Anything is not configured"):
            client.zero_shot(png(image), names, masks=True)
        assert (client.models().clip, client.models().sam) == (True, False)


def test_a_checkpoint_that_cannot_be_loaded_is_a_503(world: World) -> None:
    async def ask() -> None:
        handle: Any = DeploymentHandle("Segmenter", "foodseg")
        await RaySegmenter(handle).segment(meal(1, 40, 40), "a@000000000000", None)

    with pytest.raises(ApiError, match="was ever served here") as error:
        asyncio.run(ask())
    assert (error.value.status, error.value.code) == (503, "backend_failed")


@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Slow:
    def __init__(self) -> None:
        self.left = 0

    async def wait(self) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            self.left += 1

    async def count(self) -> int:
        return self.left


def test_requests_of_clients_that_left_are_not_computed(world: World) -> None:
    serve.run(Slow.bind(), name="slow", route_prefix=None)  # type: ignore[attr-defined]

    async def leave() -> int:
        handle: Any = DeploymentHandle("Slow", "slow")
        assert await ask(handle, "count") == 0
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(ask(handle, "wait"), 1.0)
        for _ in range(100):
            left = int(await ask(handle, "count"))
            if left:
                break
            await asyncio.sleep(0.1)
        return left

    try:
        assert asyncio.run(leave()) == 1
    finally:
        serve.delete("slow")


def test_twelve_megapixels_add_little_memory(world: World) -> None:
    large = cv2.resize(meal(2, 300, 400), (4000, 3000))
    with httpx.Client(base_url=world.endpoint.url, timeout=120) as client:

        def ask(data: bytes, form: str) -> dict[str, Any]:
            response = client.post("v1/segment", files={"image": ("meal", data)}, data={"format": form})
            return dict(response.raise_for_status().json())

        with PeakMemory() as before:
            ask(png(meal(2, 300, 400)), "png")
        with PeakMemory() as after:
            for form in ("rle", "polygons", "png"):
                assert ask(png(large), form)["image"]["height"] == 3000
    assert after.together - before.together < 2**30


def test_each_request_writes_one_line_of_json(world: World) -> None:
    httpx.get(f"{world.endpoint.url}v1/models", headers={"X-Request-ID": "look-me-up"}, timeout=60)
    folder = Path(ray._private.worker._global_node.get_logs_dir_path())
    deadline = time.monotonic() + 30
    while True:
        texts = [path.read_text(errors="replace") for path in folder.glob("worker-*.err")]
        lines = [json.loads(line) for text in texts for line in text.splitlines() if "look-me-up" in line]
        if lines:
            break
        assert time.monotonic() < deadline
        time.sleep(0.2)
    (line,) = lines
    assert (line["message"], line["path"], line["status"]) == ("request", "/v1/models", 200)


@dataclass
class Load:
    """Steady requests from a few threads while the body of `with` runs; every answer is kept."""

    url: str
    data: bytes
    model: str
    threads: int = 3
    statuses: Counter[Any] = field(default_factory=Counter)
    answers: list[dict[str, Any]] = field(default_factory=list)

    def __enter__(self) -> "Load":
        self._done = threading.Event()
        self._pool = [threading.Thread(target=self._run) for _ in range(self.threads)]
        for thread in self._pool:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._pool:
            thread.join(timeout=90)

    def wait_for(self, answers: int) -> None:
        deadline = time.monotonic() + 60
        while len(self.answers) < answers and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(self.answers) >= answers

    def _run(self) -> None:
        with httpx.Client(base_url=self.url, timeout=90) as client:
            while not self._done.is_set():
                files = {"image": ("meal.png", self.data)}
                try:
                    response = client.post("v1/segment", files=files, data={"model": self.model})
                except httpx.HTTPError as error:
                    self.statuses[type(error).__name__] += 1
                    continue
                self.statuses[response.status_code] += 1
                if response.status_code == 200:
                    self.answers.append(response.json())


def state(world: World, model: str) -> dict[str, Any]:
    models = httpx.get(f"{world.endpoint.url}v1/models", timeout=60).json()["models"]
    return dict(next(one for one in models if one["name"] == model))


def wait_until(world: World, model: str, **values: Any) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while True:
        found = state(world, model)
        if all(found[key] == value for key, value in values.items()):
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def kill_segmenter() -> int:
    """Ends the process of the segmenter's only replica as `kill -9` does."""
    (actor,) = [actor for actor in ray.util.list_named_actors(all_namespaces=True) if "#Segmenter#" in actor["name"]]
    pid = ray.get(ray.get_actor(**actor).__ray_call__.remote(lambda _: os.getpid()))
    os.kill(pid, signal.SIGKILL)
    return int(pid)


def test_a_swap_under_load_loses_nothing_and_every_answer_is_of_the_checkpoint_that_it_names(world: World) -> None:
    image = meal(7, 72, 96)
    before, after = (expected(world.checkpoints[name], {"meal": image})["meal"] for name in ("b", "c"))
    with Load(world.endpoint.url, png(image), "b") as load:
        load.wait_for(5)
        result = swap("b", world.checkpoints["c"], address="auto")
        assert (result.before, result.sha) == (before.sha, after.sha)
        assert list(result.to_json()) == ["name", "checkpoint", "sha", "before", "seconds"]
        wait_until(world, "b", sha=after.sha)
        load.wait_for(len(load.answers) + 20)
    assert set(load.statuses) == {200}
    shas = [answer["model"]["sha"] for answer in load.answers]
    assert set(shas) == {before.sha, after.sha}
    assert set(shas[-5:]) == {after.sha}
    for answer in load.answers:
        check(answer, after if answer["model"]["sha"] == after.sha else before)
    assert state(world, "a")["error"] is None  # the other model was not touched


@pytest.mark.chaos
def test_a_replica_that_starts_after_newer_checkpoints_serves_the_pinned_one(world: World, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first, second = (write_checkpoint(Path(checkpoint_uri(str(run), step)), step) for step in (11, 12))
    before, after = checkpoint_sha(first), checkpoint_sha(second)
    swap("a", first, address="auto")
    wait_until(world, "a", sha=before)  # the ingress refreshes the states once a second
    prune_checkpoints(str(run), 12, keep=1)  # the run trains on, and keeps one checkpoint
    kill_segmenter()
    deadline = time.monotonic() + 60
    files = {"image": ("meal.png", png(meal(8, 72, 96)))}
    while True:
        answer = httpx.post(f"{world.endpoint.url}v1/segment", files=files, data={"model": "a"}, timeout=60)
        if answer.status_code == 200:
            break
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.2)
    assert answer.json()["model"]["sha"] == before != after
    assert state(world, "a")["error"] is None
    back = checkpoint_sha(world.checkpoints["a"])
    assert swap("a", world.checkpoints["a"], address="auto").sha == back
    wait_until(world, "a", sha=back)  # for the tests that follow


def test_a_bad_checkpoint_changes_nothing(world: World) -> None:
    before = state(world, "a")
    with pytest.raises(UserError, match="torn"):
        swap("a", world.checkpoints["bad"], address="auto")
    assert state(world, "a") == before and before["error"] is None


def test_an_open_vocabulary_model_labels_any_names(world: World, tmp_path: Path) -> None:
    """While another model answers; the real sentence encoder."""
    model = write_open_vocabulary(tmp_path / "open")
    image, names = meal(3, 96, 128), ["white rice", "kimchi|gimchi"]
    right = foodseg.load(model, device="cpu").with_names(names).predict(image).ids
    asked = {"names": ", ".join(names), "model": "b", "format": "png"}
    files = {"image": ("meal.png", png(image))}
    try:
        wait_until(world, "b", sha=swap("b", model, address="auto").sha)
        with Load(world.endpoint.url, png(meal(8, 72, 96)), "a") as load:
            load.wait_for(3)
            answer = httpx.post(f"{world.endpoint.url}v1/zero-shot", data=asked, files=files, timeout=120)
            load.wait_for(len(load.answers) + 3)
        assert set(load.statuses) == {200} and answer.status_code == 200, answer.text
        assert np.array_equal(decode_mask(base64.b64decode(answer.json()["label_map"])), right)
        assert len(answer.json()["scores"]) == 2  # by CLIP, which is served, too
        answer = httpx.post(f"{world.endpoint.url}v1/zero-shot", data={**asked, "model": "a"}, files=files, timeout=60)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "not_open_vocabulary")
    finally:
        swap("b", world.checkpoints["b"], address="auto")
        wait_until(world, "b", sha=checkpoint_sha(world.checkpoints["b"]))


@pytest.mark.chaos
def test_a_replica_that_starts_after_a_bad_checkpoint_serves_the_last_good_one(world: World) -> None:
    good = checkpoint_sha(world.checkpoints["a"])
    client = connected_client()
    assert client is not None
    with Load(world.endpoint.url, png(meal(8, 72, 96)), "a") as load:
        load.wait_for(5)
        # `swap` refuses it, but a deploy file may still name it
        application = find_application(deployed_applications(client), "the cluster")
        changed = with_model(application, "a", world.checkpoints["bad"])
        deploy(client, ServeDeploySchema.model_validate({"applications": [changed]}))
        found = wait_until(world, "a", wanted=world.checkpoints["bad"])
        assert (found["sha"], found["serving"]) == (good, world.checkpoints["a"])
        assert "torn" in found["error"]
        load.wait_for(len(load.answers) + 5)
        kill_segmenter()
        load.wait_for(len(load.answers) + 10)
    assert set(load.statuses) == {200}
    assert {answer["model"]["sha"] for answer in load.answers} == {good}
    found = wait_until(world, "a", sha=good)
    assert "torn" in found["error"]
    assert swap("a", world.checkpoints["a"], address="auto").sha == good
    assert wait_until(world, "a", error=None)["sha"] == good
