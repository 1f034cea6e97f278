"""Lists of ingredients that come with the images, from a menu say: what `evaluate` provides instead of the truth.

    read_provided("menu.tsv", classes, ["lunch-001"])      # {"lunch-001": [12, 40]}

A line is an image id, a tab, and names with commas between; nothing behind the tab means background alone.
"""

from collections.abc import Sequence

from foodseg import storage
from foodseg.classes import ClassTable
from foodseg.errors import UserError
from foodseg.predict.class_names import parse_ingredients


def read_provided(path: str, classes: ClassTable, image_ids: Sequence[str]) -> dict[str, list[int]]:
    """Returns by image id the ids on its list.

    Args:
        classes: those of the model. image_ids: of the images that are scored; each needs a line.

    Raises:
        UserError: a line without a tab, an image twice, an unknown name, an image without a line.
    """
    lists: dict[str, list[int]] = {}
    for number, line in enumerate(storage.read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        image_id, tab, names = line.partition("\t")
        if not tab:
            raise UserError(f"{where}: an image id, a tab, and names with commas between are needed, found {line!r}")
        if image_id in lists:
            raise UserError(f"{where}: {image_id!r} has a list already; give each image one line")
        lists[image_id] = parse_ingredients(names, classes, where=where) if names.strip() else []
    missing = [image_id for image_id in image_ids if image_id not in lists]
    if missing:
        more = f", and of {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"{path} has no line for the image {missing[0]!r}{more}: every scored image needs one")
    return lists
