"""Models on the Hugging Face hub: `hf://owner/name[@revision]`, a repository that is a checkpoint directory.

    pin_checkpoint("hf://owner/name")         # hf://owner/name@<commit>
    local_checkpoint("hf://owner/name@<commit>")  # its folder in the hub's cache, downloaded once
    push_folder("out", "owner/name", commit_message="Model after 800 steps")

Endpoint, token, cache and offline mode are those of every tool of the hub: HF_ENDPOINT, HF_TOKEN, HF_HOME,
HF_HUB_OFFLINE. huggingface_hub is imported by the functions: a process that only looks for a checkpoint of a run does
without.
"""

import logging
import re
from pathlib import Path

from foodseg import storage
from foodseg.checkpoint.manifest import FILE, read_manifest_file
from foodseg.errors import MissingFile, UserError

CARD = "README.md"
_URI = re.compile(r"hf://([^/@]+/[^/@]+)(?:@(refs/[^/]+/[^/]+|[^/]+))?/?")
_NOT_A_MODELS = ("datasets", "spaces")
_STALE = ("*.safetensors", "*.pt", "calibration.json")  # of the checkpoint before, where the new one has no such file
_log = logging.getLogger(__name__)


def pin_checkpoint(uri: str) -> str:
    """Returns the URI at the commit that its revision names now, so that all processes load the same.

    Without a connection, the newest commit in the cache is meant.

    Raises:
        UserError: no such model or revision, no right to it, no checkpoint, or the hub is not reachable.
    """
    repository, _ = _split(uri)
    return f"hf://{repository}@{_download(uri, FILE).parent.name}"


def local_checkpoint(uri: str) -> str:
    """Returns a checkpoint directory as it is, but for one on the hub its folder in the cache, with all files in it.

    Raises:
        UserError, RetryLater: as `pin_checkpoint`, or its manifest is damaged.
    """
    if not storage.is_hub(uri):
        return uri
    folder = _download(uri, FILE).parent
    for name in read_manifest_file(str(folder)).files:
        _download(uri, name)
    return str(folder)


def push_folder(
    folder: str, repository: str, *, commit_message: str, private: bool | None = None, token: str | None = None
) -> str:
    """Uploads a checkpoint directory with its model card as one commit; returns the URL of the commit.

    A repository that is missing is created. An older checkpoint in it is replaced, and stays in its history.

    Args:
        private: of a repository that is created; None = as the account's default is.
        token: None = HF_TOKEN, or the one of `hf auth login`.

    Raises:
        UserError: no such name, no right to it, or the repository holds other files than a checkpoint.
        RetryLater: the hub does not answer.
    """
    from foodseg.storage.hub import api, explained

    uri = f"hf://{repository}"
    if _split(uri) != (repository, None):
        raise UserError(f"{repository}: a model is pushed to owner/name")
    with explained(uri, first=True, what="model", verb="write"):
        hub = api(token)
        hub.create_repo(repository, private=private, exist_ok=True)
        present = {name for name in hub.list_repo_files(repository) if not name.startswith(".git")}
    others = sorted(present - {CARD})
    if others and FILE not in others:
        shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        raise UserError(f"{uri} holds other files ({shown}) and no foodseg model: name another repository")
    if present:
        _log.warning("%s: %s is replaced; it stays in the history of the repository", uri, ", ".join(sorted(present)))
    with explained(uri, what="model", verb="write"):
        commit = hub.upload_folder(
            repo_id=repository, folder_path=folder, commit_message=commit_message, delete_patterns=list(_STALE)
        )
    return str(commit.commit_url)


def _download(uri: str, name: str) -> Path:
    from huggingface_hub import hf_hub_download

    from foodseg.storage.hub import endpoint, explained

    repository, revision = _split(uri)
    try:
        with explained(uri, first=True, what="model"):
            return Path(hf_hub_download(repository, name, revision=revision, endpoint=endpoint()))
    except MissingFile:  # also where the hub may not be asked (HF_HUB_OFFLINE), and the cache has no such file
        raise UserError(f"{uri} has no {name}, so it is not a model that foodseg has saved") from None


def _split(uri: str) -> tuple[str, str | None]:
    """Returns "owner/name", and the revision or None."""
    found = _URI.fullmatch(uri)
    if not found or found[1].partition("/")[0] in _NOT_A_MODELS:
        raise UserError(f"{uri}: a model on the hub is hf://owner/name, and optionally @revision")
    return found[1], found[2]
