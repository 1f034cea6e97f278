"""Scores across label spaces: which side is mapped, and what its ids become."""

from pathlib import Path

import numpy as np
import pytest

from foodseg.classes import ClassTable
from foodseg.data.label_space_map import parse_label_space_map
from foodseg.data.shards import FORMAT_VERSION, Manifest
from foodseg.errors import UserError
from foodseg.eval.mapped import common_space
from foodseg.metrics.confusion import confusion, scores

A = ClassTable(("background", "white rice", "brown rice", "fork", "tofu"))
B = ClassTable(("background", "candy", "rice", "tofu", "fig"))
MAP = parse_label_space_map(
    "a_id\ta_name\tb_id\tb_name\n0\tbackground\t0\tbackground\n1\twhite rice\t2\trice\n2\tbrown rice\t2\trice\n"
    "3\tfork\tignore\n4\ttofu\t3\ttofu\n",
    "m.tsv",
)
TRUTH_A = np.array([[0, 1, 2], [3, 4, 255]], np.uint8)
TRUTH_B = np.array([[0, 2, 2], [255, 3, 255]], np.uint8)


def manifest(classes: ClassTable, *sources: str) -> Manifest:
    return Manifest(
        format_version=FORMAT_VERSION, name="meals", generation=1, folder="v-1",
        classes=classes.names, ignore_id=classes.ignore_id,
        annotated=dict.fromkeys(sources or ("s",)), shards=(), counts={}, quarantined=0,
    )  # fmt: skip


def test_without_a_map_nothing_is_mapped() -> None:
    space = common_space(A, manifest(A))
    assert space.classes == A and space.mapped == [] and space.data == manifest(A).identity
    assert space.truth_ids(TRUTH_A, "s") is TRUTH_A and space.predicted_ids(TRUTH_A, "s") is TRUTH_A
    assert space.trained_ids([4, 0]) == [0, 4]
    assert common_space(None, manifest(B)).classes == B
    with pytest.raises(
        UserError, match=r"another label space: id 1 is 'white rice' there and 'candy' in the data set \(5 and 5 ids\)"
    ):
        common_space(A, manifest(B))


def test_background_proves_nothing_about_ids_that_are_not_annotated() -> None:
    partial = manifest(B).model_copy(update={"annotated": {"s": (0, 2), "t": None}})
    truth, prediction = np.array([[0, 0, 2, 255]], np.uint8), np.array([[2, 3, 3, 3]], np.uint8)
    space = common_space(B, partial)
    assert space.partial == {"s": 2} and space.scorable(truth, prediction, "s").tolist() == [[0, 255, 2, 255]]
    assert space.scorable(truth, prediction, "t") is truth
    # a set that is mapped into B says nothing about what A never names: candy and fig; `foodseg data map` says the same
    mapped = common_space(B, manifest(A), MAP)
    assert mapped.annotated == {"s": (0, 2, 3)} and mapped.partial == {"s": 3}
    assert mapped.scorable(truth, np.array([[1, 2, 4, 0]], np.uint8), "s").tolist() == [[255, 0, 2, 255]]
    assert common_space(A, partial, MAP).annotated == partial.annotated


def test_a_checkpoint_in_a_on_data_in_b() -> None:
    space = common_space(A, manifest(B), MAP)
    assert space.classes == B and space.mapped == ["predictions"]
    assert space.data == manifest(B).identity, "comparable with a checkpoint of B"
    assert space.truth_ids(TRUTH_B, "s") is TRUTH_B
    # a fork is no ingredient of B: it counts as background
    assert space.predicted_ids(TRUTH_A, "s").tolist() == [[0, 2, 2], [0, 3, 255]]
    assert space.trained_ids([0, 1, 4]) == [0, 2, 3]


def test_data_in_a_for_a_checkpoint_in_b() -> None:
    space = common_space(B, manifest(A), MAP)
    assert space.classes == B and space.mapped == ["data"]
    assert space.truth_ids(TRUTH_A, "s").tolist() == TRUTH_B.tolist()
    assert space.predicted_ids(TRUTH_B, "s") is TRUTH_B
    assert space.trained_ids([2, 4]) == [2, 4]
    assert space.data == f"{manifest(A).identity} mapped to b-{MAP.digest}"


@pytest.mark.parametrize("model", [A, None])
def test_both_in_a(model: ClassTable | None) -> None:
    space = common_space(model, manifest(A), MAP)
    assert space.classes.names == ("background", "unused 1", "rice", "tofu")
    assert space.mapped == ["data", "predictions"]
    assert space.truth_ids(TRUTH_A, "s").tolist() == [[0, 2, 2], [255, 3, 255]]
    assert space.predicted_ids(TRUTH_A, "s").tolist() == [[0, 2, 2], [0, 3, 255]]


def test_a_class_table_names_the_target(tmp_path: Path) -> None:
    path = tmp_path / "classes.tsv"
    path.write_text(B.to_text())
    assert common_space(A, manifest(A), MAP, str(path)).classes == B
    assert common_space(A, manifest(B), MAP, str(path)).classes == B
    path.write_text(B.to_text().replace("candy", "sweets"))
    with pytest.raises(UserError, match=r"classes.tsv: id 1 is 'sweets' there, but 'candy' in the data set"):
        common_space(A, manifest(B), MAP, str(path))
    path.write_text(B.to_text().replace("tofu", "tempeh"))
    with pytest.raises(UserError, match=r"does not fit m.tsv: target 3 is 'tofu' in the map and 'tempeh' there"):
        common_space(A, manifest(A), MAP, str(path))


def test_both_in_b_is_nothing_to_map() -> None:
    with pytest.raises(UserError, match=r"the data set and the checkpoint are in the label space b already"):
        common_space(B, manifest(B), MAP)
    with pytest.raises(UserError, match=r"the data set is in the label space b already, .* leave --map out"):
        common_space(None, manifest(B), MAP)


def test_a_side_that_is_in_neither() -> None:
    other = ClassTable(("background", "white rice", "soup", "fork", "tofu"))
    words = (
        "--map m.tsv maps a to b, but the checkpoint is neither: not a, since id 2 is 'brown rice' in the map and "
        "'soup' there; not b, since target 2 is 'rice' in the map and 'soup' there"
    )
    with pytest.raises(UserError) as caught:
        common_space(other, manifest(B), MAP)
    assert str(caught.value) == words
    with pytest.raises(UserError, match=r"but the data set is neither"):
        common_space(B, manifest(other), MAP)


def test_a_map_within_one_label_space_merges_on_both_sides() -> None:
    """Its data set fits both sides of the map: it is what is mapped."""
    own = ClassTable(("background", "red rice", "rice"))
    text = "x_id\tx_name\tx_id\tx_name\n0\tbackground\t0\tbackground\n1\tred rice\t2\trice\n2\trice\t2\trice\n"
    space = common_space(own, manifest(own), parse_label_space_map(text, "m"))
    assert space.mapped == ["data", "predictions"]
    assert space.truth_ids(np.array([[0, 1, 2]], np.uint8), "s").tolist() == [[0, 2, 2]]


def test_ids_that_are_split_by_source() -> None:
    text = (
        "a_id\ta_name\tb_id\tb_name\tsource\n0\tbackground\t0\tbackground\n1\tsoup\t1\tmiso soup\ttokyo\n"
        "1\tsoup\t2\tborscht\n"
    )
    own, space_map = ClassTable(("background", "soup")), parse_label_space_map(text, "m.tsv")
    mask = np.array([[0, 1]], np.uint8)
    space = common_space(own, manifest(own, "tokyo", "kyiv"), space_map)
    for source, expected in [("tokyo", 1), ("kyiv", 2)]:
        assert space.truth_ids(mask, source).tolist() == space.predicted_ids(mask, source).tolist() == [[0, expected]]
    assert space.trained_ids([0, 1]) == [0, 1, 2]
    with pytest.raises(UserError, match=r"m.tsv has lines for source 'tokyo', but the sources of the data set are 's'"):
        common_space(own, manifest(own), space_map)


def test_a_score_by_hand() -> None:
    """Truth in A, prediction in B: rice 2 of 2 right and one too many, tofu missed; the fork is not scored."""
    space = common_space(B, manifest(A), MAP)
    prediction = np.array([[0, 2, 2], [4, 2, 1]], np.uint8)
    matrix = confusion(space.truth_ids(TRUTH_A, "s"), space.predicted_ids(prediction, "s"), 5, B.ignore_id)
    assert matrix.sum() == 4
    found = scores(matrix, space.classes.names)
    assert [c.iou for c in found.classes] == [1.0, None, pytest.approx(2 / 3), 0.0, None]
    assert found.miou == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_sixteen_bit_spaces_meet_eight_bit_ones() -> None:
    big = ClassTable(tuple(f"n{i}" for i in range(300)))
    rows = "".join(f"{i}\tn{i}\t{0 if i == 0 else 1}\t{'background' if i == 0 else 'food'}\n" for i in range(300))
    space_map = parse_label_space_map(f"a_id\ta_name\tb_id\tb_name\n{rows}", "m")
    small = ClassTable(("background", "food"))
    mask = np.array([[0, 299, 65535]], np.uint16)
    mapped = common_space(small, manifest(big), space_map).truth_ids(mask, "s")
    assert mapped.tolist() == [[0, 1, 255]] and mapped.dtype == np.uint8
    assert common_space(big, manifest(small), space_map).predicted_ids(mask, "s").tolist() == [[0, 1, 255]]


def test_which_ids_of_a_model_may_be_on_an_image() -> None:
    """The true ids, and those that the source never annotates; background is left out."""
    same = common_space(A, manifest(A))
    assert same.possible_ids([2, 4], "s", 5) == [2, 4] and same.possible_ids([], "s", 5) == []
    partial = manifest(B).model_copy(update={"annotated": {"s": (0, 2), "t": None}})
    space = common_space(B, partial)
    assert space.possible_ids([2], "s", 5) == [1, 2, 3, 4] and space.possible_ids([2], "t", 5) == [2]
    # rice on the image: both kinds of rice of the checkpoint may be; fork is none of B's ids
    assert common_space(A, manifest(B), MAP).possible_ids([2], "s", 5) == [1, 2]
    assert common_space(A, manifest(B), MAP).possible_ids([3, 4], "s", 5) == [4]
    # a data set in A, a checkpoint in B, of whose candy and fig the data set never says anything
    assert common_space(B, manifest(A), MAP).possible_ids([2], "s", 5) == [1, 2, 4]
