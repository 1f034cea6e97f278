"""Tables of what was measured, in today's words. That documents have them as they are made: tests/unit/test_docs.py."""

import pytest

from experiments import recorded
from experiments.recorded import interval, percent, shown, table
from experiments.results_tables import TABLES, filled


def test_numbers_and_names_by_hand() -> None:
    assert percent(0.77514) == "77.5"
    assert interval({"difference": 0.0219, "low": -0.0004, "high": 0.039}) == "+2.2 (-0.0 to +3.9)"
    assert (shown("C1 names permuted"), shown("peer")) == ("C1: names permuted", "peer")
    assert table(["a", ">b"], [("x", "1")]) == "| a | b |\n| --- | ---: |\n| x | 1 |"


def test_records_are_read_in_todays_words() -> None:
    old = {"arms": [{"C names, its own guess": {"pictures": 3}}], "E D, the teacher told the truth, all names": 1}
    assert recorded._renamed(old) == {
        "variants": [{"C names, predicted": {"images": 3}}],
        "E D, teacher conditioned on the true classes, vocabulary": 1,
    }


def test_a_document_gets_its_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TABLES, "one", lambda: "| 1 |")
    text = "a\n<!-- table: one -->\nold\n<!-- end -->\nb\n<!-- table: one -->\n<!-- end -->\n"
    block = "<!-- table: one -->\n\n| 1 |\n\n<!-- end -->\n"
    assert filled(text) == f"a\n{block}b\n{block}" and filled(filled(text)) == filled(text)
    with pytest.raises(ValueError, match="there is no table 'two'; there are headline, parity, recipe"):
        filled("<!-- table: two -->\n<!-- end -->")


@pytest.mark.parametrize("name", TABLES)
def test_every_table_can_be_made(name: str) -> None:
    made = TABLES[name]()
    rows = [line for line in made.splitlines() if line.startswith("|")]
    assert len(rows) > 2 and len({row.count("|") for row in rows}) == 1
    assert "Measured by `python -m experiments " in made and "nan" not in made
