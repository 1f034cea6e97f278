"""Lists of image ids as people write them: with folders, extension, in another Unicode form, with a line twice.

listed_rows("a.jpg\\nimages/b\\n", ["a", "b", "c"], "subset.txt")      # [0, 1]
"""

import unicodedata
from collections.abc import Sequence

from foodseg.errors import UserError
from foodseg.prepare.formats.layout import without_extension


def listed_rows(text: str, ids: Sequence[str], where: str) -> list[int]:
    """Returns the sorted numbers in `ids` of the ids that the lines of `text` name, each once.

    Args:
        where: names the list in errors.

    Raises:
        UserError: a line does not name an id of `ids`.
    """
    row_of = {unicodedata.normalize("NFC", image_id): row for row, image_id in enumerate(ids)}
    rows, unknown = set(), []
    for line in text.split("\n"):
        written = unicodedata.normalize("NFC", line.strip())
        if not written:
            continue
        row = next((row_of[one] for one in _spellings(written) if one in row_of), None)
        if row is None:
            unknown.append(written)
        else:
            rows.add(row)
    if unknown:
        others = f" (nor are {len(unknown) - 1} others)" if len(unknown) > 1 else ""
        raise UserError(f"{where}: {unknown[0]!r} is not in the split{others}; list ids of that split")
    return sorted(rows)


def _spellings(written: str) -> list[str]:
    """Returns the ids that a line may mean, the likeliest first."""
    parts = [part for part in written.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    tails = ["/".join(parts[start:]) for start in range(len(parts))]
    return [written, *(one for tail in tails for one in (tail, without_extension(tail)))]
