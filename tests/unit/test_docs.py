"""What the documents name is there: modules, files and links."""

import re
from pathlib import Path

import pytest

from experiments.results_tables import filled

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "tests" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "experiments").rglob("*.md")),
]
PREFIXES = ("foodseg/", "tests/", "docs/", "jobs/", "experiments/", "serve_configs/")


def _id(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("document", DOCUMENTS, ids=_id)
def test_files_that_a_document_names_are_there(document: Path) -> None:
    named = re.findall(r"`([\w./-]+/[\w./-]+\.(?:py|md|ya?ml|json|jsonl|tsv))`", document.read_text(encoding="utf-8"))
    missing = [name for name in named if name.startswith(PREFIXES) and not (ROOT / name).exists()]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=_id)
def test_links_of_a_document_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
    assert [target for target in targets if not (document.parent / target).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=_id)
def test_tables_of_a_document_are_what_was_measured(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert filled(text) == text, f"python -m experiments.results_tables {_id(document)} makes its tables again"


def test_the_walks_name_modules_that_are_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    walks = re.findall(r"```text\n(.*?)```", text, re.DOTALL)[1:]
    folders = [re.findall(r"[\w/]+/\w+\.py", walk) for walk in walks]
    assert [len(found) > 15 for found in folders] == [True, True]
    assert [name for found in folders for name in found if not (ROOT / "foodseg" / name).exists()] == []


def test_the_answers_name_modules_that_are_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    answers = re.findall(r"^\| \d+ \|.*\| (.*) \|$", text, re.MULTILINE)
    assert len(answers) == 20
    named = [name for answer in answers for name in re.findall(r"`([\w/]+\.py)`", answer)]
    assert [name for name in named if not (ROOT / "foodseg" / name).exists()] == []


def test_the_faults_name_tests_that_are_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", text)
    assert len(named) > 15
    missing = [f"{path}::{name}" for path, name in named if f"def {name}(" not in (ROOT / "tests" / path).read_text()]
    assert missing == []


def test_the_architecture_names_every_package() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    packages = {path.parent.name for path in (ROOT / "foodseg").glob("*/__init__.py")}
    assert packages == set(re.findall(r"^\| `foodseg/(\w+)` \|", text, re.MULTILINE))


def test_the_files_to_look_at_first_are_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(foodseg/\w+)` \|.*\| (.*) \|$", text, re.MULTILINE)
    named = [f"{folder}/{name}" for folder, files in rows for name in re.findall(r"`([\w/.]+)`", files)]
    assert len(named) > 40 and [name for name in named if not (ROOT / name).exists()] == []


def test_the_layers_of_the_document_are_those_that_are_held() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    shown = re.search(r"```text\n(__main__.*?)```", text, re.DOTALL)
    assert shown is not None
    held = re.search(
        r"^layers = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    assert held is not None
    rows = [row.replace(" : ", ", ") for row in re.findall(r'"(.*)"', held[1])]
    assert shown[1].split("\n")[:-1] == rows
