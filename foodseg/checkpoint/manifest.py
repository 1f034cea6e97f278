"""The manifest of a checkpoint: its format, and every file with size and sha256, by which a torn one is recognised.

Kept apart from `checkpoint.py` so that a process that only looks for a checkpoint does not import torch.
"""

import hashlib
import json
from typing import Any

from foodseg import storage
from foodseg.errors import UserError

FORMAT_VERSION = 2  # 1 had other names for keys of the configuration
REQUIRED_FILES = ("model.safetensors", "trainer.pt", "config.json", "classes.tsv", "history.jsonl")


class TornCheckpoint(UserError):
    """A checkpoint that was not written to its end, or was changed since."""


def verify_checkpoint(uri: str) -> None:
    """Reads every file of the directory against its manifest.

    Raises:
        TornCheckpoint: naming the first file that is missing or differs.
        UserError: it has another format, or may not be read.
    """
    for name, entry in read_manifest_file(uri)["files"].items():
        verified_file(uri, name, entry)


def read_manifest_file(uri: str) -> dict[str, Any]:
    """Returns the manifest of a checkpoint directory.

    Raises:
        TornCheckpoint: it is missing or damaged.
        UserError: it has another format.
    """
    where = storage.join(uri, "manifest.json")
    if not storage.exists(where):
        raise TornCheckpoint(f"the checkpoint {storage.redact(uri)} is torn: manifest.json is missing")
    text = storage.read_bytes(where)
    try:
        manifest: dict[str, Any] = json.loads(text)
        version = manifest["format_version"]
        if version == FORMAT_VERSION:
            manifest["step"], manifest["data"], manifest["trained_ids"]
            for name in REQUIRED_FILES:
                manifest["files"][name]["size"], manifest["files"][name]["sha256"]
    except (ValueError, KeyError, TypeError):
        raise TornCheckpoint(f"the checkpoint {storage.redact(uri)} is torn: manifest.json is damaged") from None
    if version != FORMAT_VERSION:
        raise UserError(
            f"the checkpoint {storage.redact(uri)} has format {version}, this foodseg reads {FORMAT_VERSION}: "
            + ("train again" if version < FORMAT_VERSION else "update foodseg")
        )
    return manifest


def verified_file(uri: str, name: str, entry: dict[str, Any]) -> bytes:
    """Returns the content of a file of the checkpoint; TornCheckpoint: missing, or not what its manifest entry says."""
    where = storage.join(uri, name)
    if not storage.exists(where):
        raise TornCheckpoint(f"the checkpoint {storage.redact(uri)} is torn: {name} is missing")
    data = storage.read_bytes(where)
    if len(data) != entry["size"]:
        raise TornCheckpoint(
            f"the checkpoint {storage.redact(uri)} is torn: {name} has {len(data)} bytes, not {entry['size']}"
        )
    if sha256(data) != entry["sha256"]:
        raise TornCheckpoint(
            f"the checkpoint {storage.redact(uri)} is torn: the content of {name} does not match its sha256"
        )
    return data


def sha256(data: bytes) -> str:
    """Returns the hex digest that manifests carry."""
    return hashlib.sha256(data).hexdigest()
