"""The fenced code blocks of README.md and docs/*.md, and what is said about those that are not run.

    for block in blocks("docs/data.md"):
        print(block.where, block.language, block.not_run)

A block that cannot be run here has an HTML comment on the line above it: `<!-- not run: needs a cluster -->`.
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")))
REASONS = (
    "installs packages", "listens on all addresses", "needs a cluster", "needs an account on a hub",
    "needs weights that have to be downloaded", "runs the tests", "takes hours",
)  # fmt: skip
TESTED = "tested in "  # the other kind of reason: a test file that does what the block does, in another way
RUN = ("sh", "python", "yaml", "json")  # languages of blocks that are run or checked; others are shown only
SHOWN = ("text", "bibtex")
# what takes seconds: commands that start Ray, train or serve, and object storage
_SLOW = re.compile(
    r"foodseg (data (prepare|map)|train|tune|ablate|evaluate|serve|bench|demo)\b|prepare_dataset\(|(?:import|from) ray\b|s3://"
)
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- not run: (.+) -->\n$")


@dataclass(frozen=True)
class Block:
    """page, line: where it begins. not_run: the reason; None for a block that is run."""

    page: str
    line: int
    language: str
    text: str
    not_run: str | None

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def slow(self) -> bool:
        """Whether it takes seconds."""
        return self.language in ("sh", "python") and _SLOW.search(self.text) is not None


def blocks(page: str) -> list[Block]:
    """Returns the blocks of a page, a path relative to the repository, in their order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for fence in _FENCE.finditer(text):
        before = text[: fence.start()]
        mark = _MARK.search(before)
        found.append(Block(page, before.count("\n") + 1, fence[1], fence[2], mark[1] if mark else None))
    return found


def runnable(page: str) -> list[Block]:
    """Returns the blocks of a page that a test runs or checks."""
    return [block for block in blocks(page) if block.language in RUN and block.not_run is None]
