"""Which checkpoints of a run are served somewhere, so that the run does not delete them.

It is a file of its own because two sides that do not know each other share its format: the endpoint writes the notes,
and the run that deletes old checkpoints reads them.
"""

import json
import time

from foodseg import storage
from foodseg.checkpoint.run_layout import name_of, run_of

SERVED = "served"  # folder of a run with a file for each of its checkpoints that is served
HOLD_SECONDS = 7 * 24 * 3600.0


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
