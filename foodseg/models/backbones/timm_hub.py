"""The weights that timm publishes, from the hub or from its cache on this machine.

    path = published_weights("tf_efficientnet_lite0")   # ~/.cache/huggingface/..., downloaded once

Endpoint, token and cache come from HF_ENDPOINT, HF_TOKEN and HF_HOME, as for every tool of the hub; HF_HUB_OFFLINE=1
uses the cache alone.
"""

import os
from urllib.parse import urlsplit

import timm
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HTTPError

from foodseg.errors import UserError

TIMEOUT = 10.0  # seconds until the hub has to have answered for the first time
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
    kept = try_to_load_from_cache(repository, FILE, revision=revision or None)
    if isinstance(kept, str):
        return kept
    endpoint = os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
    if constants.HF_HUB_OFFLINE:
        raise _missing(name, key, "HF_HUB_OFFLINE forbids to ask the hub")
    try:
        # asked once and briefly first: the download itself tries for a minute
        url = hf_hub_url(repository, FILE, revision=revision or None, endpoint=endpoint)
        get_hf_file_metadata(url, timeout=TIMEOUT, endpoint=endpoint)
        return hf_hub_download(repository, FILE, revision=revision or None, endpoint=endpoint)
    except EntryNotFoundError:
        return None
    except HfHubHTTPError as error:
        raise _missing(name, key, f"{_host(endpoint)} answers {error.response.status_code}") from None
    except (OSError, HTTPError, ValueError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise _missing(name, key, f"{_host(endpoint)} is not reachable ({said})") from None


def normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Returns the channel means and deviations that timm's weights of a model were trained with; None: not known."""
    published = timm.models.get_pretrained_cfg(name)
    return (tuple(published.mean), tuple(published.std)) if published else None


def weights_cached(name: str) -> bool:
    """True where the weights of a model are in the cache of this machine."""
    published = timm.models.get_pretrained_cfg(name)
    repository, _, revision = (published.hf_hub_id if published and published.hf_hub_id else "").partition("@")
    return bool(repository) and isinstance(try_to_load_from_cache(repository, FILE, revision=revision or None), str)


def _missing(name: str, key: str, reason: str) -> UserError:
    return UserError(
        f"{key} = timm: the weights of {name!r} are not in the cache of this machine, and {reason}: "
        f"name a .safetensors file or its s3:// URI, or set {key}=none to start from random weights"
    )


def _host(endpoint: str) -> str:
    parts = urlsplit(endpoint)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
