"""Text embeddings of class names from an open_clip text tower.

They are cached on this machine; entries are named by content: model, weights, sentences, kind of embedding.
"""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn
from torch.nn.functional import normalize

from foodseg.config.text import TextConfig
from foodseg.errors import UserError
from foodseg.models.clip.towers import find_clip, load_clip_towers, open_clip_module

EmbeddingKind = Literal["projected", "last", "penultimate"]
BATCH = 256  # sentences in one forward pass
_log = logging.getLogger(__name__)


def open_clip_embeddings(config: TextConfig, names: Sequence[Sequence[str]], kind: EmbeddingKind) -> torch.Tensor:
    """Embeds names with `config.model` and `config.tag`.

    Args:
        names: per class the words for it; the embeddings of all words in all `config.prompts` are averaged.
        kind: projected: the one that CLIP compares with images (normalised per sentence, and their mean again).
            last: the state at the end of the sentence after the final LayerNorm, before the projection, as it is:
            transformers' `pooler_output`, which VPD gives to Stable Diffusion 1. penultimate: the same with the last
            layer left out, for Stable Diffusion 2, which was trained with OpenCLIP-H read there.

    Returns:
        (names, D) float32.

    Raises:
        UserError: as `models.clip.towers.find_clip`; the weights cannot be loaded, or the model has no CLIP text tower.
    """
    assert config.model is not None
    found = find_clip(config.model, config.tag, config.quick_gelu, "model.text")
    sentences = [[prompt.format(word) for word in words for prompt in config.prompts] for words in names]
    tower = [open_clip_module().__version__, config.model, found.identity, found.quick_gelu]
    asked = json.dumps([*tower, sentences, kind])
    kept = _cache_file(hashlib.sha256(asked.encode()).hexdigest())
    try:
        return safetensors.torch.load_file(kept)["text"]
    except (OSError, SafetensorError, KeyError):
        pass  # not cached yet, or damaged: computed below
    towers = load_clip_towers(found, torch.device("cpu"))
    embeddings = torch.stack([averaged(towers.model, towers.tokenizer(own), kind) for own in sentences])
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(f".{os.getpid()}")
        safetensors.torch.save_file({"text": embeddings}, part)
        part.replace(kept)
    except (OSError, SafetensorError) as error:
        _log.warning("the class embeddings could not be cached: %s", error)
    return embeddings


@torch.no_grad()
def averaged(model: nn.Module, tokens: torch.Tensor, kind: EmbeddingKind) -> torch.Tensor:
    """Returns (D,) float32, the mean over sentences; see `open_clip_embeddings`.

    Args:
        model: an open_clip model with a CLIP text tower. tokens: (n, length) int64.
    """
    rows = torch.cat([_encoded(model, part, kind) for part in tokens.split(BATCH)])
    return normalize(normalize(rows, dim=1).mean(0), dim=0) if kind == "projected" else rows.mean(0)


def _encoded(model: Any, tokens: torch.Tensor, kind: EmbeddingKind) -> torch.Tensor:
    tower = getattr(model, "text", model)  # open_clip's CustomTextCLIP holds the tower as a part
    if not hasattr(tower, "ln_final"):
        raise UserError(f"model.text.model: {type(tower).__name__} is not a CLIP text tower: choose another model")
    projection, layers = tower.text_projection, tower.transformer.resblocks
    try:
        if kind != "projected":
            tower.text_projection = None  # then open_clip itself stops after the final LayerNorm
        if kind == "penultimate":
            tower.transformer.resblocks = layers[:-1]
        # CoCa's encode_text would normalise by default
        encoded: torch.Tensor = model.encode_text(tokens, normalize=False).float()
    finally:
        tower.text_projection, tower.transformer.resblocks = projection, layers
    return encoded


def _cache_file(name: str) -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "foodseg" / "text" / f"{name}.safetensors"
