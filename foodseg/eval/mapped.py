"""The label space in which an evaluation counts. With `--map MAP.tsv`, which maps space A into space B, it is B.

    space = common_space(checkpoint.classes, manifest, read_label_space_map("to_foodseg103.tsv"))
    truth, prediction = space.truth_ids(truth, source), space.predicted_ids(prediction, source)

The masks of a data set in A are mapped; of a checkpoint in A the predicted ids are mapped, after the argmax. Label maps
from a folder are in the space of their data set. A truth pixel that is mapped to `ignore` is not scored; a predicted id
that is mapped to it counts as background, since it is not an ingredient of B. As in validation, background is not
scored where the predicted id is one that the source of the image never annotates (`sources.scorable_mask`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from foodseg.classes import BACKGROUND, ClassTable, first_difference
from foodseg.data.label_space_map import LabelSpaceMap, map_ids, read_target
from foodseg.data.shards import Manifest
from foodseg.data.sources import scorable_mask
from foodseg.errors import UserError


@dataclass(frozen=True, eq=False)
class SpaceTables:
    """What ids of `classes` become in the common space, for images of each source (see `LabelSpaceMap.lookup`)."""

    classes: ClassTable
    by_source: dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class CommonSpace:
    """The label space in which truth and prediction are compared.

    Attributes:
        classes: the label space that is counted in.
        data: names the truth: the identity of the data set, and the map if its masks are mapped.
        truth, prediction: how they are mapped into `classes`; None = they are in it already.
        annotated: per source the ids of `classes` that it annotates; sources that annotate all may be left out.
    """

    classes: ClassTable
    data: str
    truth: SpaceTables | None = None
    prediction: SpaceTables | None = None
    annotated: Mapping[str, tuple[int, ...] | None] = field(default_factory=dict)

    def truth_ids(self, ids: np.ndarray, source: str) -> np.ndarray:
        """Returns the mask (H, W) of an image of `source` in ids of `classes`; UserError where it holds others."""
        return _mapped(ids, self.truth, source)

    def predicted_ids(self, ids: np.ndarray, source: str) -> np.ndarray:
        """Returns the predicted (H, W) ids in ids of `classes`; UserError where there are others."""
        return _mapped(ids, self.prediction, source)

    def scorable(self, truth: np.ndarray, prediction: np.ndarray, source: str) -> np.ndarray:
        """Returns the mask (H, W), in ids of `classes`, without the pixels that its source does not annotate."""
        return scorable_mask(truth, prediction, self.annotated.get(source), self.classes)

    def trained_ids(self, ids: Iterable[int]) -> list[int]:
        """Returns the ids of `classes` that a model can predict if it was trained on `ids` of its own."""
        if self.prediction is None:
            return sorted(ids)
        own = list(ids)
        return sorted({int(to) for table in self.prediction.by_source.values() for to in table[own]})

    def possible_ids(self, present: Iterable[int], source: str, count: int) -> list[int]:
        """Returns which of a model's ids may be on an image of `source` whose truth has the ids `present`.

        Args:
            present: foreground ids of the data set. count: ids of the model.

        Returns:
            Foreground ids of the model: those that are mapped, in `classes`, to an id that is present, or to one that
            the source never annotates, which may be present.
        """
        there = {self._one(index, self.truth, source) for index in present}
        annotated = self.annotated.get(source)
        means = [self._one(index, self.prediction, source) for index in range(count)]
        return [
            index
            for index, meant in enumerate(means)
            if index != BACKGROUND and meant != BACKGROUND
            if meant in there or (annotated is not None and meant not in annotated)
        ]

    @staticmethod
    def _one(index: int, tables: SpaceTables | None, source: str) -> int:
        return index if tables is None else int(tables.by_source[source][index])

    @property
    def mapped(self) -> list[str]:
        """Returns which sides are mapped: "data", "predictions"."""
        return [name for name, tables in (("data", self.truth), ("predictions", self.prediction)) if tables is not None]

    @property
    def partial(self) -> dict[str, int]:
        """Returns how many ids each source annotates that does not annotate all."""
        return {source: len(ids) for source, ids in self.annotated.items() if ids is not None}


def common_space(
    model: ClassTable | None, manifest: Manifest, space_map: LabelSpaceMap | None = None, target: str | None = None
) -> CommonSpace:
    """Finds the label space in which a model's predictions on a data set are scored.

    Args:
        model: label space of the checkpoint; None = the predictions are in that of the data set.
        target: file of the class table of the map's target space; None = that of a side that is in it, or as far as
            the map names it.

    Raises:
        UserError: the two spaces differ (without a map), a side is in neither space of the map, neither side is mapped,
            or the map does not fit the target or the sources of the data set.
    """
    data = manifest.class_table
    if space_map is None:
        _refuse_difference(model or data, data)
        return CommonSpace(data, manifest.identity, annotated=manifest.annotated)
    sides = {"the data set": data} if model is None else {"the data set": data, "the checkpoint": model}
    in_target = {side: table for side, table in sides.items() if not _is_source(side, table, space_map)}
    if len(in_target) == len(sides):
        raise UserError(
            f"--map {space_map.where}: {' and '.join(sides)} {'are' if len(sides) > 1 else 'is'} in the label space "
            f"{space_map.to_space} already, so there is nothing to map: leave --map out"
        )
    target_table = read_target(space_map, target) if target is not None or not in_target else None
    for side, table in in_target.items():
        difference = first_difference(target_table.names, table.names) if target_table is not None else None
        if difference is not None:
            index, name, other = difference
            raise UserError(f"--classes {target}: id {index} is {name} there, but {other} in {side}")
        target_table = table
    assert target_table is not None
    if "the data set" in in_target:
        predicted = _tables(space_map, sides["the checkpoint"], target_table, manifest)
        return CommonSpace(target_table, manifest.identity, None, predicted, manifest.annotated)
    space_map.refuse_other_sources(manifest.annotated)
    annotated = {
        source: space_map.annotated(source, ids, data, target_table) for source, ids in manifest.annotated.items()
    }
    return CommonSpace(
        target_table,
        f"{manifest.identity} mapped to {space_map.to_space}-{space_map.digest}",
        _tables(space_map, data, target_table, manifest, ignored=target_table.ignore_id),
        None if "the checkpoint" in in_target else _tables(space_map, model or data, target_table, manifest),
        annotated,
    )


def _is_source(side: str, table: ClassTable, space_map: LabelSpaceMap) -> bool:
    """Whether `table` is the space that is mapped; UserError where it is neither that nor the target space."""
    no_source, no_target = space_map.source_mismatch(table), space_map.target_mismatch(table)
    if no_source is not None and no_target is not None:
        raise UserError(
            f"--map {space_map.where} maps {space_map.from_space} to {space_map.to_space}, but {side} is neither: "
            f"not {space_map.from_space}, since {no_source}; not {space_map.to_space}, since {no_target}"
        )
    return no_source is None


def _refuse_difference(model: ClassTable, data: ClassTable) -> None:
    difference = first_difference(model.names, data.names)
    if difference is not None:
        index, own, other = difference
        raise UserError(
            f"the checkpoint was trained in another label space: id {index} is {own} there and {other} "
            f"in the data set ({len(model)} and {len(data)} ids); --map MAP.tsv scores across label spaces"
        )


def _tables(
    space_map: LabelSpaceMap, own: ClassTable, target: ClassTable, manifest: Manifest, ignored: int = BACKGROUND
) -> SpaceTables:
    return SpaceTables(own, {s: space_map.lookup(s, own, target, ignored=ignored) for s in manifest.annotated})


def _mapped(ids: np.ndarray, tables: SpaceTables | None, source: str) -> np.ndarray:
    return ids if tables is None else map_ids(ids, tables.by_source[source], tables.classes)
