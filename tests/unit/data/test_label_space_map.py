"""Maps between label spaces: what is parsed, what each id becomes, what is refused."""

import logging
from pathlib import Path

import numpy as np
import pytest

from foodseg.classes import ClassTable
from foodseg.data.label_space_map import (
    LabelSpaceMap,
    map_ids,
    parse_label_space_map,
    read_label_space_map,
    read_target,
)
from foodseg.errors import UserError

OWN = ClassTable(("background", "rice", "brown rice", "soup", "fork"))
HEADER = "meals_id\tmeals_name\tfood_id\tfood_name"
TEXT = f"""{HEADER}\tsource
0\tbackground\t0\tbackground
1\trice\t2\trice

2\tbrown rice\t2\trice
3\tsoup\t1\tmiso soup\ttokyo
3\tsoup\t3\tsoup
4\tfork\tignore
"""


@pytest.fixture
def space_map() -> LabelSpaceMap:
    return parse_label_space_map(TEXT, "m.tsv")


def lines(*rows: str, header: str = HEADER) -> str:
    return "\n".join([header, "0\tbackground\t0\tbackground", *rows])


def test_merge_split_and_ignore(space_map: LabelSpaceMap) -> None:
    assert (space_map.from_space, space_map.to_space) == ("meals", "food")
    assert space_map.target().names == ("background", "miso soup", "rice", "soup")
    assert space_map.source_mismatch(OWN) is None
    assert [space_map.becomes(index, "tokyo") for index in range(5)] == [0, 2, 2, 1, None]
    assert [space_map.becomes(index, "rome") for index in range(5)] == [0, 2, 2, 3, None]
    mask = np.array([[0, 1, 2], [3, 4, 255]], np.uint8)
    for source, expected in [("tokyo", [[0, 2, 2], [1, 255, 255]]), ("rome", [[0, 2, 2], [3, 255, 255]])]:
        table = space_map.lookup(source, OWN, space_map.target())
        mapped = map_ids(mask, table, OWN)
        assert mapped.tolist() == expected and mapped.dtype == np.uint8
    background = space_map.lookup("rome", OWN, space_map.target(), ignored=0)
    assert map_ids(mask, background, OWN).tolist() == [[0, 2, 2], [3, 0, 255]]


@pytest.mark.parametrize("word", ["", "\t", "ignore", "ignore\t", "ignore\tignore"])
def test_spellings_of_ignore(word: str) -> None:
    assert parse_label_space_map(lines(f"1\trice\t{word}", "2\tsoup\t1\tsoup"), "m").becomes(1, "") is None


def test_every_id_to_its_neighbour_by_an_independent_loop() -> None:
    own, rng = ClassTable(tuple(f"a{i}" for i in range(84))), np.random.default_rng(0)
    to = [0, *rng.permutation(83)]
    space_map = parse_label_space_map(
        "\n".join(["a_id\ta_name\tb_id\tb_name", *(f"{i}\ta{i}\t{t}\tb{t}" for i, t in enumerate(to))]), "m"
    )
    mask = rng.choice([*range(84), 255], (7, 9)).astype(np.uint8)
    expected = [[255 if index == 255 else int(to[index]) for index in row] for row in mask.tolist()]
    target = space_map.target()
    assert target.names == tuple(f"b{i}" for i in range(83))
    assert map_ids(mask, space_map.lookup("", own, target), own).tolist() == expected


@pytest.mark.parametrize(
    ("own", "target", "dtype", "ignore"),
    [(254, 255, np.uint8, 255), (3, 256, np.uint16, 65535), (300, 3, np.uint8, 255), (300, 400, np.uint16, 65535)],
)
def test_eight_and_sixteen_bits(own: int, target: int, dtype: type, ignore: int) -> None:
    """Ids 1 and the last one become the last of the target, all others background."""
    table = ClassTable(tuple(f"a{i}" for i in range(own)))
    last = target - 1
    rows = [f"{i}\ta{i}\t{last}\tlast" if i in (1, own - 1) else f"{i}\ta{i}\t0\tbackground" for i in range(own)]
    space_map = parse_label_space_map("\n".join(["a_id\ta_name\tb_id\tb_name", *rows]), "m")
    lookup = space_map.lookup("", table, space_map.target())
    mapped = map_ids(np.array([[0, 1, 2, own - 1, table.ignore_id]], table.mask_dtype), lookup, table)
    expected = [0, last, last if own == 3 else 0, last, ignore]
    assert mapped.tolist() == [expected] and mapped.dtype == dtype


@pytest.mark.parametrize(
    "mask", [np.array([[0, 5]], np.uint8), np.array([[254]], np.uint8), np.array([[300]], np.uint16)]
)
def test_an_id_outside_the_label_space_is_refused(space_map: LabelSpaceMap, mask: np.ndarray) -> None:
    with pytest.raises(UserError, match=rf"a mask holds id {mask.max()}, but ids go from 0 to 4"):
        map_ids(mask, space_map.lookup("rome", OWN, space_map.target()), OWN)


def test_gaps_are_named_in_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        target = parse_label_space_map(lines("1\trice\t6\trice"), "m.tsv").target()
    assert target.names == ("background", *(f"unused {i}" for i in range(1, 6)), "rice")
    assert [r.getMessage() for r in caplog.records] == [
        "m.tsv names no target 1, 2, 3 nor 2 others: each is called 'unused <id>'; --classes FILE names them"
    ]


def test_no_gap_no_warning(space_map: LabelSpaceMap, caplog: pytest.LogCaptureFixture) -> None:
    space_map.target()
    ignored = parse_label_space_map(
        lines("1\trice\t1\trice").replace("0\tbackground\t0\tbackground", "0\tplate\tignore"), "m"
    )
    assert ignored.target().names == ("background", "rice")
    assert not caplog.records


def test_a_class_table_fills_the_gaps(tmp_path: Path) -> None:
    path = tmp_path / "classes.tsv"
    space_map = parse_label_space_map(lines("1\trice\t2\trice"), "m.tsv")
    path.write_text("0\tbackground\n1\tegg\n2\trice\n3\tfig\n")
    assert read_target(space_map, str(path)).names == ("background", "egg", "rice", "fig")
    path.write_text("0\tbackground\n1\tegg\n2\tfig\n")
    with pytest.raises(UserError, match=r"classes.tsv does not fit m.tsv: target 2 is 'rice' in the map and 'fig'"):
        read_target(space_map, str(path))
    path.write_text("0\tbackground\n1\tegg\n")
    with pytest.raises(UserError, match=r"target 2 is 'rice' in the map, but ids go from 0 to 1"):
        read_target(space_map, str(path))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("background", "rice", "red rice", "soup", "fork"), "id 2 is 'brown rice' in the map and 'red rice' there"),
        (("background", "rice", "brown rice", "soup"), "id 4 is 'fork' in the map, but ids go from 0 to 3"),
        ((*OWN.names, "a", "b", "c", "d"), "4 ids are not in the map, the first 5 'a', 6 'b', 7 'c'"),
    ],
)
def test_a_map_from_another_label_space(space_map: LabelSpaceMap, names: tuple[str, ...], words: str) -> None:
    assert space_map.source_mismatch(ClassTable(names)) == words


def test_sources_that_do_not_fit() -> None:
    space_map = parse_label_space_map(lines("1\trice\t1\trice\ttokyo", header=f"{HEADER}\tsource"), "m.tsv")
    table = ClassTable(("background", "rice"))
    space_map.refuse_other_sources(["tokyo", "rome"])
    with pytest.raises(UserError, match=r"m.tsv has lines for source 'tokyo', but the sources .* are '', 'rome'"):
        space_map.refuse_other_sources(["rome", ""])
    assert space_map.lookup("tokyo", table, table)[:2].tolist() == [0, 1]
    with pytest.raises(UserError, match=r"id 1 'rice' is mapped for some sources, but not for 'rome': add a line"):
        space_map.lookup("rome", table, table)


@pytest.mark.parametrize(
    ("source", "ids", "expected"),
    [
        ("rome", None, (0, 2, 3)),  # miso soup is named in Tokyo only
        ("tokyo", None, (0, 1, 2)),
        ("rome", (0, 2), (0,)),  # rice, which becomes rice too, may lie in its background
        ("rome", (0, 1, 2), (0, 2)),
        ("rome", (0, 4), (0,)),
        ("rome", (3,), (0, 3)),
    ],
)
def test_what_a_source_annotates(
    space_map: LabelSpaceMap, source: str, ids: tuple[int, ...] | None, expected: tuple[int, ...]
) -> None:
    assert space_map.annotated(source, ids, OWN, space_map.target()) == expected


def test_everything_stays_everything_where_no_target_is_left_out() -> None:
    space_map = parse_label_space_map(lines("1\trice\t1\trice", "2\tred rice\t1\trice"), "m")
    own, target = ClassTable(("background", "rice", "red rice")), space_map.target()
    assert space_map.annotated("", None, own, target) is None
    assert space_map.annotated("", (0, 1, 2), own, target) is None
    assert space_map.annotated("", (0, 2), own, target) == (0,)
    assert space_map.annotated("", None, own, ClassTable(("background", "rice", "egg"))) == (0, 1)


def test_the_digest_identifies_the_mapping(space_map: LabelSpaceMap) -> None:
    assert len(space_map.digest) == 12 and space_map.digest == parse_label_space_map(TEXT, "elsewhere").digest
    assert space_map.digest != parse_label_space_map(TEXT.replace("\ttokyo", "\tkyoto"), "m").digest
    assert (
        space_map.digest != parse_label_space_map(TEXT.replace("2\tbrown rice\t2\trice", "2\tbrown rice\t"), "m").digest
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "m.tsv, line 1: expected the tab-separated header"),
        ("0\tbackground\t0\tbackground\n", "line 1: expected the tab-separated header FROM_id"),
        ("a_id\ta_name\n0\tx\n", "line 1: expected"),
        ("a_id\tb_name\tc_id\tc_name\n", "line 1: expected"),
        (lines(header=f"{HEADER}\torigin"), "line 1: expected"),
        (lines("1\trice"), "line 3: expected 4 tab-separated columns, found '1\\trice'"),
        (lines("1\trice\t1\trice\ttokyo"), "line 3: expected 4 tab-separated columns"),
        (lines("one\trice\t1\trice"), "line 3: expected an id from 0 to 65534, found 'one'"),
        (lines("1\trice\t-1\trice"), "found '-1'"),
        (lines("1\trice\t65535\trice"), "found '65535'"),
        (lines("1\t\t1\trice"), "line 3: id 1 has no name"),
        (lines("1\trice\t1"), "line 3: id 1 has no name"),
        (lines("1\trice\t1\trice", "1\tegg\t1\trice"), "line 4: id 1 is 'egg' here and 'rice' further up"),
        (lines("1\trice\t1\trice", "2\tegg\t1\tegg"), "line 4: id 1 is 'egg' here and 'rice' further up"),
        (lines("1\trice\t1\trice", "1\trice\t2\tegg"), "line 4: id 1 is mapped twice for every source"),
        (lines("1\trice\t\trice"), "line 3: target 'rice' has no id"),
        (f"{HEADER}\n0\tbackground\t1\tplate\n", "line 2: id 0 is background and becomes 0 or ignore, found 1 'plate'"),
        (f"{HEADER}\n0\tbackground\tignore\n", "it maps no id"),
    ],
)
def test_texts_that_are_refused(text: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_label_space_map(text, "m.tsv")
    assert words in str(caught.value) and str(caught.value).startswith("m.tsv")


def test_two_targets_of_one_name_are_refused() -> None:
    with pytest.raises(UserError, match=r"m.tsv: class names must differ, but 'rice'"):
        parse_label_space_map(lines("1\trice\t1\trice", "2\tegg\t2\trice"), "m.tsv").target()


@pytest.mark.parametrize(("name", "ids"), [("foodseg103", 104), ("uecfoodpix", 103)])
def test_real_maps(shared: Path, name: str, ids: int) -> None:
    folder = shared / "datasets"
    own = ClassTable.from_text((folder / "foodmix" / "classes.txt").read_text(), "classes.txt")
    space_map = read_label_space_map(str(folder / "foodmix" / f"to_{name}.tsv"))
    assert space_map.source_mismatch(own) is None
    target = read_target(space_map, str(folder / "classes" / f"{name}.tsv"))
    assert len(target) == ids
    table = space_map.lookup("any", own, target)
    for line in (folder / "foodmix" / f"to_{name}.tsv").read_text().splitlines()[1:]:
        old, old_name, new, new_name = line.split("\t")
        assert (own.names[int(old)], target.names[table[int(old)]]) == (old_name, new_name)
        assert table[int(old)] == int(new)
    assert space_map.annotated("any", None, own, target) == tuple(sorted(set(table[: len(own)].tolist())))
