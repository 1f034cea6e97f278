"""`foodseg data prepare` of many images from and to a bucket: speed, memory and requests; killed twice, and resumed.

A SeaweedFS on this machine holds the real images under new ids, each encoded again; a proxy counts the requests.

    python -m experiments.scale.large_prepare --images 100000

The command is killed (SIGKILL) when it has audited 60 % of the images, and again when it has written 60 % of the
shards; the third one ends. No image is fetched twice, but for those of the tasks that were under way.
"""

import argparse
import io
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from experiments.foodmix import stems
from foodseg import storage
from foodseg.bench.memory import command_name, private_bytes
from foodseg.data.reader import RowReader
from foodseg.data.shards import MAX_ROWS, read_manifest
from tests.support.drivers import kill_driver
from tests.support.s3_proxy import S3Proxy
from tests.support.s3_server import S3Server

BUCKET, SHARE = "large", 0.6
SOURCE, PREPARED = f"s3://{BUCKET}/source", f"s3://{BUCKET}/prepared"
DRIVER = "driver"
TEN_MILLION = 10_000_000
_UPLOADS, _PAUSE = 16, 0.25  # threads; seconds between samples
_KINDS = (  # of the keys of requests
    ("source images", r"source/images/."), ("source masks", r"source/masks/."), ("source", r"source"),
    ("audit", r"\.work/audit/."), ("content", r"\.work/content/."), ("thumbnails", r"\.work/thumbnails/."),
    ("near-duplicates", r"\.work/near-duplicates/."), ("results of shards", r"\.work/shards/."),
    ("shards", r"part-\d+\.parquet"), ("other", r""),
)  # fmt: skip


class Requests(Counter[tuple[str, str]]):
    """Counts requests by method and key, as they come, and their distinct keys by method and kind."""

    def __init__(self) -> None:
        super().__init__()
        self.objects: Counter[tuple[str, str]] = Counter()

    def __setitem__(self, asked: tuple[str, str], number: int) -> None:
        if asked not in self:
            self.objects[asked[0], kind_of(asked[1])] += 1
        super().__setitem__(asked, number)


@dataclass(frozen=True)
class Sample:
    """What was seen of a command: seconds, files of the audit and of blocks so far, bytes of the largest processes."""

    seconds: float
    audits: int
    blocks: int
    sizes: dict[str, int]


def measure(folder: Path, images: int) -> dict[str, Any]:
    """Returns the figures of the three commands.

    Args:
        folder: the real images, in the folder layout.
        images: how many are prepared.
    """
    with S3Server() as server, S3Proxy(server.endpoint) as proxy:
        requests = proxy.requests = Requests()
        server.make_bucket(BUCKET)
        os.environ.update(server.env())
        uploaded = upload_repeated(folder, images)
        os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint
        audits, shards = -(-images // 16), images / MAX_ROWS
        ends: list[Callable[[], bool]] = [
            lambda: requests.objects["PUT", "audit"] >= SHARE * audits,
            lambda: requests.objects["PUT", "results of shards"] >= SHARE * shards,
            lambda: False,
        ]
        runs: list[dict[str, Any]] = []
        watched: list[list[Sample]] = []
        for killed_when in ends:
            before, began = Counter(requests), time.monotonic()
            said, samples = run(killed_when, requests)
            watched.append(samples)
            runs.append({
                "seconds": round(time.monotonic() - began, 1), "requests": by_kind(Counter(requests) - before),
                "resumed": re.findall(r"([a-z][a-z -]+): resuming, (\d+) of (\d+)", said),
            })  # fmt: skip
        os.environ["AWS_ENDPOINT_URL"] = server.endpoint
        return {
            "images": images, "bytes": uploaded, "runs": runs, **totals(requests, images), **checked(images),
            **memory(watched, images), **rates(watched, images),
        }  # fmt: skip


def upload_repeated(folder: Path, images: int) -> int:
    """Uploads the real images under new ids, each copy encoded again, so that no two files are equal; their bytes."""
    real = [(stem, split) for split in ("train", "test") for stem in stems(folder, split)]
    listed: dict[str, list[str]] = {"train": [], "test": []}

    def upload(number: int) -> int:
        (stem, _), turn = real[number % len(real)], number // len(real)
        with Image.open(folder / "images" / f"{stem}.jpg") as image:
            sink = io.BytesIO()
            image.convert("RGB").save(sink, "JPEG", quality=70 + turn % 25)
        data = sink.getvalue() + b"\0" * (turn // 25)  # what follows the end of a JPEG is ignored
        storage.write_bytes(f"{SOURCE}/images/{stem}-{turn:05d}.jpg", data)
        storage.write_bytes(f"{SOURCE}/masks/{stem}-{turn:05d}.png", (folder / "masks" / f"{stem}.png").read_bytes())
        return len(data)

    for number in range(images):
        stem, split = real[number % len(real)]
        listed[split].append(f"{stem}-{number // len(real):05d}")
    for split, names in listed.items():
        storage.write_text(f"{SOURCE}/{split}.txt", "\n".join(names) + "\n")
    storage.write_bytes(f"{SOURCE}/classes.txt", (folder / "classes.txt").read_bytes())
    with ThreadPoolExecutor(_UPLOADS) as pool:
        return sum(pool.map(upload, range(images)))


def run(killed_when: Callable[[], bool], requests: Requests) -> tuple[str, list[Sample]]:
    """Runs the command to its end, or until it is killed; returns what it has said on stderr, and samples."""
    command = [sys.executable, "-m", "foodseg", "data", "prepare", SOURCE, PREPARED, "--json"]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said: list[bytes] = []
    assert driver.stderr is not None
    listening = threading.Thread(target=lambda stream: said.extend(stream), args=(driver.stderr,), daemon=True)
    listening.start()
    killed, samples = False, list[Sample]()
    while driver.poll() is None:
        if killed_when():
            kill_driver(driver)
            killed = True
            break
        samples.append(sample(driver.pid, requests))
        time.sleep(_PAUSE)
    listening.join()
    text = b"".join(said).decode()
    if not killed and driver.returncode != 0:
        raise RuntimeError(f"foodseg data prepare ended with {driver.returncode}: {text[-2000:]}")
    return text, samples


def sample(pid: int, requests: Requests) -> Sample:
    """Looks at a command and all that it has started."""
    sizes: dict[str, int] = {}
    for process in processes(pid):
        try:
            name = DRIVER if process.pid == pid else command_name(process.cmdline())
            sizes[name] = max(sizes.get(name, 0), private_bytes(process))
        except psutil.Error:  # it has ended since it was listed
            continue
    done = requests.objects
    return Sample(time.monotonic(), done["PUT", "audit"], done["PUT", "near-duplicates"], sizes)


def processes(pid: int) -> Iterator[psutil.Process]:
    """Yields a command and all that it has started."""
    try:
        driver = psutil.Process(pid)
        yield driver
        yield from driver.children(recursive=True)
    except psutil.NoSuchProcess:
        return


def kind_of(key: str) -> str:
    """Returns what an object of the bucket is."""
    return next(kind for kind, pattern in _KINDS if re.search(pattern, key))


def by_kind(requests: Mapping[tuple[str, str], int]) -> dict[str, int]:
    """Returns the requests by method and kind of object."""
    kinds: Counter[str] = Counter()
    for (method, key), number in requests.items():
        kinds[f"{method} {kind_of(key)}"] += number
    return dict(sorted(kinds.items()))


def totals(requests: Mapping[tuple[str, str], int], images: int) -> dict[str, Any]:
    """Returns the requests of all commands for each image, and which objects were fetched or written twice."""
    twice: Counter[str] = Counter()
    for (method, key), number in requests.items():
        kind = kind_of(key)
        if number > 1 and ((method == "GET" and kind.startswith("source ")) or (method == "PUT" and kind != "other")):
            twice[f"{method} {kind}"] += number - 1
    return {
        "requests_per_image": {kind: round(number / images, 4) for kind, number in by_kind(requests).items()},
        "twice": dict(twice),
    }


def checked(images: int) -> dict[str, Any]:
    """Reads what was prepared: how many images it has, and how many distinct ids."""
    manifest = read_manifest(PREPARED)
    ids = [
        image_id
        for split in manifest.counts
        for image_id in RowReader(PREPARED, manifest, [split]).column("image_id").to_pylist()
    ]
    return {
        "prepared": len(ids), "distinct": len(set(ids)), "quarantined": manifest.quarantined,
        "shards": len(manifest.shards), "missing": images - len(ids) - manifest.quarantined, "audit": manifest.audit,
    }  # fmt: skip


def memory(watched: Sequence[Sequence[Sample]], images: int) -> dict[str, Any]:
    """Returns the peak of each process, and how those grow that are there while the first command audits."""
    peaks: dict[str, int] = {}
    for each in (sample for samples in watched for sample in samples):
        for name, size in each.sizes.items():
            peaks[name] = max(peaks.get(name, 0), size)
    slopes = {}
    for name in peaks:
        seen = [(16 * each.audits, each.sizes[name]) for each in watched[0] if name in each.sizes]
        during = [(done, size) for done, size in seen if 0.1 * images < done < images]
        if len({done for done, _ in during}) > 2:
            slopes[name] = round(float(np.polyfit(*np.array(during, float).T, 1)[0]), 1)
    return {
        "peak_mib": {name: round(size / 2**20, 1) for name, size in sorted(peaks.items())},
        "bytes_per_image_while_auditing": slopes,
    }


def rates(watched: Sequence[Sequence[Sample]], images: int) -> dict[str, Any]:
    """Returns images audited in a second, seconds of comparing blocks, and what ten million images take by them."""
    seconds = audits = comparing = 0.0
    for samples in watched:
        grows = [after for before, after in itertools.pairwise(samples) if after.audits > before.audits]
        compares = [after.seconds for before, after in itertools.pairwise(samples) if after.blocks > before.blocks]
        if len(grows) > 1:
            seconds += grows[-1].seconds - grows[0].seconds
            audits += grows[-1].audits - grows[0].audits
        comparing += compares[-1] - compares[0] if compares else 0
    if not audits:
        return {}
    rate = 16 * audits / seconds
    hours = {"hours_of_auditing": round(TEN_MILLION / rate / 3600, 1)}
    if comparing:  # several blocks
        hours["hours_of_comparing"] = round(comparing * (TEN_MILLION / images) ** 2 / 3600, 1)
    return {
        "audited_per_second": round(rate, 1), "seconds_of_comparing": round(comparing, 1), "ten_million": hours,
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--data", type=Path, default=Path("../shared/datasets/foodmix"), help="the real images")
    given = parser.parse_args()
    print(json.dumps(measure(given.data, given.images), indent=1))
