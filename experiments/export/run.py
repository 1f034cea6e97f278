"""Is an exported model the checkpoint, what does int8 lose, and how fast is each? `python -m experiments export`.

Each architecture is trained at 128 px on train (`SCOUT`), and exported to ONNX and OpenVINO in float32 and int8:
largest difference of logits and share of equal ids on images of val, mIoU on val before and after int8, bytes, and
milliseconds an image of 384 x 512 pixels on one thread, of PyTorch as well. `page` is the real-time one in a browser.
"""

import time
from functools import partial
from typing import Any

import torch

from experiments.export.page import pages
from experiments.foodmix import fresh, prepared_foodmix
from experiments.foodmix_runs import scout_job, train_variant
from experiments.item_queue import Bench, Item
from experiments.variants import HYBRID, NAMES, PLAIN_VIT, Settings
from foodseg.checkpoint.checkpoint import load_checkpoint, load_model
from foodseg.checkpoint.find import resolve_checkpoint

FORMATS = ("onnx", "openvino")
ARCHITECTURES: dict[str, Settings] = {
    "lite0": (),
    "score_map": NAMES,
    "vit": PLAIN_VIT,
    "hybrid": HYBRID,
    "realtime": ("model.kind=realtime", "model.realtime.size=M"),
}
HEIGHT, WIDTH = 384, 512
PASSES = 10


def exported(bench: Bench, name: str) -> dict[str, Any]:
    """Trains one architecture and exports it in every way."""
    run, data = train_variant(bench, *scout_job(f"export-{name}", ARCHITECTURES[name])), prepared_foodmix(bench)
    found: dict[str, Any] = {"torch": {"ms": milliseconds(str(run))}}
    for form in FORMATS:
        for int8 in (False, True):
            out = fresh(bench.work / f"exported-{name}-{form}{'-int8' if int8 else ''}")
            options = ("--format", form, "--calibrate", data, *(["--int8"] if int8 else []))
            done = bench.foodseg("export", run, "--out", out, *options)
            found[f"{form}, {done['precision']}"] = {
                "largest_difference": done["comparison"]["largest_difference"],
                "largest_logit": done["comparison"]["largest_logit"],
                "equal_ids": done["comparison"]["equal_ids"],
                "miou_before": done["miou_before"],
                "miou_after": done["miou_after"],
                "bytes": sum(done["files"].values()),
                "canvas": done["canvas"],
                "ms": milliseconds(str(out)),
            }
    return found


@torch.inference_mode()
def milliseconds(model: str) -> float:
    """Milliseconds of one image on one thread, the least of some passes: other work on the machine only adds to it."""
    torch.set_num_threads(1)
    loaded = load_checkpoint(resolve_checkpoint(model))
    network = load_model(loaded, loaded.config.eval.weights)
    fixed = None if loaded.exported is None else loaded.exported.graph.canvas
    image = torch.rand(1, 3, *(fixed or (HEIGHT, WIDTH))).contiguous(memory_format=torch.channels_last)
    network(image)
    passes = []
    for _ in range(PASSES):
        started = time.perf_counter()
        network(image)
        passes.append(time.perf_counter() - started)
    return round(1000 * min(passes), 1)


def page(bench: Bench) -> dict[str, Any]:
    """Runs the real-time architecture in a browser."""
    run = train_variant(bench, *scout_job("export-realtime", ARCHITECTURES["realtime"]))
    return pages(bench, str(run), prepared_foodmix(bench))


ITEMS: list[Item] = [*((name, partial(exported, name=name)) for name in ARCHITECTURES), ("page", page)]
