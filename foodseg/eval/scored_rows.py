"""Which rows of a prepared data set are scored: a split, images of it that are listed, or a fold that was held out.

split_rows("prepared/meals", "val", images="lunch.txt")
held_out_fold(config.data)      # what a training with data.folds and data.held_out did not see
"""

from collections.abc import Sequence
from dataclasses import dataclass

from foodseg import storage
from foodseg.config.data import DataConfig
from foodseg.data.concat import training_manifest
from foodseg.data.reader import RowReader
from foodseg.data.shards import Manifest, read_manifest
from foodseg.data.training_rows import held_out_rows
from foodseg.errors import UserError
from foodseg.eval.image_ids import listed_rows


@dataclass(frozen=True)
class ScoredRows:
    """`rows` of the reader, by number; `split`: its split, or the name of a fold. An access to "test" is noted."""

    manifest: Manifest
    reader: RowReader
    rows: Sequence[int]
    split: str

    def image_ids(self) -> list[str]:
        """Reads the ids of the rows."""
        ids = self.reader.column("image_id").to_pylist()
        return [ids[row] for row in self.rows]


def split_rows(data: str, split: str, images: str | None = None) -> ScoredRows:
    """Returns the rows of a split; with `images`, a file of image ids, only these.

    Raises:
        UserError: no such data set or split; the list is empty or names an unknown id.
    """
    manifest = read_manifest(data)
    reader = RowReader(data, manifest, [split])
    if images is None:
        return ScoredRows(manifest, reader, range(len(reader)), split)
    rows = listed_rows(storage.read_text(images), reader.column("image_id").to_pylist(), f"--images {images}")
    if not rows:
        raise UserError(f"--images {images}: there is no image id in it; write one a line")
    return ScoredRows(manifest, reader, rows, split)


def held_out_fold(data: DataConfig) -> ScoredRows:
    """Returns the rows that a training with `data` leaves out; it has `folds`.

    Raises:
        UserError: as `training_data`, whose rows these are not.
    """
    manifest = training_manifest(data)
    reader = RowReader(data.uri, manifest, data.train_splits)
    rows = held_out_rows(reader, data)
    assert rows is not None
    name = f"{' and '.join(data.train_splits)}, {data.held_out_name}"
    return ScoredRows(manifest, reader, rows.tolist(), name)
