"""Reading results.json for tables: records in today's words, numbers as text, tables as Markdown.

figures("parity", "parity")["seed 0"]["scores"]["ours"]["miou"]
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.item_queue import HERE, read_results

# Records keep the words of their time; keys, and parts of keys, in today's.
KEYS = {
    "arms": "variants", "pictures": "images", "pictures_scored": "images_scored", "per_picture": "per_image",
    "plates": "synthetic", "its own guess": "image-level prediction",
    "text and its own guess": "text and image-level prediction", "test_pictures_with_a_twin_in_train":
    "test_images_with_a_twin_in_train",
}  # fmt: skip
PARTS = {
    "the teacher told the truth": "teacher conditioned on the true classes", "random vectors": "random embeddings",
    "C names, its own guess": "C names, predicted", ", its own guess": ", predicted", ", all names": ", vocabulary",
    "told (oracle)": "provided (oracle)", "given (oracle)": "provided (oracle)",
    "vectors exchanged": "embeddings exchanged", "lists exchanged": "conditioning exchanged",
}  # fmt: skip


def figures(folder: str, item: str) -> Any:
    """Returns what an item found, with today's keys; raises KeyError where it has not been run."""
    return _renamed(read_results(HERE / folder / "results.json")[item]["figures"])


def recorded_items(folder: str) -> dict[str, Any]:
    """Returns what each item of a folder found that has been run, as `figures`."""
    return {item: figures(folder, item) for item in read_results(HERE / folder / "results.json")}


def source(*items: str) -> str:
    """Returns the line below a table: commands that measure it again, and when and at which commit it was measured."""
    told = []
    for item in items:
        folder, _, name = item.partition("/")
        part = read_results(HERE / folder / "results.json")[name]
        told.append(f"`python -m experiments {item}`, {part['finished'][:10]}, commit `{part['commit']}`")
    return f"Measured by {'; '.join(told)}."


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table; columns whose name begins with ">" are aligned to the right."""
    rule = ["---:" if name.startswith(">") else "---" for name in header]
    lines = [[name.removeprefix(">") for name in header], rule, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(share: float) -> str:
    """0.775 -> "77.5"."""
    return f"{100 * share:.1f}"


def interval(found: Mapping[str, Any]) -> str:
    """A difference with its 95 % interval, in points."""
    low, high = (f"{100 * found[key]:+.1f}" for key in ("low", "high"))
    return f"{100 * found['difference']:+.1f} ({low} to {high})"


def shown(variant: str) -> str:
    """ "C1 names permuted" -> "C1: names permuted"."""
    return re.sub(r"^([A-Z]\d?) ", r"\1: ", variant)


def _renamed(value: Any) -> Any:
    if isinstance(value, dict):
        return {_today(key): _renamed(inner) for key, inner in value.items()}
    return [_renamed(inner) for inner in value] if isinstance(value, list) else value


def _today(key: str) -> str:
    if key in KEYS:
        return KEYS[key]
    for old, new in PARTS.items():
        key = key.replace(old, new)
    return key
