"""Where the checkpoints of a run are and how they are named: `<run>/checkpoints/step-00000160`.

Only this module builds and parses these names.
"""

from foodseg import storage

_FOLDER = "checkpoints"
_PREFIX = "step-"
PATTERN = f"{_FOLDER}/{_PREFIX}*"  # relative to a run, as messages show it


def relative_path(step: int) -> str:
    """Returns the path of the checkpoint after `step` updates, relative to its run; names sort as their steps do."""
    return f"{_FOLDER}/{_PREFIX}{step:08d}"


def folder_uri(run_uri: str) -> str:
    """Returns the folder of a run's checkpoints."""
    return storage.join(run_uri, _FOLDER)


def checkpoint_uri(run_uri: str, step: int) -> str:
    """Returns the URI of the checkpoint after `step` updates."""
    return storage.join(run_uri, relative_path(step))


def step_of(uri: str) -> int:
    """Returns after how many updates a checkpoint of a run was written."""
    return int(storage.without_query(uri).rsplit(_PREFIX, 1)[1])


def name_of(uri: str) -> str:
    """Returns the name of a checkpoint directory within its folder."""
    return storage.without_query(uri).rstrip("/").rpartition("/")[2]


def run_of(uri: str) -> str | None:
    """Returns the URI of the run that a checkpoint is in; None for a checkpoint that is elsewhere."""
    location = storage.without_query(uri)
    run, separator, rest = location.rstrip("/").rpartition(f"/{_FOLDER}/")
    return f"{run}{uri.removeprefix(location)}" if separator and "/" not in rest else None


def list_checkpoints(run_uri: str) -> list[str]:
    """Returns the URIs of a run's checkpoints, whole or torn, the oldest first."""
    folder = folder_uri(run_uri)
    return [storage.join(folder, n) for n in sorted(storage.list_names(folder)) if n.startswith(_PREFIX)]
