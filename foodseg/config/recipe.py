"""The settings of a training for which no file was named: the best cheap ones for a few hundred images.

resolved = load_recipe(None, ["data.uri=prepared/meals"])
"""

from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import as_file, files

from foodseg import storage
from foodseg.config.load import Resolved, load_config

ORIGIN = "recipe"
ENCODER_KEYS = ("model.kind", "model.backbone", "model.weights")


def load_recipe(path: str | None = None, overrides: Sequence[str] = ()) -> Resolved:
    """As `load_config`, which an explicit file is read by; without one `recipe.yaml` stands for it.

    Who names an encoder, or its weights, has that one alone: then the ViT of the recipe is left out.
    """
    if path is not None:
        return load_config(path, overrides)
    named = any(override.partition("=")[0].strip() in ENCODER_KEYS for override in overrides)
    with as_file(files("foodseg.config") / "recipe.yaml") as file:
        # before the user's, so that model.vit.* of these is stronger
        found = load_config(str(file), [*(["model.vit={}"] if named else []), *overrides])
        return replace(found, origins={k: ORIGIN if v == str(file) else v for k, v in found.origins.items()})


def load_started(overrides: Sequence[str] = ()) -> Resolved:
    """The configuration of a run that is resumed without a file: its own, or the recipe where nothing has begun."""
    found = load_recipe(None, overrides)
    own = storage.join(found.config.run.uri, "config.yaml")
    return load_config(own, overrides) if storage.exists(own) else found
