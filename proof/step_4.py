"""Step 4, "Show it": the endpoint by curl and in the browser, its speed, scaling, faults under load, hostility."""

import hashlib
import json
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import httpx
import yaml
from pycocotools import mask as coco

from foodseg.checkpoint.find import resolve_checkpoint
from foodseg.data.image_io import decode_image
from foodseg.serve.served_model import checkpoint_sha
from proof.endpoint import Endpoint, MemorySamples, replaced, settled
from proof.hostile_http import batches, send_hostile, send_schemathesis, send_slow_bodies, sent, wrong
from proof.page_images import photograph_page
from proof.proof_queue import ROOT, Bench, Item, ItemError, say
from proof.served_meals import broken_copy, deploy_tree, deployment, is_free, meal_files, meals, trained
from proof.steady_load import Ask, SteadyLoad, ask_prompt, ask_segment

README_PORT = 8000  # of its curl lines
README_ADDRESS = f"http://127.0.0.1:{README_PORT}"
PAGE_MEALS = 3
MEALS = 16  # images that a load goes through
CLIENTS = 4  # of a load; more than one replica on two cores answers at once
HOSTILE = 5_000
PHOTOGRAPH = (3000, 4000)  # height, width: twelve megapixels
FAST_SCALING = {
    "min_replicas": 1, "max_replicas": 3, "target_ongoing_requests": 1, "look_back_period_s": 3, "upscale_delay_s": 1,
    "downscale_delay_s": 5,
}  # fmt: skip
FAST_METRICS = {"RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1"}


def readme_curl(bench: Bench) -> dict[str, Any]:
    """The curl lines of the README word for word, and three real meals on the page, on a screen and on a telephone."""
    shown = meal_files(bench, PAGE_MEALS)
    kitchen = bench.work / "serve-kitchen"
    shutil.rmtree(kitchen, ignore_errors=True)
    kitchen.mkdir(parents=True)
    shutil.copyfile(shown[0], kitchen / "lunch.jpg")
    port = README_PORT if is_free(README_PORT) else None
    with Endpoint(bench, "readme", deploy_tree(bench, trained(bench), port)) as endpoint:
        answers = []
        for block in readme_blocks((ROOT / "README.md").read_text(encoding="utf-8")):
            command = block.replace(README_ADDRESS, endpoint.url.rstrip("/"))
            printed = bench.run(["bash", "-euo", "pipefail", "-c", f"cd '{kitchen}'\n{command}"], shown=[command])
            answers += json_objects(printed)
        broken = [answer["error"] for answer in answers if "error" in answer]
        if broken:
            raise ItemError(f"a line of the README was refused: {broken[0]}")
        page = photograph_page(endpoint.url, shown, bench.work / "serve-page")
    height, width = decode_image(shown[0].read_bytes()).shape[:2]
    first = next(answer for answer in answers if "ingredients" in answer)
    checked = _masks_of_size(first, height, width)
    label_map = cv2.imread(str(kitchen / "lunch.ids.png"), cv2.IMREAD_UNCHANGED)
    if label_map is None or label_map.shape != (height, width):
        raise ItemError("the PNG of the README is not a label map of the image's size")
    return {
        "lines": sum(command.count("curl ") for command in bench.commands),
        "address_of_the_readme": port == README_PORT,
        "answers": len(answers),
        "ingredients": [one["name"] for one in first["ingredients"]],
        "masks_that_pycocotools_decodes": checked,
        "page": page,
    }


def bench_serve(bench: Bench, seconds: float = 40.0) -> dict[str, Any]:
    """What HTTP and Ray add to the same functions in one process; clicks; refine=sam. On an idle machine."""
    config = bench.work / "bench-serve.yaml"
    config.write_text(yaml.safe_dump(deploy_tree(bench, trained(bench)), sort_keys=False), encoding="utf-8")
    images = bench.work / "bench-meals"
    shutil.rmtree(images, ignore_errors=True)
    images.mkdir()
    for meal in meal_files(bench, MEALS):
        shutil.copyfile(meal, images / meal.name)
    return bench.foodseg("bench", "serve", config, "--images", images, "--seconds", seconds)


def autoscaling(bench: Bench, seconds: float = 40.0, rounds: int = 2) -> dict[str, Any]:
    """One replica, three under a load, one again when it has gone; `seconds` of load with three. No failed request."""
    tree = deploy_tree(bench, trained(bench))
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
    run, other = trained(bench, 0), trained(bench, 1)
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
            bench.python("-m", "proof.redeploy", endpoint.ray, "--model", "meals", broken)
            _wait_for_error(endpoint)
            endpoint.kill("Segmenter")

        def redeployed() -> None:
            before = _replicas(endpoint)
            bench.python("-m", "proof.redeploy", endpoint.ray, "--args", "http.retry_after_seconds=2")
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


def hostile(bench: Bench, count: int = HOSTILE, step: int = 500) -> dict[str, Any]:
    """Hostile requests of every kind: no 5xx but honest 503, memory flat, still serving the same answer."""
    key = hashlib.sha256(b"proof").hexdigest()
    keys = bench.work / "hostile-keys.txt"
    keys.write_text(f"proof {hashlib.sha256(key.encode()).hexdigest()}\n", encoding="utf-8")
    tree = deploy_tree(bench, trained(bench))
    tree["applications"][0]["args"]["http"] = {"keys_file": str(keys), "body_seconds": 5.0}
    outcomes: dict[str, Counter[str]] = {"hostile": Counter()}
    memory: list[dict[str, Any]] = []
    with Endpoint(bench, "hostile", tree) as endpoint:
        before = _one_answer(endpoint, meals(bench, MEALS)[0], key)

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
        same = _one_answer(endpoint, meals(bench, MEALS)[0], key) == before
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


def twelve_megapixels(bench: Bench) -> dict[str, Any]:
    """Memory that the whole endpoint takes more while it answers about a photograph of twelve megapixels."""
    small = meals(bench, 2)
    pixels = cv2.resize(decode_image(small[0])[:, :, ::-1], PHOTOGRAPH[::-1])
    large = {ending: cv2.imencode(f".{ending}", pixels)[1].tobytes() for ending in ("jpg", "png", "webp")}
    requests = [("v1/segment", {"format": form}) for form in ("rle", "polygons", "png")]
    requests += [("v1/prompt", {"points": "[[100, 100, 1]]"}), ("v1/segment", {"refine": "sam"})]
    figures: dict[str, Any] = {}
    with (
        Endpoint(bench, "photograph", deploy_tree(bench, trained(bench))) as endpoint,
        httpx.Client(base_url=endpoint.url, timeout=120) as client,
    ):

        def ask(path: str, data: bytes, fields: dict[str, str]) -> dict[str, Any]:
            answer = client.post(path, files={"image": ("meal", data)}, data=fields).raise_for_status().json()
            assert isinstance(answer, dict)
            return answer

        # with a small image first: models, kernels and pools are not what is measured
        for path, fields in 2 * requests:
            ask(path, small[1], fields)
        before = endpoint.memory()["all"]
        for ending, data in large.items():
            for path, fields in requests:
                with MemorySamples(endpoint) as samples:
                    answer = ask(path, data, fields)
                if (answer["image"]["height"], answer["image"]["width"]) != PHOTOGRAPH:
                    raise ItemError(f"the answer is about another size: {answer['image']}")
                figures[" ".join([ending, path, *fields.values()])] = round(samples.peak - before)
    most = max(figures.values())
    if most > 1024:
        raise ItemError(f"an answer about twelve megapixels took {most} MiB: {figures}")
    return {"mib_before": round(before), "most_added_mib": most, "added_mib": figures}


ITEMS: list[Item] = [
    ("readme_curl", readme_curl),
    ("bench_serve", bench_serve),
    ("autoscaling", autoscaling),
    ("load", load),
    ("hostile", hostile),
    ("twelve_megapixels", twelve_megapixels),
]


def readme_blocks(text: str) -> list[str]:
    """Returns the shell blocks of a Markdown text that ask the endpoint with curl."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for language, block in blocks if language == "sh" and "curl " in block and README_ADDRESS in block]


def json_objects(printed: str) -> list[dict[str, Any]]:
    """Returns the JSON objects in what commands printed, one behind the other with or without line breaks."""
    decoder, found, at = json.JSONDecoder(), [], printed.find("{")
    while at >= 0:
        try:
            value, end = decoder.raw_decode(printed, at)
        except ValueError:
            end = at + 1
        else:
            found.append(value)
        at = printed.find("{", end)
    return found


def _masks_of_size(answer: dict[str, Any], height: int, width: int) -> int:
    """Returns how many masks pycocotools decodes to the image's size and to the pixels that the answer says."""
    for one in answer["ingredients"]:
        mask = coco.decode(one["mask"])
        if mask.shape != (height, width) or int(mask.sum()) != one["pixels"]:
            raise ItemError(f"the mask of {one['name']} is not what the answer says")
    return len(answer["ingredients"])


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


def _one_answer(endpoint: Endpoint, image: bytes, key: str) -> list[tuple[str, int]]:
    headers = {"Authorization": f"Bearer {key}"}
    answer = httpx.post(f"{endpoint.url}v1/segment", files={"image": ("meal", image)}, headers=headers, timeout=120)
    return [(one["name"], one["pixels"]) for one in answer.raise_for_status().json()["ingredients"]]
