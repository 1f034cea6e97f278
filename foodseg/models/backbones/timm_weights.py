"""Builds a model of timm with random weights, with those that timm publishes, or with a file of them.

    create = partial(timm.create_model, "vit_small_patch14_dinov2", num_classes=0)
    vit = with_weights("vit_small_patch14_dinov2", "s3://bucket/vit.safetensors", create)

timm loads whatever fits and keeps the random rest; here weights that are missing in a file are an error.
"""

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import timm
import torch
from torch import nn

from foodseg import storage
from foodseg.errors import UserError
from foodseg.models.backbones.timm_hub import published_weights


def require_timm_model(name: str, key: str = "model.backbone") -> None:
    """UserError, which names similar models, where timm has no model of this name; `key` is where it was given."""
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('.')[0][:12]}*")[:3]
        hint = f"; near names: {', '.join(near)}" if near else "; `timm.list_models()` lists them"
        raise UserError(f"{key}: timm has no model {name!r}{hint}")


def with_weights(
    name: str, weights: str | None, create: Callable[..., nn.Module], key: str = "model.weights"
) -> nn.Module:
    """Returns `create(**settings)` with its weights, in float32 whatever the file has.

    torch's random numbers afterwards are the same whatever the weights are, so that other layers start alike.

    Args:
        weights: None (random), "timm" (timm's hub), or a file or URI of timm's own state dict in safetensors format.
        create: passes `pretrained` and `pretrained_cfg_overlay` on to `timm.create_model`.
        key: of the configuration, for messages.

    Raises:
        UserError: timm has no such weights, the hub is not reachable, or the weights do not fit.
    """
    file = published_weights(name, key) if weights == "timm" else weights
    if file is not None:
        return _with_file(name, file, create, key)
    try:
        with _quiet_timm():
            return create(pretrained=weights == "timm")
    except Exception as error:  # the hub client raises what its network stack raises
        if weights is None:
            raise
        raise UserError(
            f"{key}: timm's hub did not give weights for {name!r} ({type(error).__name__}): "
            f"download them once and name the .safetensors file or its URI, or set {key}=none"
        ) from None


def _with_file(name: str, weights: str, create: Callable[..., nn.Module], key: str) -> nn.Module:
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / "weights.safetensors"
        local.write_bytes(storage.read_bytes(weights))
        try:
            # timm's own loader knows each family's names, so that the file is the one that timm publishes
            state = torch.get_rng_state()
            with _quiet_timm():
                model = create(pretrained=True, pretrained_cfg_overlay={"file": str(local)})
            with torch.random.fork_rng(devices=[]):
                torch.set_rng_state(state)
                _require_weights(model, create())
            return model
        except Exception as error:  # safetensors and timm raise a dozen kinds for one cause
            detail = str(error).split("\n")[0][:160]
            raise UserError(
                f"{key}: {storage.redact(weights)} does not hold timm weights of {name!r} "
                f"in safetensors format ({detail})"
            ) from None


def _require_weights(model: nn.Module, blank: nn.Module) -> None:
    """timm loads whatever fits and keeps the random rest: a tensor that is still as in `blank` was not in the file."""
    random = dict(blank.named_parameters())
    kept = [name for name, own in model.named_parameters() if own.ndim > 1 and torch.equal(own, random[name])]
    if kept:
        raise KeyError(f"{len(kept)} tensors are not in it, the first is {kept[0]}")


@contextlib.contextmanager
def _quiet_timm() -> Iterator[None]:
    """timm logs the classifier's keys as unexpected, although there is no classifier here."""
    logger = logging.getLogger("timm.models._builder")

    def wanted(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(("Unexpected keys", "Loading pretrained weights"))

    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)
