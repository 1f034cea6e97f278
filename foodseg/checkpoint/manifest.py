"""The manifest of a checkpoint: its format, and every file with size and sha256, by which a torn one is recognised.

Kept apart from `checkpoint.py` so that a process that only looks for a checkpoint does not import torch.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from foodseg import storage
from foodseg.errors import UserError

FORMAT_VERSION = 2  # 1 had other names for keys of the configuration
REQUIRED_FILES = ("model.safetensors", "config.json", "classes.tsv", "history.jsonl")
FILE = "manifest.json"


class TornCheckpoint(UserError):
    """A checkpoint that was not written to its end, or was changed since."""


@dataclass(frozen=True)
class FileEntry:
    """What a file of the checkpoint must be: its size in bytes and its sha256 (hex)."""

    size: int
    sha256: str


@dataclass(frozen=True)
class CheckpointManifest:
    """The content of `manifest.json`.

    foodseg: the version that wrote it. step: updates done. data: identity of the prepared data set that was trained on.
    trained_ids: ids with pixels in the training splits. files: by name, all files but the manifest itself.
    class_pixels: per class id its pixels in the training splits; None = not noted, written by foodseg 0.1.0.
    """

    foodseg: str
    step: int
    data: str
    trained_ids: tuple[int, ...]
    files: Mapping[str, FileEntry]
    class_pixels: tuple[int, ...] | None = None

    def to_json(self) -> dict[str, object]:
        """Returns it as `manifest.json` has it, with the format version."""
        return {"format_version": FORMAT_VERSION, **asdict(self), "trained_ids": list(self.trained_ids)}


def read_manifest_file(uri: str) -> CheckpointManifest:
    """Returns the manifest of a checkpoint directory.

    Raises:
        TornCheckpoint: it is missing or damaged.
        UserError: it has another format.
    """
    where = storage.join(uri, FILE)
    if not storage.exists(where):
        raise TornCheckpoint(f"the checkpoint {storage.redact(uri)} is torn: {FILE} is missing")
    text = storage.read_bytes(where)
    try:
        tree = json.loads(text)
        version = tree["format_version"]
        manifest = _parsed(tree) if version == FORMAT_VERSION else None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise TornCheckpoint(f"the checkpoint {storage.redact(uri)} is torn: {FILE} is damaged") from None
    if manifest is None:
        raise UserError(
            f"the checkpoint {storage.redact(uri)} has format {version}, this foodseg reads {FORMAT_VERSION}: "
            + ("train again" if version < FORMAT_VERSION else "update foodseg")
        )
    return manifest


def _parsed(tree: dict[str, object]) -> CheckpointManifest:
    """Raises ValueError, KeyError, TypeError or AttributeError where something is missing or of another type."""
    step, data, ids, files = tree["step"], tree["data"], tree["trained_ids"], tree["files"]
    if not (isinstance(step, int) and isinstance(data, str) and isinstance(ids, list) and isinstance(files, dict)):
        raise TypeError
    # a name is part of a path of this machine
    if not files.keys() >= set(REQUIRED_FILES) or any(Path(name).name != name for name in files):
        raise KeyError
    entries = {name: FileEntry(int(entry["size"]), str(entry["sha256"])) for name, entry in files.items()}
    pixels = tree.get("class_pixels")
    if not (pixels is None or isinstance(pixels, list)):
        raise TypeError
    class_pixels = None if pixels is None else tuple(map(int, pixels))
    return CheckpointManifest(str(tree.get("foodseg", "")), step, data, tuple(ids), entries, class_pixels)


def sha256(data: bytes) -> str:
    """Returns the hex digest that manifests carry."""
    return hashlib.sha256(data).hexdigest()


def entry_of(path: Path) -> FileEntry:
    """Returns the entry of a file on this machine, which is read in pieces. OSError as the system gives it."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return FileEntry(stream.tell(), digest)
