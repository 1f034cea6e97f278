"""The map of a label space into the union of several."""

from pathlib import Path

from experiments.several_sets.run import write_map
from foodseg.classes import ClassTable
from foodseg.data.label_space_map import read_label_space_map


def test_a_map_into_the_union(tmp_path: Path) -> None:
    own, union = ClassTable(("background", "tofu", "rice")), ClassTable(("background", "rice", "fig", "tofu"))
    write_map(tmp_path / "m.tsv", "meals", own, union)
    space_map = read_label_space_map(str(tmp_path / "m.tsv"))
    assert (space_map.from_space, space_map.to_space) == ("meals", "union")
    assert space_map.source_mismatch(own) is None and space_map.target_mismatch(union) is None
    assert [space_map.becomes(index, "s") for index in range(3)] == [0, 3, 1]
