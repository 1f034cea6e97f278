"""The cost of a model, for sweeps with two objectives: mIoU and cost."""

import statistics
import time

import torch

from foodseg.classes import ClassTable
from foodseg.config import ExperimentConfig
from foodseg.config.sweep import Against
from foodseg.models.build import build_segmenter
from foodseg.predict.device import pick_device
from foodseg.train.run import text_of_run

PASSES = 10  # measured, after one warm-up pass


def model_cost(config: ExperimentConfig, classes: ClassTable, against: Against) -> dict[str, float]:
    """Returns {"parameters": number of trainable parameters}, {"latency": milliseconds an image}, or {} for "none".

    The latency is the median of PASSES passes of one square image of `eval.longest_side` (512 where that is null)
    through a model with random weights, on the GPU if the process of the trial has one (with workers it has none).
    Trials that run at the same time slow it down: it ranks models, and is not a benchmark.
    """
    if against == "none":
        return {}
    text = text_of_run(config, classes)
    model = build_segmenter(config.model, len(classes), pretrained=False, text=text.embeddings if text else None)
    if against == "parameters":
        return {"parameters": float(sum(p.numel() for p in model.parameters() if p.requires_grad))}
    device = pick_device("auto" if config.scaling.use_gpu else "cpu")
    side = config.eval.longest_side or 512
    image = torch.zeros(1, 3, side, side, device=device)
    model.to(device).eval()
    seconds = []
    with torch.no_grad():
        for _ in range(PASSES + 1):
            started = time.perf_counter()
            model(image)
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
    return {"latency": 1000 * statistics.median(seconds[1:])}
