"""Does the endpoint survive what strangers send? `python -m experiments hostile_http`."""

import hashlib
from collections import Counter
from typing import Any

import httpx

from experiments.endpoint_process import Endpoint
from experiments.foodmix_runs import train_plain
from experiments.hostile_http.send_requests import (
    batches,
    send_hostile,
    send_schemathesis,
    send_slow_bodies,
    sent,
    wrong,
)
from experiments.item_queue import Bench, Item, ItemError, say
from experiments.served_meals import deploy_tree, meals

REQUESTS = 5_000


def hostile(bench: Bench, count: int = REQUESTS, step: int = 500) -> dict[str, Any]:
    """Hostile requests of every kind: no 5xx but honest 503, memory flat, still serving the same answer."""
    key = hashlib.sha256(b"experiment").hexdigest()
    keys = bench.work / "hostile-keys.txt"
    keys.write_text(f"experiment {hashlib.sha256(key.encode()).hexdigest()}\n", encoding="utf-8")
    tree = deploy_tree(bench, train_plain(bench, 0))
    tree["applications"][0]["args"]["http"] = {"keys_file": str(keys), "body_seconds": 5.0}
    outcomes: dict[str, Counter[str]] = {"hostile": Counter()}
    memory: list[dict[str, Any]] = []
    with Endpoint(bench, "hostile", tree) as endpoint:
        before = _one_answer(endpoint, meals(bench, 1)[0], key)

        def measure() -> None:
            whole = endpoint.memory()
            shown = {name: round(size) for name, size in whole.items() if "Ingress" in name or "Segmenter" in name}
            memory.append({"sent": sum(map(sent, outcomes.values())), "all_mib": round(whole["all"]), **shown})
            say(f"memory: {memory[-1]}")

        measure()
        for number, size in enumerate(batches(count, step)):
            outcomes["hostile"] += send_hostile(endpoint.url, number, size, key)
            measure()
        outcomes["schemathesis"] = send_schemathesis(endpoint.url, key, examples=max(5, count // 50))
        measure()
        outcomes["slow bodies"] = send_slow_bodies(endpoint.url, key, 24)
        measure()
        same = _one_answer(endpoint, meals(bench, 1)[0], key) == before
        ready = httpx.get(f"{endpoint.url}readyz", timeout=60).status_code
    bad = {kind: wrong(found) for kind, found in outcomes.items() if wrong(found)}
    if bad or not same or ready != 200:
        raise ItemError(f"answers that may not come: {bad}; same answer afterwards: {same}; readyz {ready}")
    settled_at = memory[min(2, len(memory) - 1)]["all_mib"]  # when libraries are loaded and pools have grown
    return {
        "sent": memory[-1]["sent"],
        "outcomes": {kind: dict(sorted(found.items())) for kind, found in outcomes.items()},
        "memory": memory,
        "memory_ratio": round(memory[-1]["all_mib"] / settled_at, 3),
        "same_answer_afterwards": same,
    }


ITEMS: list[Item] = [("hostile", hostile)]


def _one_answer(endpoint: Endpoint, image: bytes, key: str) -> list[tuple[str, int]]:
    headers = {"Authorization": f"Bearer {key}"}
    answer = httpx.post(f"{endpoint.url}v1/segment", files={"image": ("meal", image)}, headers=headers, timeout=120)
    return [(one["name"], one["pixels"]) for one in answer.raise_for_status().json()["ingredients"]]
