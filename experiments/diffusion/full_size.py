"""Stable Diffusion 1.5 at full size with random weights: built, and one image of 256 x 256 labelled on the CPU.

python -m experiments.diffusion.full_size      # prints JSON
"""

import json
import time

import torch

from foodseg.config.model import ModelConfig
from foodseg.config.text import TextConfig
from foodseg.models.build import build_segmenter

CLASSES, SIDE = 104, 256


def main() -> None:
    text = TextConfig(kind="table", table="random", centre=False)
    config = ModelConfig(kind="diffusion", backbone="sd1", fusion="cross_attention", text=text)
    torch.manual_seed(0)
    started = time.monotonic()
    model = build_segmenter(config, CLASSES, text=torch.randn(CLASSES, 768)).eval()
    built = time.monotonic()
    with torch.inference_mode():
        output = model(torch.rand(1, 3, SIDE, SIDE))
    figures = {
        "parameters": {
            name: sum(parameter.numel() for parameter in part.parameters())
            for name, part in (("unet", model.backbone.unet), ("vae_encoder", model.backbone.vae), ("all", model))
        },
        "build_seconds": round(built - started, 1),
        "forward_seconds": round(time.monotonic() - built, 1),
        "logits": list(output.logits.shape),
        "finite": bool(output.logits.isfinite().all()),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
