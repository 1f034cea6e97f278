"""What grows with the data: memory, and the time to the first update? `python -m experiments scale`."""

import io
import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from experiments.foodmix import foodmix, fresh, prepared_foodmix, stems
from experiments.item_queue import Bench, Item
from foodseg.bench.memory import PeakMemory
from foodseg.data.shards import read_manifest, write_manifest

MANY = 10_000


def stream_memory(bench: Bench) -> dict[str, Any]:
    """Peak memory of the stream over the real images, and over a set that lists them ten times."""
    once, tenfold = prepared_foodmix(bench), bench.work / "foodmix-tenfold"
    manifest = read_manifest(str(once))
    listed = manifest.model_copy(update={"name": "foodmix-tenfold", "shards": ()})
    for number in range(10):
        for shard in manifest.shards:
            copy = shard.model_copy(update={"path": f"v-1/{number}/{shard.path}"})
            (tenfold / copy.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(once / shard.path, tenfold / copy.path)
            listed = listed.model_copy(update={"shards": (*listed.shards, copy)})
    write_manifest(str(tenfold), listed)
    figures = {}
    for name, data in (("once", once), ("tenfold", tenfold)):
        found = bench.foodseg("bench", "data", "--data", data, "--config", "experiments/plain_recipe.yaml")
        figures[name] = {"images": found["images"]["train"], **found["stream"]}
    shutil.rmtree(tenfold)
    return figures


def prepare(bench: Bench) -> dict[str, Any]:
    """Rows per second and peak memory of `data prepare`, for a thousand and for ten thousand images."""
    figures: dict[str, Any] = {}
    for count in (MANY // 10, MANY):
        source, prepared = fresh(bench.work / f"many-{count}"), fresh(bench.work / f"many-{count}-prepared")
        write_repeated(foodmix(bench), source, count)
        started = time.monotonic()
        with PeakMemory() as memory:
            answer = bench.foodseg("data", "prepare", source, prepared)
        seconds = time.monotonic() - started
        figures[str(count)] = {
            "seconds": round(seconds, 1),
            "rows_per_second": round(count / seconds, 1),
            "quarantined": answer["quarantined"],
            **asdict(memory.peaks()),
        }
        shutil.rmtree(source)
        shutil.rmtree(prepared)
    figures["ratio"] = memory_ratio(figures[str(MANY // 10)], figures[str(MANY)])
    return figures


def prepare_100000(bench: Bench) -> dict[str, Any]:
    """`data prepare` of a hundred thousand images from and to a bucket, killed twice: speed, memory, requests."""
    command = ("-m", "experiments.scale.large_prepare", "--images", 10 * MANY, "--data", foodmix(bench))
    figures: dict[str, Any] = json.loads(bench.python(*command))
    return figures


def memory_ratio(few: dict[str, Any], many: dict[str, Any]) -> dict[str, Any]:
    """How much more memory the larger job took: its largest process, and each process that both jobs had."""
    before, after = few["processes_mib"], many["processes_mib"]
    return {
        "largest_process": round(many["largest_process_mib"] / few["largest_process_mib"], 3),
        "processes": {name: round(after[name] / before[name], 3) for name in before if before[name] and name in after},
    }


def many_shards(bench: Bench) -> dict[str, Any]:
    """Seconds and requests from the command to the first update on 1,000 shards in a slow object storage."""
    command = ("-m", "experiments.scale.many_shards", "--shards", 1000, "--latency", 0.03)
    ways: dict[str, tuple[object, ...]] = {
        "in one process": (),
        "in one process, with columns of every row": ("--columns",),
        "Ray Train with one worker, with columns of every row": ("--columns", "--workers", 1),
    }
    return {way: json.loads(bench.python(*command, *options)) for way, options in ways.items()}


def split_consumers(bench: Bench) -> dict[str, Any]:
    """What the coordinator of the stream costs a block on few and on many ranks, and the shortest update on them."""
    command = ("-m", "experiments.scale.split_consumers", "--ranks")
    return {str(ranks): json.loads(bench.python(*command, ranks)) for ranks in (8, 64)}


ITEMS: list[Item] = [
    ("stream_memory", stream_memory),
    ("prepare", prepare),
    ("prepare_100000", prepare_100000),
    ("many_shards", many_shards),
    ("split_consumers", split_consumers),
]


def write_repeated(folder: Path, out: Path, count: int) -> None:
    """Writes `count` images: the real ones under new ids, each copy encoded again, so that no two files are equal."""
    for name in ("images", "masks"):
        (out / name).mkdir(parents=True)
    shutil.copyfile(folder / "classes.txt", out / "classes.txt")
    listed_stems = [(stem, split) for split in ("train", "test") for stem in stems(folder, split)]
    listed: dict[str, list[str]] = {"train": [], "test": []}
    for number in range(count):
        stem, split = listed_stems[number % len(listed_stems)]
        copy = f"{stem}-{number // len(listed_stems):03d}"
        with Image.open(folder / "images" / f"{stem}.jpg") as image:
            sink = io.BytesIO()
            image.convert("RGB").save(sink, "JPEG", quality=70 + number // len(listed_stems))
        (out / "images" / f"{copy}.jpg").write_bytes(sink.getvalue())
        shutil.copyfile(folder / "masks" / f"{stem}.png", out / "masks" / f"{copy}.png")
        listed[split].append(copy)
    for split, names in listed.items():
        (out / f"{split}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
