"""What does a client notice when replicas are killed, replaced and scaled? `python -m experiments endpoint_faults`."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from experiments.endpoint_faults.steady_load import Ask, SteadyLoad, ask_prompt, ask_segment
from experiments.endpoint_process import Endpoint, replaced, settled
from experiments.foodmix_runs import train_plain
from experiments.item_queue import Bench, Item, ItemError, say
from experiments.served_meals import broken_copy, deploy_tree, deployment, meals
from foodseg.checkpoint.find import resolve_checkpoint
from foodseg.serve.served_model import checkpoint_sha

MEALS = 16  # images that a load goes through
CLIENTS = 4  # of a load; more than one replica on two cores answers at once
FAST_SCALING = {
    "min_replicas": 1, "max_replicas": 3, "target_ongoing_requests": 1, "look_back_period_s": 3, "upscale_delay_s": 1,
    "downscale_delay_s": 5,
}  # fmt: skip
FAST_METRICS = {"RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1"}


def autoscaling(bench: Bench, seconds: float = 40.0, rounds: int = 2) -> dict[str, Any]:
    """One replica, three under a load, one again when it has gone; `seconds` of load with three. No failed request."""
    tree = deploy_tree(bench, train_plain(bench, 0))
    deployment(tree, "Segmenter")["autoscaling_config"] = FAST_SCALING
    seen: list[dict[str, Any]] = []
    loads: list[dict[str, Any]] = []
    with Endpoint(bench, "autoscaling", tree, FAST_METRICS) as endpoint:
        ask, began = ask_segment(meals(bench, MEALS)), time.monotonic()

        def note() -> None:
            at, count = round(time.monotonic() - began, 1), len(endpoint.replicas("Segmenter"))
            seen.append({"seconds": at, "replicas": count})
            say(f"replicas: {seen[-1]}")

        settled(endpoint, "Segmenter", 1)
        note()
        # a slow client runs all the time, so that requests lost while replicas stop are seen
        with SteadyLoad(endpoint.url, ask, images=MEALS, threads=1, pause=2.0) as quiet:
            for _ in range(rounds):
                with SteadyLoad(endpoint.url, ask, images=MEALS, threads=2 * CLIENTS) as clients:
                    settled(endpoint, "Segmenter", 3)
                    note()
                    time.sleep(seconds)
                    answering = _answering_replicas(endpoint)
                loads.append({**clients.figures(), "lost": clients.lost(), "replicas_that_answered": answering})
                settled(endpoint, "Segmenter", 1)
                note()
    lost = quiet.lost() + sum(one["lost"] for one in loads)
    if lost:
        raise ItemError(f"{lost} requests failed: {[*loads, quiet.figures()]}")
    return {"replicas": seen, "loads": loads, "between": quiet.figures(), "lost": lost}


def load(bench: Bench, seconds: float = 120.0) -> dict[str, Any]:
    """Faults while clients keep sending requests, `seconds` each; only a lost ingress may lose requests."""
    run, other = train_plain(bench, 0), train_plain(bench, 1)
    broken = broken_copy(bench, run)
    images = meals(bench, MEALS)
    figures: dict[str, Any] = {}
    with Endpoint(bench, "load", deploy_tree(bench, run)) as endpoint:

        def swap(checkpoint: Path, *, refused: bool = False) -> None:
            words = ("serve", "swap", "meals", checkpoint, "--address", endpoint.ray)
            try:
                bench.foodseg(*words)
            except ItemError as error:
                if not refused or "exit code 2" not in str(error):
                    raise
            else:
                if refused:
                    raise ItemError("foodseg serve swap has taken a broken checkpoint")

        def broken_then_killed() -> None:
            swap(broken, refused=True)
            bench.python("-m", "experiments.endpoint_faults.redeploy", endpoint.ray, "--model", "meals", broken)
            _wait_for_error(endpoint)
            endpoint.kill("Segmenter")

        def redeployed() -> None:
            before = _replicas(endpoint)
            bench.python(
                "-m", "experiments.endpoint_faults.redeploy", endpoint.ray, "--args", "http.retry_after_seconds=2"
            )
            replaced(endpoint, before)

        scenarios: dict[str, Callable[[], object]] = {
            "segmenter killed": lambda: endpoint.kill("Segmenter"),
            "hot swap": lambda: swap(other),
            "broken checkpoint, then a replica killed": broken_then_killed,
            "configuration deployed again": redeployed,
            "ingress killed": lambda: endpoint.kill("Ingress"),
        }
        for name, event in scenarios.items():
            figures[name] = _under_load(endpoint, name, event, ask_segment(images), seconds)
    tree = deploy_tree(bench, run)
    deployment(tree, "Sam")["num_replicas"] = 3
    with Endpoint(bench, "load-sam", tree) as endpoint:
        settled(endpoint, "Sam", 3)
        name = "one of three Sam replicas killed"
        figures[name] = _under_load(endpoint, name, lambda: endpoint.kill("Sam"), ask_prompt(images), seconds)
    _check_load(figures, checkpoint_sha(resolve_checkpoint(str(run))), checkpoint_sha(resolve_checkpoint(str(other))))
    return figures


ITEMS: list[Item] = [("autoscaling", autoscaling), ("load", load)]


def _under_load(endpoint: Endpoint, name: str, event: Callable[[], object], ask: Ask, seconds: float) -> dict[str, Any]:
    """Lets something happen after a third of the time; returns what the clients saw."""
    say(f"{name}: started")
    before = _replicas(endpoint)
    began = time.monotonic()
    with SteadyLoad(endpoint.url, ask, images=MEALS, threads=CLIENTS) as clients:
        time.sleep(seconds / 3)
        event()
        time.sleep(max(0.0, seconds - (time.monotonic() - began)))
        answered, deadline = clients.answered, time.monotonic() + 300
        while clients.answered == answered:  # it answers after all that
            if time.monotonic() > deadline:
                raise ItemError(f"{name}: no answer came for {deadline - began:.0f} s")
            time.sleep(0.2)
    after = _replicas(endpoint)
    new = {one: len(set(after[one]) - set(before[one])) for one in before}
    models = httpx.get(f"{endpoint.url}v1/models", timeout=60).json()["models"]
    state = {key: models[0][key] for key in ("sha", "error")}
    figures = {**clients.figures(), "lost": clients.lost(), "new_processes": new, "model": state}
    say(f"{name}: {figures}")
    return figures


def _check_load(figures: dict[str, dict[str, Any]], first: str, second: str) -> None:
    """Raises where an answer was lost (but for the ingress) or wrong, or the event did not happen as it should."""
    for name, one in figures.items():
        if one["differing"] or (one["lost"] and name != "ingress killed"):
            raise ItemError(f"{name}: {one}")
    swapped, broken = figures["hot swap"], figures["broken checkpoint, then a replica killed"]
    for name, killed in (("segmenter killed", "Segmenter"), ("ingress killed", "Ingress")):
        if figures[name]["new_processes"][killed] != 1:
            raise ItemError(f"{name}: {figures[name]}")
    if set(swapped["answered_by"]) != {first[:12], second[:12]} or any(swapped["new_processes"].values()):
        raise ItemError(f"the hot swap: {swapped}")
    # the other checkpoint serves since the swap
    born_later = broken["new_processes"]["Segmenter"]
    if set(broken["answered_by"]) != {second[:12]} or broken["model"]["error"] is None or born_later != 1:
        raise ItemError(f"the broken checkpoint: {broken}")
    if not all(figures["configuration deployed again"]["new_processes"][name] for name in ("Ingress", "Segmenter")):
        raise ItemError(f"the configuration was not deployed: {figures['configuration deployed again']}")


def _replicas(endpoint: Endpoint) -> dict[str, list[int]]:
    return {name: endpoint.replicas(name) for name in ("Ingress", "Segmenter", "Sam", "Refine")}


def _wait_for_error(endpoint: Endpoint) -> None:
    deadline = time.monotonic() + 120
    while httpx.get(f"{endpoint.url}v1/models", timeout=60).json()["models"][0]["error"] is None:
        if time.monotonic() > deadline:
            raise ItemError("/v1/models does not say that the broken checkpoint cannot be served")
        time.sleep(0.5)


def _answering_replicas(endpoint: Endpoint) -> int:
    """Returns how many replicas of the segmenter have made a batch, by the metrics that Prometheus would read."""
    text = httpx.get(endpoint.metrics, timeout=60).text
    return len(set(re.findall(r"^ray_foodseg_batch_size_count\{(.*?)\} [1-9]", text, re.MULTILINE)))
