"""The endpoint's own decode -> predict -> encode in one process, without HTTP and Ray: the baseline of `bench serve`.

The functions are those that the deployments call, with the same threads: one for forward passes, some for the codec.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from foodseg.bench.results import Latency
from foodseg.config.serve import ServeConfig
from foodseg.serve.batching import Batcher
from foodseg.serve.http.codec import read_image, segment_answer
from foodseg.serve.served_model import ServedModel


class BarePipeline:
    """Answers encoded images with the bytes that `/v1/segment` would send."""

    def __init__(self, config: ServeConfig, model: ServedModel, codec_threads: int) -> None:
        self._config = config
        self._model = model
        self._codec = ThreadPoolExecutor(codec_threads)
        self._batcher = Batcher(self._forward, config.segmenter.max_batch)

    async def answer(self, data: bytes) -> bytes:
        """Returns the answer of format=rle."""
        loop = asyncio.get_running_loop()
        image = await loop.run_in_executor(self._codec, read_image, data, self._config.image)
        height, width = image.image.shape[:2]
        labelled = await self._batcher.submit(self._model.canvas(height, width), (image.image, (height, width)))

        def encode() -> bytes:
            names, sent = self._model.card.classes, (image.height, image.width)
            return segment_answer(labelled, names, sent, "rle", request_id="bare").model_dump_json().encode()

        return await loop.run_in_executor(self._codec, encode)

    def _forward(self, _canvas: tuple[int, int], items: Sequence[Any]) -> Sequence[Any]:
        return self._model.label([image for image, _ in items], [size for _, size in items])


async def load(
    answer: Callable[[bytes], Awaitable[object]], images: Sequence[bytes], concurrency: int, seconds: float
) -> Latency:
    """Asks for one image after another, `concurrency` at a time, for `seconds`; every started one is waited for."""
    times: list[float] = []
    began = time.perf_counter()

    async def worker(first: int) -> None:
        number = first
        while time.perf_counter() - began < seconds:
            start = time.perf_counter()
            await answer(images[number % len(images)])
            times.append(time.perf_counter() - start)
            number += concurrency

    await asyncio.gather(*(worker(number) for number in range(concurrency)))
    return _figures(times, time.perf_counter() - began)


async def in_turns(
    answers: Mapping[str, Callable[[bytes], Awaitable[object]]], images: Sequence[bytes], seconds: float
) -> tuple[dict[str, Latency], dict[str, list[float]]]:
    """Sends one image to each of `answers`, then the next, one request at a time: a slow moment is slow for all.

    Returns:
        By name what `load` returns, and the seconds of each request, in the same order for all.
    """
    times: dict[str, list[float]] = {name: [] for name in answers}
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        image = images[len(times[next(iter(times))]) % len(images)]
        for name, answer in answers.items():
            start = time.perf_counter()
            await answer(image)
            times[name].append(time.perf_counter() - start)
    return {name: _figures(taken, sum(taken)) for name, taken in times.items()}, times


def _figures(times: Sequence[float], elapsed: float) -> Latency:
    p50, p90, p99 = (1000 * float(np.percentile(times, part)) for part in (50, 90, 99))
    return Latency(len(times), len(times) / elapsed, p50, p90, p99)
