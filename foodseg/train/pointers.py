"""What a run directory says of its checkpoints: `history.jsonl`, `best.json`, `last.json`; and which ones are kept."""

import json
from typing import Any

from foodseg import storage
from foodseg.checkpoint_files import checkpoint_uri, held


def write_pointers(run_uri: str, step: int, history: list[dict[str, Any]]) -> None:
    """Writes `history.jsonl`, `last.json`, and `best.json` when the newest validation is the best so far."""
    storage.write_text(storage.join(run_uri, "history.jsonl"), "".join(json.dumps(line) + "\n" for line in history))
    entry: dict[str, Any] = {"step": step, "checkpoint": f"checkpoints/step-{step:08d}"}
    if history and history[-1]["step"] == step:
        entry["miou"] = history[-1]["miou"]
        if entry["miou"] >= max(line["miou"] for line in history):
            storage.write_json(storage.join(run_uri, "best.json"), entry)
    storage.write_json(storage.join(run_uri, "last.json"), entry)


def restore_pointers(run_uri: str, step: int, history: list[dict[str, Any]]) -> None:
    """Writes the pointers of a run that goes on from `step`; the part before may have died before it wrote them.

    `best.json` may also name a later step, whose checkpoint was torn: then the best that is left stands.
    """
    kept = [
        line for line in history if storage.exists(storage.join(checkpoint_uri(run_uri, line["step"]), "manifest.json"))
    ]
    best_uri = storage.join(run_uri, "best.json")
    if kept:
        best = max(kept, key=lambda line: (line["miou"], line["step"]))
        entry = {"step": best["step"], "checkpoint": f"checkpoints/step-{best['step']:08d}", "miou": best["miou"]}
        storage.write_json(best_uri, entry)
    else:
        storage.delete(best_uri)
    write_pointers(run_uri, step, history)


def prune_checkpoints(run_uri: str, step: int, keep: int) -> None:
    """Deletes all but the best checkpoint, those that are served, and the newest `keep` up to that of `step`.

    That one has just been written.

    Later ones go first: they are torn, left by a part of the run that had come further.
    """
    folder = storage.join(run_uri, "checkpoints")
    names = sorted(name for name in storage.list_names(folder) if name.startswith("step-"))
    best_uri = storage.join(run_uri, "best.json")
    best = json.loads(storage.read_text(best_uri))["checkpoint"] if storage.exists(best_uri) else None
    own = [name for name in names if name <= f"step-{step:08d}"]
    served = held(run_uri) if own[:-keep] else set()
    for name in [*names[len(own) :], *(name for name in own[:-keep] if name not in served)]:
        if f"checkpoints/{name}" != best:
            storage.delete(storage.join(folder, name))
