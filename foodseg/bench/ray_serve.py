"""What the endpoint costs in addition to its own functions: request rate and latency, over HTTP and bare.

    result = bench_serve("serve_configs/local.yaml", images="meals/", seconds=20)

Bare and served take turns, so that other load on the machine slows both, and compute with equal threads; one request
at a time, they take turns image by image, with a Serve application that does nothing as the third. The load comes
from this process; what it costs is reported, as it is taken from the same cores.
"""

import asyncio
import os
import statistics
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import cv2
import httpx
import torch

from foodseg import storage
from foodseg.bench.bare_serve import BarePipeline, in_turns, load
from foodseg.bench.machine import machine_facts
from foodseg.bench.ray_noop import start_noop
from foodseg.bench.results import BenchModel, Clicks, Latency, Refined, ServeBench, ServeFigures, Sides
from foodseg.checkpoint.find import resolve_checkpoint
from foodseg.cluster.ray_internals.serve import call_in_replicas
from foodseg.cluster.ray_session import cores
from foodseg.config.serve import ServeConfig
from foodseg.demo.synthetic import draw_meal
from foodseg.errors import UserError
from foodseg.serve.deploy_file import SEGMENTER, find_application, read_deploy_file, wanted_models
from foodseg.serve.http.api_keys import ENVIRONMENT
from foodseg.serve.http.services import CODEC_THREADS
from foodseg.serve.ray_serving import serving
from foodseg.serve.served_model import ServedModel, checkpoint_sha

CONCURRENCY = (8, 16)  # in addition to one at a time; the last one to find the rate at saturation
ROUNDS = 3  # turns of bare and served
PROMPTS = 5  # images clicked on twice
MODES = (  # variables that change the figures
    "RAY_worker_niceness", "RAY_max_direct_call_object_size", "RAY_SERVE_THROUGHPUT_OPTIMIZED",
    "RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP", "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD",
)  # fmt: skip
_ENDINGS = (".jpg", ".jpeg", ".png", ".webp")


def bench_serve(
    path: str | None,
    overrides: Sequence[str] = (),
    *,
    images: str | None = None,
    seconds: float = 20.0,
    address: str | None = None,
) -> ServeBench:
    """Starts the endpoint, loads it from this process, and measures the same functions bare.

    Args:
        path, overrides, address: as `serving` takes them; the default model is measured.
        images: folder or URI of images; None = synthetic ones of 640 x 480.
        seconds: length of each measurement, of which there are two for each concurrency.

    Returns:
        By concurrency what `load` measured of bare and served, and the rest as `ServeFigures` says.

    Raises:
        UserError: as `serving`; no model, no image; API keys, which the load does not send; several replicas.
    """
    deploy = read_deploy_file(path, overrides)
    config = deploy.config
    if config.http.keys_file is not None or os.environ.get(ENVIRONMENT):
        raise UserError("bench serve sends no API key: leave http.keys_file and FOODSEG_API_KEYS out")
    encoded = _encoded(images)
    model = _model(deploy.tree["applications"], config)
    facts = machine_facts(cores())
    bare = BarePipeline(config, model, CODEC_THREADS)
    with serving(path, overrides, address) as endpoint:
        threads = _threads_of_segmenter()
        torch.set_num_threads(threads)
        noop = start_noop(model.card.longest_side or 512)
        figures = asyncio.run(_measured(endpoint.url, noop, config, bare, encoded, seconds))
    return ServeBench(
        figures=figures,
        threads=threads,
        model=BenchModel(model.card.name, model.card.sha, model.card.longest_side),
        images=len(encoded),
        mean_kb=statistics.mean(map(len, encoded)) / 1000,
        images_from=storage.redact(images or "synthetic"),
        # a cluster that runs already has variables of its own
        modes={} if address else {name: os.environ[name] for name in sorted(os.environ) if name in MODES},
        machine=facts,
    )


async def _measured(
    url: str, noop: str, config: ServeConfig, bare: BarePipeline, images: Sequence[bytes], seconds: float
) -> ServeFigures:
    limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
    async with httpx.AsyncClient(base_url=url, timeout=120.0, limits=limits) as client:
        # written once, as a form each time would be the client's work and not the endpoint's
        forms = {data: client.build_request("POST", "v1/segment", files={"image": ("meal", data)}) for data in images}
        bodies = {data: (form.read(), form.headers["Content-Type"]) for data, form in forms.items()}

        async def post(path: str, data: bytes) -> None:
            content, kind = bodies[data]
            (await client.post(path, content=content, headers={"Content-Type": kind})).raise_for_status()

        served, nothing = partial(post, "v1/segment"), partial(post, noop)
        for answer in (bare.answer, served, nothing):
            await load(answer, images, 2, min(seconds, 3.0))  # connections, kernels, caches
        one, times = await in_turns({"bare": bare.answer, "served": served, "noop": nothing}, images, 2 * seconds)
        turns: dict[int, list[tuple[Latency, Latency]]] = {count: [] for count in CONCURRENCY}
        cpu = wall = 0.0
        for _ in range(ROUNDS):
            for count in CONCURRENCY:
                without = await load(bare.answer, images, count, seconds / ROUNDS)
                cpu_before, began = time.process_time(), time.perf_counter()
                through = await load(served, images, count, seconds / ROUNDS)
                cpu += time.process_time() - cpu_before
                wall += time.perf_counter() - began
                turns[count].append((without, through))
        sides = {1: Sides(one["bare"], one["served"], one["noop"])} | {
            count: Sides(bare=_median([t[0] for t in pairs]), served=_median([t[1] for t in pairs]))
            for count, pairs in turns.items()
        }
        prompt = None if config.sam is None else await _prompts(client, images)
        refine = None if config.sam is None else await _refined(client, images, seconds)
    over = [1000 * (through - without) for without, through in zip(times["bare"], times["served"], strict=True)]
    rate = max(each.served.requests_per_second for each in sides.values())
    return ServeFigures(
        concurrency=sides,
        requests_per_second=rate,
        share_of_bare=rate / max(each.bare.requests_per_second for each in sides.values()),
        milliseconds_over_bare=statistics.median(over),
        milliseconds_of_noop=one["noop"].p50_ms,
        client_cpus=cpu / wall,
        prompt=prompt,
        refine=refine,
    )


def _median(measured: Sequence[Latency]) -> Latency:
    """Returns the median of each figure over the turns, and the number of requests in all."""
    return Latency(
        requests=sum(one.requests for one in measured),
        requests_per_second=statistics.median(one.requests_per_second for one in measured),
        p50_ms=statistics.median(one.p50_ms for one in measured),
        p90_ms=statistics.median(one.p90_ms for one in measured),
        p99_ms=statistics.median(one.p99_ms for one in measured),
    )


async def _prompts(client: httpx.AsyncClient, images: Sequence[bytes]) -> Clicks:
    """The first click on an image sends and embeds it; the second one names it."""
    first, second = [], []
    for data in images[:PROMPTS]:
        points = {"points": "[[10, 10, 1]]"}
        began = time.perf_counter()
        answer = await client.post("v1/prompt", files={"image": ("meal", data)}, data=points)
        first.append(1000 * (time.perf_counter() - began))
        public = answer.raise_for_status().json()["image"]["id"]
        began = time.perf_counter()
        (await client.post("v1/prompt", data={"image_id": public, **points})).raise_for_status()
        second.append(1000 * (time.perf_counter() - began))
    return Clicks(statistics.median(first), statistics.median(second))


async def _refined(client: httpx.AsyncClient, images: Sequence[bytes], seconds: float) -> Refined:
    refined: list[bool] = []

    async def ask(data: bytes) -> None:
        answer = await client.post("v1/segment", files={"image": ("meal", data)}, data={"refine": "vote"})
        refined.append(answer.raise_for_status().json()["refined"])

    measured = await load(ask, images, 1, seconds)
    return Refined(measured, sum(refined) / len(refined))


def _threads_of_segmenter() -> int:
    """Returns the threads of a forward pass in the replica, as torch reports it there."""
    threads = call_in_replicas(SEGMENTER, torch.get_num_threads)
    if len(threads) != 1:
        raise UserError(f"bench serve compares one replica of the {SEGMENTER} with one process, found {len(threads)}")
    return int(threads[0])


def _model(applications: Sequence[dict[str, Any]], config: ServeConfig) -> ServedModel:
    wanted = wanted_models(find_application(applications, "the deploy file"))
    if not wanted["models"]:
        raise UserError("bench serve needs a model: --set segmenter.models.meals=runs/a")
    name = wanted["default"] or next(iter(wanted["models"]))
    uri = resolve_checkpoint(wanted["models"][name])
    return ServedModel(name, uri, checkpoint_sha(uri), config.segmenter.canvases, config.segmenter.runtime)


def _encoded(images: str | None) -> list[bytes]:
    if images is None:
        return [_jpeg(seed) for seed in range(16)]
    names = [name for name in sorted(storage.list_names(images)) if name.lower().endswith(_ENDINGS)]
    if not names:
        raise UserError(f"--images: {storage.redact(images)} holds no {', '.join(_ENDINGS)}")
    return [storage.read_bytes(storage.join(images, name)) for name in names[:64]]


def _jpeg(seed: int) -> bytes:
    ok, data = cv2.imencode(".jpg", draw_meal(seed, 480, 640)[0][:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    assert ok
    return data.tobytes()
