"""The weights that timm publishes, from the hub or from its cache on this machine.

path = published_weights("tf_efficientnet_lite0")   # ~/.cache/huggingface/..., downloaded once
"""

import timm

from foodseg.errors import UserError
from foodseg.storage.hub_cache import NotReachable, hub_file, kept_file

FILE = "model.safetensors"


def published_weights(name: str, key: str = "model.weights") -> str | None:
    """Returns the local file of timm's weights for a model; None where timm has them in another form (it loads those).

    Args:
        key: of the configuration, for messages.

    Raises:
        UserError: there are no such weights, the hub is not reachable, or it refuses them.
    """
    published = timm.models.get_pretrained_cfg(name)
    if published is None or not timm.models.is_model_pretrained(name):
        raise UserError(
            f"{key}: timm has no weights for {name!r}; name a .safetensors file, or set {key} to none "
            "for random weights"
        )
    if not published.hf_hub_id or published.hf_hub_filename or published.custom_load:
        return None
    repository, _, revision = published.hf_hub_id.partition("@")
    try:
        return hub_file(repository, FILE, revision or None)
    except NotReachable as reason:
        raise UserError(
            f"{key} = timm: the weights of {name!r} are not in the cache of this machine, and {reason}: "
            f"name a .safetensors file or its s3:// URI, or set {key}=none to start from random weights"
        ) from None


def normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Returns the channel means and deviations that timm's weights of a model were trained with; None: not known."""
    published = timm.models.get_pretrained_cfg(name)
    return (tuple(published.mean), tuple(published.std)) if published else None


def weights_cached(name: str) -> bool:
    """True where the weights of a model are in the cache of this machine."""
    published = timm.models.get_pretrained_cfg(name)
    repository, _, revision = (published.hf_hub_id if published and published.hf_hub_id else "").partition("@")
    return bool(repository) and kept_file(repository, FILE, revision or None) is not None
