"""Markdown tables of what the experiments found, from their results.json; docs/results.md is filled with them.

    python -m experiments.results_tables                    # prints all, with their names
    python -m experiments.results_tables docs/results.md    # fills the tables of that document

A document says where a table belongs with two lines, `<!-- table: parity -->` and `<!-- end -->`; what is between them
is replaced. A unit test holds that docs/results.md has all tables, as they are made here.
"""

import re
import sys
from pathlib import Path

from experiments import tables_of_methods, tables_of_system, tables_out_of_fold

TABLES = {**tables_of_methods.TABLES, **tables_out_of_fold.TABLES, **tables_of_system.TABLES}
BLOCK = re.compile(r"<!-- table: (\w+) -->\n.*?<!-- end -->", re.DOTALL)


def filled(text: str) -> str:
    """Returns a document with its tables made again; raises ValueError for a name that no table has."""

    def made(block: re.Match[str]) -> str:
        if block[1] not in TABLES:
            raise ValueError(f"there is no table {block[1]!r}; there are {', '.join(TABLES)}")
        return f"<!-- table: {block[1]} -->\n\n{TABLES[block[1]]()}\n\n<!-- end -->"

    return BLOCK.sub(made, text)


def main() -> None:
    """Fills the documents that are named, or prints all tables."""
    for name in sys.argv[1:]:
        path = Path(name)
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
    if not sys.argv[1:]:
        for name, make in TABLES.items():
            print(f"## {name}\n\n{make()}\n")


if __name__ == "__main__":
    main()
