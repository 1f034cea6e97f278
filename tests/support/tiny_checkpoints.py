"""Tiny checkpoints, a tiny CLIP and images for tests of the endpoint; nothing is trained.

first, second = write_checkpoint(tmp_path / "a", seed=1), write_checkpoint(tmp_path / "b", seed=2)
"""

import json
import socket
from pathlib import Path

import cv2
import numpy as np
import safetensors.torch
import torch

from foodseg.checkpoint.checkpoint import Checkpoint, save_checkpoint
from foodseg.demo.synthetic import SYNTHETIC_CLASSES, draw_meal
from foodseg.models.build import build_model, build_network, build_segmenter
from foodseg.models.open_vocabulary import OpenVocabularyNetwork
from foodseg.models.roi import RegionNetwork
from foodseg.models.text.class_embeddings import TextTable, class_text
from foodseg.models.text.embed import MINILM, WIDTH
from tests.support.synthetic_set import synthetic_config

TINY_CLIP = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def write_checkpoint(folder: Path, seed: int, *overrides: str) -> str:
    """Writes a checkpoint of random weights that labels images with several ids; returns its directory.

    `overrides` may name text fusion with a table of class embeddings, and an ingredient head.
    """
    config = synthetic_config("data", "run", "eval.weights=student", *overrides)
    torch.manual_seed(seed)
    text = class_text(config.model, SYNTHETIC_CLASSES)
    model = build_segmenter(config.model, len(SYNTHETIC_CLASSES), text=text.embeddings if text else None)
    assert isinstance(model.classifier, torch.nn.Conv2d)
    torch.nn.init.normal_(model.classifier.weight, std=3.0)  # else one class is everywhere
    if model.ingredient_head is not None:
        torch.nn.init.normal_(model.ingredient_head.linear.weight, std=0.5)  # else all are equally probable
    optimizer = torch.optim.AdamW(model.parameters())
    checkpoint = Checkpoint(
        step=seed,
        config=config,
        classes=SYNTHETIC_CLASSES,
        data="synthetic@v1-0123456789ab",
        trained_ids=tuple(range(len(SYNTHETIC_CLASSES))),
        class_pixels=tuple(10 ** (index % 4) for index in range(len(SYNTHETIC_CLASSES), 0, -1)),
        student=model.state_dict(),
        teacher=None,
        text=text,
        trainer={"optimizer": optimizer.state_dict(), "total_steps": 10},
    )
    save_checkpoint(str(folder), checkpoint)
    return str(folder)


def write_realtime(folder: Path, table: str) -> str:
    """Writes a checkpoint of a real-time network of random weights with text, not folded; returns its directory.

    `table`: class embeddings.
    """
    config = synthetic_config(
        "data", "run", "eval.weights=student", "eval.longest_side=64", "loss.pixel_text=1",
        "model={kind: realtime, backbone: test_efficientnet, weights: none, decoder_channels: 16, "
        f"text: {{kind: table, table: {table}}}}}",
    )  # fmt: skip
    torch.manual_seed(0)
    text = class_text(config.model, SYNTHETIC_CLASSES)
    assert text is not None
    network = build_network(config.model, len(SYNTHETIC_CLASSES), text=text.embeddings)
    checkpoint = Checkpoint(
        step=1,
        config=config,
        classes=SYNTHETIC_CLASSES,
        data="synthetic@v1-0123456789ab",
        trained_ids=tuple(range(len(SYNTHETIC_CLASSES))),
        student=network.state_dict(),
        teacher=None,
        text=text,
        trainer={},
    )
    save_checkpoint(str(folder), checkpoint)
    return str(folder)


def write_open_vocabulary(folder: Path) -> str:
    """Writes an open-vocabulary checkpoint of random weights and sums, with MiniLM's width; returns its directory."""
    config = synthetic_config(
        "data", "run",
        "model={kind: open_vocabulary, backbone: test_vit, weights: none, text: {kind: table, table: t}}",
        "train.ema_horizon=0", "eval.weights=student", "eval.longest_side=64",
    )  # fmt: skip
    torch.manual_seed(0)
    text = TextTable(torch.randn(len(SYNTHETIC_CLASSES), WIDTH), SYNTHETIC_CLASSES.names, f"{MINILM} (random here)")
    model = build_network(config.model, len(SYNTHETIC_CLASSES), text=text.embeddings)
    assert isinstance(model, OpenVocabularyNetwork)
    moments = model.new_moments()
    for index in range(len(SYNTHETIC_CLASSES)):
        cells = torch.randn(8, model.backbone.channels) + 2 * torch.randn(1, model.backbone.channels)
        moments.add(cells, torch.full((8,), index))
    model.add(moments)
    checkpoint = Checkpoint(
        step=1, config=config, classes=SYNTHETIC_CLASSES, data="synthetic@v1-0123456789ab",
        trained_ids=tuple(range(len(SYNTHETIC_CLASSES))), student=model.state_dict(), teacher=None, text=text,
        trainer=None,
    )  # fmt: skip
    save_checkpoint(str(folder), checkpoint)
    return str(folder)


def write_region_classifier(folder: Path, seed: int = 3, *overrides: str) -> str:
    """Writes a region classifier of random weights that gives several ids; returns its directory."""
    config = synthetic_config(
        "data", "run", "model={kind: roi, backbone: test_byobnet, weights: none, dropout: 0}", "augment={crop: 32}",
        "roi.hidden=16", "train.ema_horizon=0", "eval={weights: student}", *overrides,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = build_model(config, len(SYNTHETIC_CLASSES))
    assert isinstance(model, RegionNetwork)
    for layer in model.head:
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.normal_(layer.weight, std=1.0)  # else one class is everywhere
    checkpoint = Checkpoint(
        step=1, config=config, classes=SYNTHETIC_CLASSES, data="synthetic@v1-0123456789ab",
        trained_ids=tuple(range(len(SYNTHETIC_CLASSES))), student=model.state_dict(), teacher=None, text=None,
        trainer=None,
    )  # fmt: skip
    save_checkpoint(str(folder), checkpoint)
    return str(folder)


def write_clip(folder: Path) -> str:
    """Writes a CLIP of random weights as open_clip publishes one, configuration and weights; returns the folder."""
    import open_clip  # takes seconds, and most users of this file do not need it

    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    weights = open_clip.CLIP(**TINY_CLIP).state_dict()
    config = {"model_cfg": TINY_CLIP, "preprocess_cfg": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(weights, folder / "open_clip_model.safetensors")
    return str(folder)


def spoil(folder: str) -> str:
    """Cuts the weights of a checkpoint in half; returns its directory."""
    weights = Path(folder) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    return folder


def meal(seed: int, height: int, width: int) -> np.ndarray:
    """Returns a synthetic meal, (height, width, 3) uint8 RGB."""
    return draw_meal(seed, height, width)[0]


def png(image: np.ndarray) -> bytes:
    """Returns an image as PNG, which a server decodes to the same pixels."""
    return cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()


def free_port() -> int:
    """Returns a port of 127.0.0.1 on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
