"""Checks where `data prepare` and `map` write: never among their own inputs, never over files of others.

check_destination("my/meals", "my/meals/images/out")        # refuses
"""

import json
from pathlib import Path

from foodseg import storage
from foodseg.errors import UserError
from foodseg.prepare.formats.layout import visible_names


def check_destination(src: str, dst: str) -> None:
    """Checks that a prepared data set may be written at `dst`.

    A new folder inside `src` is allowed, one inside the folders that `src` consists of is not.

    Args:
        src: the data set that is read.
        dst: the folder that will hold dataset.json and the shards.

    Raises:
        UserError: `dst` is `src` or is in one of its folders, or holds a dataset.json of another kind.
        RetryLater: the storage does not answer.
    """
    shown = storage.redact(dst)
    _refuse_foreign(storage.join(dst, "dataset.json"))
    inside = None if storage.is_hub(src) else _inside(src, dst)
    if inside is None:
        return
    if not inside:
        raise UserError(f"DST {shown} is SRC: name another folder, so that results do not mix with inputs")
    first = storage.join(src, inside[0])
    if not storage.exists(storage.join(first, "dataset.json")) and visible_names(first):
        raise UserError(
            f"DST {shown} is in {inside[0]}/ of SRC, so that results would mix with inputs: name another folder"
        )


def _refuse_foreign(where: str) -> None:
    """Refuses a dataset.json of another program; a damaged one may be ours."""
    if not storage.exists(where):
        return
    try:
        tree = json.loads(storage.read_text(where))
    except ValueError:
        return
    if not isinstance(tree, dict) or "format_version" not in tree:
        raise UserError(
            f"{storage.redact(where)} was not written by foodseg and would be replaced: name another folder"
        )


def _inside(src: str, dst: str) -> tuple[str, ...] | None:
    """Returns the parts of `dst` below `src`, following links; None where it is not inside."""
    if storage.is_local(src) != storage.is_local(dst):
        return None
    if not storage.is_local(src):
        source, target = (storage.absolute(uri).partition("?")[0] + "/" for uri in (src, dst))
        return tuple(target.removeprefix(source).split("/")[:-1]) if target.startswith(source) else None
    source_path, target_path = (Path(storage.absolute(uri)).resolve() for uri in (src, dst))
    for above in (target_path, *target_path.parents):
        if above == source_path or (above.exists() and source_path.exists() and above.samefile(source_path)):
            return target_path.relative_to(above).parts
    return None
