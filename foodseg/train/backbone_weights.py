"""What a run's backbone starts from: kept once in the run directory, so that no worker needs the hub or the file.

state = backbone_of_run(config)    # None: random weights, or nothing has begun there
"""

import logging

import safetensors.torch
import torch

from foodseg import storage
from foodseg.config import ExperimentConfig
from foodseg.config.model import ModelConfig
from foodseg.config.vit import ViTConfig
from foodseg.models.backbones.timm_hub import normalisation

BACKBONE_FILE = "backbone.safetensors"
_log = logging.getLogger(__name__)


def has_weights(config: ExperimentConfig) -> bool:
    """Whether any part of the backbone starts from weights."""
    vit, roi = config.model.vit, config.roi
    others = [part for part in ((vit.backbone, vit.weights), (roi.context_backbone, roi.context_weights)) if part[0]]
    return any(weights != "none" for weights in (config.model.weights, *(weights for _, weights in others)))


def warn_of_weights(config: ExperimentConfig, *, starts: bool) -> None:
    """Warns of random weights where a run starts, and of images normalised in another way than for the weights."""
    parts: list[tuple[str, str, ModelConfig | ViTConfig]] = [("model", config.model.backbone, config.model)]
    if config.model.vit.backbone is not None:
        parts.append(("model.vit", config.model.vit.backbone, config.model.vit))
    for section, backbone, part in parts:
        if part.weights == "none" and starts:
            _log.warning(
                "%s.weights is none: %s starts from random weights, so expect low scores; timm would take pretrained "
                "ones", section, "the backbone" if section == "model" else f"{section}.backbone",
            )  # fmt: skip
        trained_with = (
            normalisation(backbone) if config.model.kind in ("timm", "realtime") and part.weights != "none" else None
        )
        if trained_with is not None and trained_with != (part.mean, part.std):
            _log.warning(
                "the weights of %r were trained with %s.mean = %s and %s.std = %s, which are %s and %s here: "
                "scores may suffer",
                backbone, section, list(trained_with[0]), section, list(trained_with[1]), list(part.mean),
                list(part.std),
            )  # fmt: skip


def backbone_of_run(config: ExperimentConfig) -> dict[str, torch.Tensor] | None:
    """Returns the initial weights of a run's backbone, as `begin_run` has written them; None without such.

    Raises:
        UserError, RetryLater: storage cannot be read.
    """
    where = storage.join(config.run.uri, BACKBONE_FILE)
    if config.model.kind == "diffusion" or not has_weights(config) or not storage.exists(where):
        return None
    return safetensors.torch.load(storage.read_bytes(where))
