"""Which checkpoint is meant: the newest of a run that is not torn, or what a CHECKPOINT argument names.

newest_checkpoint("runs/a")    # None: there is none yet
resolve_checkpoint("runs/a")   # the best on val, else the newest
resolve_checkpoint("hf://owner/name")  # the same with its commit
"""

import logging

from foodseg import storage
from foodseg.checkpoint.hub import pin_checkpoint
from foodseg.checkpoint.index_file import index_file
from foodseg.checkpoint.manifest import TornCheckpoint
from foodseg.checkpoint.node_copy import verify_checkpoint
from foodseg.checkpoint.run_layout import PATTERN, list_checkpoints
from foodseg.checkpoint.run_pointers import best_of
from foodseg.errors import UserError

_OF_EXPORTED = ("model.onnx", "model.xml", "model.json")
_log = logging.getLogger(__name__)


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

    A directory that `foodseg export` wrote is one as well, named itself or by its graph (model.onnx, model.xml).

    A model on the hub is named with its commit; it is downloaded when it is loaded.

    Raises:
        UserError: there is no checkpoint, or the run's `best.json` is damaged.
    """
    if storage.is_hub(argument):
        return pin_checkpoint(argument)
    uri = storage.absolute(argument)
    folder, _, name = uri.rpartition("/")
    if name in _OF_EXPORTED:
        uri = folder
    if index_file(uri) is not None:
        return uri
    best = best_of(uri)
    if best is not None:
        return storage.join(uri, best.checkpoint)
    newest = newest_checkpoint(uri)
    if newest is None:
        raise UserError(
            f"{storage.redact(argument)} is neither a checkpoint (no manifest.json) nor a run with one "
            f"(no {PATTERN}) nor an exported model (no model.json): name the run directory of `foodseg train`, the "
            "folder of `foodseg export`, or hf://owner/name of a model on the hub"
        )
    return newest
