"""What does a label map for any names cost? `python -m experiments zero_shot`.

A CLIP of real size with random weights, since pretrained ones are out of reach where this is run: time and memory are
those of trained ones, label maps are not.
"""

import time
from typing import Any

import numpy as np
import open_clip
import torch

from experiments.foodmix import vit_weights
from experiments.item_queue import Bench, Item
from experiments.variants import VIT
from foodseg.bench.memory import PeakMemory
from foodseg.config.clip import ClipConfig
from foodseg.config.zero_shot import DenseConfig, ZeroShotConfig
from foodseg.models.clip.clip import ClipModel
from foodseg.models.clip.external import vit_features
from foodseg.predict.zero_shot import ZeroShotSegmenter

MODEL = "ViT-B-16"
NAMES = {"20 names": 20, "1,000 names": 1000}
HEIGHT, WIDTH = 384, 512
IMAGES = 3


def cost(bench: Bench) -> dict[str, Any]:
    """Seconds an image of 384 x 512 pixels on one thread, seconds for the names, and peak memory of the process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device = torch.device("cpu")
    towers = open_clip.create_model(MODEL)
    clip = ClipModel(towers, lambda image: torch.zeros(3, 224, 224), open_clip.get_tokenizer(MODEL), device, 4096)
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    found: dict[str, Any] = {}
    for label, count in NAMES.items():
        started = time.perf_counter()
        clip.text_embeddings([f"dish {number}" for number in range(count)])
        found[f"{label}, embedded once"] = {"seconds": round(time.perf_counter() - started, 2)}
        for attention in ("maskclip", "sclip", "clearclip", "naclip", "proxy"):
            external = vit_features(VIT, str(vit_weights(bench)), device) if attention == "proxy" else None
            dense = DenseConfig(attention=attention, external=VIT if external else None)  # type: ignore[arg-type]
            config = ZeroShotConfig(clip=ClipConfig(model=MODEL), dense=dense)
            with PeakMemory() as memory:
                model = ZeroShotSegmenter(clip, external, config, [f"dish {number}" for number in range(count)])
                model.predict(image)
                started = time.perf_counter()
                for _ in range(IMAGES):
                    model.predict(image)
                spent = (time.perf_counter() - started) / IMAGES
            found[f"{label}, {attention}"] = {"seconds": round(spent, 2), "peak_mib": round(memory.largest / 2**20)}
    return found


ITEMS: list[Item] = [("cost", cost)]
