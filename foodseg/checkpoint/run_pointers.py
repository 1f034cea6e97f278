"""What a run directory says of its checkpoints: `history.jsonl`, `best.json`, `last.json`; and which ones are kept."""

import json
from typing import Any

from foodseg import storage
from foodseg.checkpoint.run_layout import checkpoint_uri, list_checkpoints, name_of, relative_path, step_of
from foodseg.checkpoint.served import held


def write_pointers(run_uri: str, step: int, history: list[dict[str, Any]]) -> None:
    """Writes `history.jsonl`, `last.json`, and `best.json` when the newest validation is the best so far."""
    storage.write_text(storage.join(run_uri, "history.jsonl"), "".join(json.dumps(line) + "\n" for line in history))
    entry: dict[str, Any] = {"step": step, "checkpoint": relative_path(step)}
    if history and history[-1]["step"] == step:
        entry["miou"] = history[-1]["miou"]
        if entry["miou"] >= max(line["miou"] for line in history):
            storage.write_json(storage.join(run_uri, "best.json"), entry)
    storage.write_json(storage.join(run_uri, "last.json"), entry)


def restore_pointers(run_uri: str, step: int, history: list[dict[str, Any]]) -> None:
    """Writes the pointers of a run that resumes from `step`; the process before may have died before it wrote them.

    `best.json` may also name a later step, whose checkpoint was torn: then it names the best that is left.
    """
    kept = [
        line for line in history if storage.exists(storage.join(checkpoint_uri(run_uri, line["step"]), "manifest.json"))
    ]
    best_uri = storage.join(run_uri, "best.json")
    if kept:
        best = max(kept, key=lambda line: (line["miou"], line["step"]))
        entry = {"step": best["step"], "checkpoint": relative_path(best["step"]), "miou": best["miou"]}
        storage.write_json(best_uri, entry)
    else:
        storage.delete(best_uri)
    write_pointers(run_uri, step, history)


def prune_checkpoints(run_uri: str, step: int, keep: int) -> None:
    """Deletes all but the best checkpoint, those that are served, and the newest `keep` up to that of `step`.

    That one has just been written.

    Later ones are deleted first: they are torn, left from before the run was resumed.
    """
    checkpoints = list_checkpoints(run_uri)
    best_uri = storage.join(run_uri, "best.json")
    best = json.loads(storage.read_text(best_uri))["checkpoint"] if storage.exists(best_uri) else None
    own = [uri for uri in checkpoints if step_of(uri) <= step]
    served = held(run_uri) if own[:-keep] else set()
    for uri in [*checkpoints[len(own) :], *(uri for uri in own[:-keep] if name_of(uri) not in served)]:
        if best is None or uri != storage.join(run_uri, best):
            storage.delete(uri)
