"""The files of a checkpoint and of a run, without opening a model: manifest, verification, which one is the newest.

Kept apart from `checkpoint.py` so that a process that only looks for a checkpoint does not import torch.
"""

import hashlib
import json
import logging
import time
from typing import Any

from foodseg import storage
from foodseg.checkpoint.run_layout import list_checkpoints, name_of, run_of
from foodseg.errors import UserError

FORMAT_VERSION = 2  # 1 had other names for keys of the configuration
REQUIRED_FILES = ("model.safetensors", "trainer.pt", "config.json", "classes.tsv", "history.jsonl")
SERVED = "served"  # folder of a run with a file for each of its checkpoints that is served
HOLD_SECONDS = 7 * 24 * 3600.0
_log = logging.getLogger(__name__)


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


def newest_checkpoint(run_uri: str) -> str | None:
    """Returns the newest checkpoint of the run that verifies, warning of each torn one; None if there is none.

    Raises:
        UserError: one has another format, or may not be read: resuming from the one before would lose what it holds.
    """
    for uri in reversed(list_checkpoints(run_uri)):
        try:
            verify_checkpoint(uri)
        except TornCheckpoint as error:
            _log.warning("%s; the checkpoint before it is used", error)
            continue
        return uri
    return None


def resolve_checkpoint(argument: str) -> str:
    """Turns a CHECKPOINT argument into a checkpoint directory: itself, or of a run the best on val, else the newest.

    Raises:
        UserError: there is no checkpoint.
    """
    uri = storage.absolute(argument)
    if storage.exists(storage.join(uri, "manifest.json")):
        return uri
    best = storage.join(uri, "best.json")
    if storage.exists(best):
        try:
            return storage.join(uri, json.loads(storage.read_text(best))["checkpoint"])
        except (json.JSONDecodeError, KeyError, TypeError):
            raise UserError(
                f"{storage.redact(best)} is damaged: "
                f"name one of the checkpoints in {storage.redact(storage.join(uri, 'checkpoints'))}"
            ) from None
    newest = newest_checkpoint(uri)
    if newest is None:
        raise UserError(
            f"{storage.redact(argument)} is neither a checkpoint (no manifest.json) nor a run with one "
            "(no checkpoints/step-*): name the run directory of `foodseg train`"
        )
    return newest


def hold(uri: str) -> None:
    """Notes in a run that one of its checkpoints is being served: the run will not delete it for a week.

    The server calls this again before the week is over. A checkpoint outside a run is never deleted.

    Raises:
        UserError, RetryLater: the run may not be written to, or storage stays away.
    """
    run = run_of(uri)
    if run:
        storage.write_json(storage.join(run, SERVED, f"{name_of(uri)}.json"), {"until": time.time() + HOLD_SECONDS})


def held(run_uri: str) -> set[str]:
    """Returns the names of the checkpoints of a run that are served somewhere; removes the notes that have expired."""
    folder, names = storage.join(run_uri, SERVED), set()
    for entry in storage.list_names(folder):
        where = storage.join(folder, entry)
        try:
            until = float(json.loads(storage.read_text(where))["until"])
        except (ValueError, KeyError, TypeError):
            until = float("inf")  # in doubt nothing is deleted
        if until > time.time():
            names.add(entry.removesuffix(".json"))
        else:
            storage.delete(where)
    return names


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
