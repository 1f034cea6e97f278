"""Vectors of names from an open_clip text tower; open_clip_torch is imported only where it is used.

What was computed once is kept in a cache on this machine, named by content: model, weights, sentences, kind of vector.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn
from torch.nn.functional import normalize

from foodseg import storage
from foodseg.config.text import TextConfig
from foodseg.errors import UserError

BATCH = 256  # sentences in one forward pass
_log = logging.getLogger(__name__)


def open_clip_vectors(config: TextConfig, names: Sequence[Sequence[str]], *, projected: bool) -> torch.Tensor:
    """Embeds names with `config.model` and `config.tag`.

    Args:
        names: per class the words for it; the vectors of all words in all `config.prompts` are averaged.
        projected: the vector that CLIP compares with pictures (each sentence's of length 1, and so their mean); False:
            the state at the end of the sentence after the final LayerNorm, before the projection, as it is.

    Returns:
        (names, D) float32.

    Raises:
        UserError: open_clip is missing, or lacks the model or its weights; a file of weights leaves their GELU open.
    """
    open_clip = _open_clip()
    weights = _weights(open_clip, config)
    sentences = [[prompt.format(word) for word in words for prompt in config.prompts] for words in names]
    tower = [open_clip.__version__, config.model, weights.identity, weights.quick_gelu]
    asked = json.dumps([*tower, sentences, projected])
    kept = _cache_file(hashlib.sha256(asked.encode()).hexdigest())
    if kept.exists():
        return safetensors.torch.load_file(kept)["text"]
    model = _load(open_clip, config, weights)
    tokenizer = open_clip.get_tokenizer(config.model)
    vectors = torch.stack([averaged(model, tokenizer(own), projected=projected) for own in sentences])
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(f".{os.getpid()}")
        safetensors.torch.save_file({"text": vectors}, part)
        part.replace(kept)
    except OSError as error:
        _log.warning("the vectors of the names are not kept for the next time: %s", error)
    return vectors


@torch.no_grad()
def averaged(model: nn.Module, tokens: torch.Tensor, *, projected: bool) -> torch.Tensor:
    """Returns (D,) float32, the mean over sentences; see `open_clip_vectors`.

    Args:
        model: an open_clip model with a CLIP text tower. tokens: (n, length) int64.
    """
    rows = torch.cat([_encoded(model, part, projected) for part in tokens.split(BATCH)])
    return normalize(normalize(rows, dim=1).mean(0), dim=0) if projected else rows.mean(0)


def _encoded(model: Any, tokens: torch.Tensor, projected: bool) -> torch.Tensor:
    tower = getattr(model, "text", model)  # open_clip's CustomTextCLIP holds the tower as a part
    if not hasattr(tower, "ln_final"):
        raise UserError(f"model.text.model: {type(tower).__name__} is no CLIP text tower: choose another model")
    projection = tower.text_projection
    try:
        if not projected:
            tower.text_projection = None  # then open_clip itself stops after the final LayerNorm
        # CoCa's encode_text would bring them to length 1 by default
        encoded: torch.Tensor = model.encode_text(tokens, normalize=False).float()
    finally:
        tower.text_projection = projection
    return encoded


class _Weights:
    """A published tag, or a file of weights: its bytes are read where they are asked for."""

    def __init__(self, tag: str, data: bytes | None, quick_gelu: bool) -> None:
        self.tag, self.data, self.quick_gelu = tag, data, quick_gelu
        self.identity = tag if data is None else hashlib.sha256(data).hexdigest()


def _weights(open_clip: Any, config: TextConfig) -> _Weights:
    assert config.model is not None and config.tag is not None
    if config.model not in open_clip.list_models():
        raise UserError(
            f"model.text.model: open_clip has no model {config.model!r}; open_clip.list_models() lists them"
        )
    tags = open_clip.list_pretrained_tags_by_model(config.model)
    # OpenAI's towers were trained with another GELU; open_clip only warns where the model's name does not say so
    published = {tag: bool(open_clip.get_pretrained_cfg(config.model, tag).get("quick_gelu")) for tag in tags}
    if config.tag in tags:
        quick = published[config.tag] if config.quick_gelu is None else config.quick_gelu
        return _Weights(config.tag, None, quick)
    if not storage.exists(config.tag):
        known = ", ".join(tags) or "none"
        raise UserError(
            f"model.text.tag: {storage.redact(config.tag)!r} is no file, and no tag of {config.model} ({known})"
        )
    known_with = {bool(open_clip.get_model_config(config.model).get("quick_gelu")), *published.values()}
    if config.quick_gelu is None and len(known_with) > 1:
        raise UserError(
            f"model.text.quick_gelu: a file of weights does not say its GELU, and {config.model} is known with both: "
            "set true for weights from OpenAI's, false for those of open_clip's default"
        )
    quick = known_with.pop() if config.quick_gelu is None else config.quick_gelu
    return _Weights(config.tag, storage.read_bytes(config.tag), quick)


def _load(open_clip: Any, config: TextConfig, weights: _Weights) -> nn.Module:
    with tempfile.TemporaryDirectory() as folder:
        pretrained = weights.tag
        if weights.data is not None:
            ending = ".safetensors" if config.tag and ".safetensors" in config.tag else ".pt"
            local = Path(folder) / f"weights{ending}"
            local.write_bytes(weights.data)
            pretrained = str(local)
        try:
            model: nn.Module = open_clip.create_model(
                config.model,
                pretrained=pretrained,
                force_quick_gelu=weights.quick_gelu,  # without it open_clip warns of the published tag's
                quick_gelu=weights.quick_gelu,  # and with that alone it cannot be switched off
            )
        except Exception as error:  # the hub client, torch and safetensors raise a dozen kinds
            detail = str(error).split("\n")[0][:160]
            raise UserError(
                f"model.text: open_clip cannot load {config.model} with {storage.redact(weights.tag)} "
                f"({type(error).__name__}: {detail})"
            ) from None
    return model.eval()


def _open_clip() -> Any:
    try:
        import open_clip
    except ImportError:
        raise UserError(
            "model.text.kind = open_clip needs the package open_clip_torch: pip install open_clip_torch, or use "
            "kind table with a file of `foodseg data embed`"
        ) from None
    return open_clip


def _cache_file(name: str) -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "foodseg" / "text" / f"{name}.safetensors"
