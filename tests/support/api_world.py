"""The folder that examples of the Python API are run in, made without Ray.

write_api_world(tmp_path)  # meals/, prepared/meals, runs/a, lunch.jpg, dinner.jpg
"""

from pathlib import Path

import cv2

from foodseg.demo.synthetic import write_meals
from tests.support.tiny_checkpoints import (
    meal,
    write_checkpoint,
    write_clip,
    write_open_vocabulary,
    write_region_classifier,
)
from tests.support.tiny_world import SIDE, TEST, TRAIN, write_prepared

SIZES = {"lunch.jpg": (96, 128), "dinner.jpg": (90, 60)}  # (height, width)


def write_api_world(folder: Path, *overrides: str) -> None:
    """Writes it: `runs/a`, `runs/open` (open vocabulary), `runs/roi` (regions), `models/clip` have random weights."""
    write_meals(folder / "meals", train=TRAIN, test=TEST, seed=0, longest_side=SIDE)
    write_prepared(folder / "meals", folder / "prepared" / "meals")
    write_checkpoint(folder / "runs" / "a", 1, "eval.longest_side=64", *overrides)
    write_open_vocabulary(folder / "runs" / "open")
    write_region_classifier(folder / "runs" / "roi")
    write_clip(folder / "models" / "clip")
    for seed, (name, size) in enumerate(SIZES.items()):
        cv2.imwrite(str(folder / name), meal(seed, *size)[:, :, ::-1])
