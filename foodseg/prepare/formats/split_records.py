"""The records of a published data set: each split has a list of images, and folders of images and masks."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from foodseg import storage
from foodseg.data.unread import UnreadMask
from foodseg.prepare.formats.file_index import FileIndex
from foodseg.prepare.formats.layout import without_extension
from foodseg.prepare.formats.mask_files import find_masks
from foodseg.prepare.formats.mask_names import EXTENSIONS as MASKS
from foodseg.prepare.formats.split_lists import ListedImage, read_list
from foodseg.prepare.record import Record, Unreadable, distinct_ids


@dataclass(frozen=True)
class ListedSplit:
    """A split of a published data set: its list of images, one a line, and the folders of images and masks."""

    split: str
    names: str
    images: str
    masks: str


def listed_records(splits: Sequence[ListedSplit], source: str, mask: Callable[[str], UnreadMask]) -> tuple[Record, ...]:
    """Returns a record for each line of the lists; `mask` returns the mask for the URI of its file.

    Every image of a published data set has a mask: where the mask is missing, the audit refuses the record by name.
    Images that are not listed are left out and counted in the log.

    Raises:
        UserError, DataRefused: what `find_masks` raises.
    """
    images = {folder: FileIndex(folder) for folder in {part.images for part in splits}}
    lines = {part.split: read_list(part.names, images[part.images]) for part in splits}
    together: dict[tuple[str, str], list[ListedImage]] = defaultdict(list)  # splits may share their folders
    for part in splits:
        together[part.images, part.masks] += lines[part.split]
    masks = {
        folders: find_masks(images[folders[0]], FileIndex(folders[1], MASKS), own, mask)
        for folders, own in together.items()
    }
    found = []  # (stem, record)
    for part in splits:
        for line in lines[part.split]:
            stem = line.stem.rsplit("/", 1)[-1]
            label = masks[part.images, part.masks].get(line.key) or _absent(part, line)
            found.append((stem, Record(stem, part.split, source, line.image(images[part.images]), label)))
    ids = distinct_ids([stem for stem, _ in found], [f"{record.split}/{stem}" for stem, record in found])
    return tuple(
        Record(image_id, one.split, one.source, one.image, one.mask)
        for image_id, (_, one) in zip(ids, found, strict=True)
    )


def _absent(part: ListedSplit, line: ListedImage) -> Unreadable:
    name = without_extension(line.path or line.text)
    return Unreadable(f"{storage.redact(part.masks)} has no mask {name}.png", "missing_file")
