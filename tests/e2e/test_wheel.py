"""The built wheel works outside the repository, and holds the package and nothing else."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from foodseg import __version__

REPOSITORY = Path(__file__).parents[2]
DATA_FILES = (
    "py.typed",
    "demo/demo.yaml",
    "report/templates/page.css",
    "report/templates/evaluation.html.j2",
    "models/text/synonyms.tsv",
    "report/templates/sweep.html.j2",
)


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content. It is built from a copy, so that the repository stays as it is."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    copied = ["foodseg", "tests", "jobs", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"]
    for name in copied:
        if (REPOSITORY / name).exists():
            subprocess.run(["cp", "-r", str(REPOSITORY / name), str(source)], check=True)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    (wheel,) = folder.glob("foodseg-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "content")
    return folder / "content"


def outside(unpacked: Path, tmp_path: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_holds_the_package_and_nothing_else(unpacked: Path) -> None:
    assert {path.name for path in unpacked.iterdir()} == {"foodseg", f"foodseg-{__version__}.dist-info"}
    assert all((unpacked / "foodseg" / name).is_file() for name in DATA_FILES)
    in_wheel = {str(path.relative_to(unpacked)) for path in (unpacked / "foodseg").rglob("*.py")}
    in_repository = {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "foodseg").rglob("*.py")}
    assert in_wheel == in_repository


def test_it_has_the_command_and_the_licence(unpacked: Path) -> None:
    (about,) = unpacked.glob("*.dist-info")

    assert "foodseg = foodseg.cli.main:main" in (about / "entry_points.txt").read_text()
    assert list(about.rglob("LICENSE"))


def test_it_works_outside_the_repository(unpacked: Path, tmp_path: Path) -> None:
    location = outside(unpacked, tmp_path, "-c", "import foodseg; print(foodseg.__file__)").strip()

    assert Path(location).is_relative_to(unpacked)
    assert f"foodseg {__version__}\n" in outside(unpacked, tmp_path, "-m", "foodseg", "--version")
    assert "optim.lr = 0.001  # recipe\n" in outside(unpacked, tmp_path, "-m", "foodseg", "config", "show")
