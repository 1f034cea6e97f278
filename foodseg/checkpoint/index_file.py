"""Which file lists those of a model: of a checkpoint, or of an exported one. Without torch, as who looks for models is.

index_file("runs/a/checkpoints/step-00001180")     # "manifest.json"
"""

from foodseg import storage
from foodseg.checkpoint.manifest import FILE as MANIFEST

EXPORTED = "model.json"


def index_file(uri: str) -> str | None:
    """Returns the file that lists those of a model: manifest.json of a checkpoint, model.json of an exported one.

    None where there is neither.
    """
    return next((name for name in (MANIFEST, EXPORTED) if storage.exists(storage.join(uri, name))), None)
