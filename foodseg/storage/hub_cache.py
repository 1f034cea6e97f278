"""Single files of the Hugging Face hub, from the cache of this machine or downloaded into it once.

    path = hub_file("timm/tf_efficientnet_lite0.in1k", "model.safetensors")

Endpoint, token and cache come from HF_ENDPOINT, HF_TOKEN and HF_HOME, as for every tool of the hub; HF_HUB_OFFLINE=1
uses the cache alone.
"""

import os
from urllib.parse import urlsplit

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HTTPError

TIMEOUT = 10.0  # seconds until the hub has to have answered for the first time


class NotReachable(Exception):
    """A file that is not in the cache cannot be had; the message is the reason, as a part of a sentence."""


def kept_file(repository: str, name: str, revision: str | None = None) -> str | None:
    """Returns the local file; None where it is not in the cache of this machine."""
    kept = try_to_load_from_cache(repository, name, revision=revision)
    return kept if isinstance(kept, str) else None


def hub_file(repository: str, name: str, revision: str | None = None) -> str | None:
    """Returns the local file, downloaded where it is not in the cache yet; None where the repository has none.

    Raises:
        NotReachable: the hub does not answer, refuses, or is not to be asked.
    """
    kept = kept_file(repository, name, revision)
    if kept is not None:
        return kept
    endpoint = os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
    if constants.HF_HUB_OFFLINE:
        raise NotReachable("HF_HUB_OFFLINE forbids to ask the hub")
    try:
        # asked once and briefly first: the download itself tries for a minute
        url = hf_hub_url(repository, name, revision=revision, endpoint=endpoint)
        get_hf_file_metadata(url, timeout=TIMEOUT, endpoint=endpoint)
        return hf_hub_download(repository, name, revision=revision, endpoint=endpoint)
    except EntryNotFoundError:
        return None
    except HfHubHTTPError as error:
        raise NotReachable(f"{_host(endpoint)} answers {error.response.status_code}") from None
    except (OSError, HTTPError, ValueError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise NotReachable(f"{_host(endpoint)} is not reachable ({said})") from None


def _host(endpoint: str) -> str:
    parts = urlsplit(endpoint)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
