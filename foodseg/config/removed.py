"""Keys that a configuration may still have, since an earlier version wrote them, and that no longer do anything.

without_removed({"train": {"steps": 10, "average": "uniform"}})    # {"train": {"steps": 10}}, and a warning
"""

import logging
from collections.abc import Mapping
from typing import Any

import yaml

from foodseg.config.literals import Typed, parsed, plain

# with the value that did nothing then either, of which nothing is said
REMOVED: Mapping[str, Any] = {"train.average": "ema", "augment.small_updates": 0, "augment.small_side": 0.5}
_log = logging.getLogger(__name__)


def without_removed(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a nested dict of sections without its removed keys; the log says which of them had done something."""
    kept = dict(tree)
    for dotted, neutral in REMOVED.items():
        section, _, key = dotted.partition(".")
        inside = kept.get(section)
        if not isinstance(inside, dict) or key not in inside:
            continue
        value = inside[key]
        found = parsed(value, dotted) if isinstance(value, Typed) else plain(value)
        found = yaml.safe_load(found) if isinstance(found, str) else found  # no field says that it is a number
        kept[section] = {name: other for name, other in inside.items() if name != key}
        if found != neutral:
            _log.warning("%s = %s has no effect any more: it was removed, since it gained nothing", dotted, found)
    return kept
