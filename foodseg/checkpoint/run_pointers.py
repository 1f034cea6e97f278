"""What a run directory says of its checkpoints: `history.jsonl`, `best.json`, `last.json`; and which ones are kept."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from foodseg import storage
from foodseg.checkpoint.history import Validation, history_text
from foodseg.checkpoint.manifest import FILE
from foodseg.checkpoint.run_layout import (
    checkpoint_uri,
    folder_uri,
    list_checkpoints,
    name_of,
    relative_path,
    step_of,
)
from foodseg.checkpoint.served import held
from foodseg.errors import UserError


@dataclass(frozen=True)
class RunPointer:
    """The content of `best.json` and `last.json`.

    step: updates done. checkpoint: its path relative to the run. miou: on val, in [0, 1]; None where not validated.
    """

    step: int
    checkpoint: str
    miou: float | None = None

    def to_json(self) -> dict[str, object]:
        """Returns it by name, without a score that is None."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def best_of(run_uri: str) -> RunPointer | None:
    """Returns `best.json` of a run, None without one. UserError: it is damaged."""
    where = storage.join(run_uri, "best.json")
    if not storage.exists(where):
        return None
    text = storage.read_text(where)
    try:
        tree = json.loads(text)
        return RunPointer(tree["step"], tree["checkpoint"], tree.get("miou"))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{storage.redact(where)} is damaged: name one of the checkpoints in {storage.redact(folder_uri(run_uri))}"
        ) from None


def write_pointers(run_uri: str, step: int, history: Sequence[Validation]) -> None:
    """Writes `history.jsonl`, `last.json`, and `best.json` when the newest validation is the best so far."""
    storage.write_text(storage.join(run_uri, "history.jsonl"), history_text(history))
    last = history[-1] if history and history[-1].step == step else None
    pointer = RunPointer(step, relative_path(step), None if last is None else last.miou)
    if last is not None and last.decides >= max(validation.decides for validation in history):
        storage.write_json(storage.join(run_uri, "best.json"), pointer.to_json())
    storage.write_json(storage.join(run_uri, "last.json"), pointer.to_json())


def restore_pointers(run_uri: str, step: int, history: Sequence[Validation]) -> None:
    """Writes the pointers of a run that resumes from `step`; the process before may have died before it wrote them.

    `best.json` may also name a later step, whose checkpoint was torn: then it names the best that is left.
    """
    kept = [each for each in history if storage.exists(storage.join(checkpoint_uri(run_uri, each.step), FILE))]
    best_uri = storage.join(run_uri, "best.json")
    if kept:
        best = max(kept, key=lambda each: (each.decides, each.step))
        storage.write_json(best_uri, RunPointer(best.step, relative_path(best.step), best.miou).to_json())
    else:
        storage.delete(best_uri)
    write_pointers(run_uri, step, history)


def prune_checkpoints(run_uri: str, step: int, keep: int) -> None:
    """Deletes all but the best checkpoint, those that are served, and the newest `keep` up to that of `step`.

    That one has just been written.

    Later ones are deleted first: they are torn, left from before the run was resumed.
    """
    checkpoints = list_checkpoints(run_uri)
    best = best_of(run_uri)
    own = [uri for uri in checkpoints if step_of(uri) <= step]
    served = held(run_uri) if own[:-keep] else set()
    for uri in [*checkpoints[len(own) :], *(uri for uri in own[:-keep] if name_of(uri) not in served)]:
        if best is None or uri != storage.join(run_uri, best.checkpoint):
            storage.delete(uri)
