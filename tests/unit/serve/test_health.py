"""When the tiny forward pass runs, and what makes a replica unhealthy."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foodseg.serve.batching import Batcher
from foodseg.serve.health import Health
from foodseg.serve.http.schema import ApiError
from foodseg.serve.ray_clip import ClipDeployment
from foodseg.serve.ray_sam import SamDeployment
from foodseg.serve.ray_segmenter import SegmenterDeployment
from foodseg.serve.served_model import ServedModel, checkpoint_sha
from tests.support.tiny_checkpoints import write_checkpoint


class Model:
    def __init__(self) -> None:
        self.asked = 0
        self.error: Exception | None = None
        self.stuck = False

    async def forward(self) -> None:
        self.asked += 1
        if self.stuck:
            await asyncio.sleep(60)
        if self.error is not None:
            raise self.error


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_an_idle_model_is_probed_once_in_a_while_and_a_busy_one_never() -> None:
    model, clock = Model(), Clock()
    health = Health(model.forward, every=60, clock=clock)

    async def run() -> None:
        for _ in range(5):  # it was warmed up
            await health.check()
        assert model.asked == 0
        clock.now += 61
        for _ in range(5):
            await health.check()
        assert model.asked == 1
        for _ in range(10):
            clock.now += 50
            health.worked()
            await health.check()
        assert model.asked == 1

    asyncio.run(run())


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: device-side assert"), MemoryError(), ValueError("shape")])
def test_a_broken_model_is_reported_at_once_and_every_time(error: Exception) -> None:
    model = Model()
    health = Health(model.forward)
    model.error = error

    async def run() -> None:
        await health.check()
        health.failed()
        for _ in range(3):
            with pytest.raises(RuntimeError, match="the model is broken"):
                await health.check()
        model.error = None
        await health.check()  # it was the image's fault

    asyncio.run(run())


def test_a_stuck_model_is_broken_and_a_slow_one_is_not() -> None:
    model, clock = Model(), Clock()
    health = Health(model.forward, limit=0.05, clock=clock)
    model.stuck = True

    async def run() -> None:
        health.failed()
        with pytest.raises(RuntimeError, match="has answered nothing"):
            await health.check()

        async def answer() -> None:
            await asyncio.sleep(0.02)
            clock.now += 1
            health.worked()

        task = asyncio.create_task(answer())
        health.failed()
        await health.check()
        await task
        assert model.asked == 1  # one probe at a time

    asyncio.run(run())


def test_the_health_check_of_a_checkpoint_finds_what_breaks_it(tmp_path: Path) -> None:
    uri = write_checkpoint(tmp_path / "a", seed=1)
    model = ServedModel("meals", uri, checkpoint_sha(uri))
    seen: list[tuple[int, ...]] = []
    network = model._loaded.unconditioned._model  # type: ignore[union-attr]
    network.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape)))
    model.check()
    assert seen and max(seen[0][-2:]) <= 96  # tiny
    with torch.no_grad():
        network.classifier.weight.fill_(float("nan"))
    with pytest.raises(RuntimeError, match="not finite"):
        model.check()
    network.classifier = None
    with pytest.raises((RuntimeError, TypeError)):
        model.check()
    model.release()
    model.check()  # its weights are released: nothing can be broken


def deployed(deployment: Any, **parts: Any) -> Any:
    """A replica of a deployment as it is after its constructor, but without Ray and with models of the test."""
    kind = deployment.func_or_class
    replica = kind.__new__(kind)
    vars(replica).update(parts)
    replica._health = Health(replica._probe, every=0.0)
    return replica


class Checked:
    """A model of any of the deployments."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.error: Exception | None = None

    def check(self, encoder: bool = False) -> None:
        self.asked.append(encoder)
        if self.error is not None:
            raise self.error

    def scores(self, image: np.ndarray, names: Sequence[str]) -> list[float]:
        self.check()
        return [1.0] * len(names)


def test_each_deployment_fails_its_check_where_its_model_is_broken() -> None:
    async def run() -> None:
        for name in ("segmenter", "sam", "clip"):
            model = Checked()
            if name == "segmenter":
                replica = deployed(SegmenterDeployment, _serving={"a": model, "b": Checked()})
                replica._batcher = Batcher(replica._forward, 8)
            elif name == "sam":
                threads = {part: ThreadPoolExecutor(1) for part in ("_slow", "_quick")}
                replica = deployed(SamDeployment, _sam=model, _encoder_failed=False, **threads)
            else:
                replica = deployed(ClipDeployment, _clip=model, _thread=ThreadPoolExecutor(1))
            await replica.check_health()
            assert model.asked == [False], name
            model.error = RuntimeError("CUDA error: an illegal memory access was encountered")
            with pytest.raises(RuntimeError, match=r"the model is broken.*illegal memory access"):
                await replica.check_health()
            model.error = None
            await replica.check_health()

    asyncio.run(run())


def test_an_encoder_that_failed_at_an_image_is_probed_by_the_next_check() -> None:
    model = Checked()
    threads = {part: ThreadPoolExecutor(1) for part in ("_slow", "_quick")}
    replica = deployed(SamDeployment, _sam=model, _encoder_failed=False, **threads)

    def fail(error: Exception) -> None:
        raise error

    async def run() -> None:
        with pytest.raises(ApiError):  # the image's fault, known as such
            await replica._watched(replica._slow, fail, ApiError(422, "unsuitable_image", "too narrow"))
        await replica.check_health()
        assert model.asked == [False]
        with pytest.raises(ValueError, match="boom"):
            await replica._watched(replica._slow, fail, ValueError("boom"))
        await replica.check_health()
        assert model.asked == [False, False, True]
        await replica.check_health()
        assert model.asked == [False, False, True, False]

    asyncio.run(run())
