"""`import foodseg`: what it offers, what it costs, and that every example in its docstrings does what it says."""

import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import foodseg
from tests.support.api_world import write_api_world
from tests.support.hub_server import hub_at

ROOT = Path(__file__).resolve().parents[2]
NAMES = [name for name in foodseg.__all__ if name != "__version__"]
WITH_RAY = {"prepare_dataset"}  # tests/integration/test_ray_prepare.py runs its example
HEAVY = ("torch", "ray", "numpy", "pydantic", "PIL", "cv2", "huggingface_hub")


def test_importing_costs_nothing() -> None:
    code = f"import foodseg, sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

    timed = "import time; t = time.perf_counter(); import foodseg; print(time.perf_counter() - t)"
    fastest = min(
        float(subprocess.run([sys.executable, "-c", timed], cwd=ROOT, capture_output=True, text=True).stdout)
        for _ in range(3)
    )
    assert fastest < 0.2


def test_every_name_is_there_and_listed() -> None:
    assert set(foodseg.__all__) <= set(dir(foodseg))
    for name in NAMES:
        assert getattr(foodseg, name).__doc__, name
    with pytest.raises(AttributeError, match="module 'foodseg' has no attribute 'lode'"):
        foodseg.lode  # type: ignore[attr-defined]  # noqa: B018


def test_no_name_is_that_of_a_package() -> None:
    packages = {path.parent.name for path in (ROOT / "foodseg").glob("*/__init__.py")}
    modules = {path.stem for path in (ROOT / "foodseg").glob("*.py")}
    assert not (packages | modules) & set(NAMES)


def test_a_type_checker_sees_the_names() -> None:
    """What is imported for type checkers is what is found at run time."""
    source = (ROOT / "foodseg" / "__init__.py").read_text()
    shown = source.partition("if TYPE_CHECKING:")[2].partition("\n\n")[0]
    namespace: dict[str, object] = {}
    exec("\n".join(line.strip() for line in shown.splitlines()[1:]), namespace)
    assert {name: namespace[name] is getattr(foodseg, name) for name in NAMES} == dict.fromkeys(NAMES, True)
    assert (ROOT / "foodseg" / "py.typed").exists()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api")
    write_api_world(folder)
    return folder


def _examples() -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    modules = sorted({getattr(foodseg, name).__module__ for name in NAMES if name not in WITH_RAY})
    return [test for name in modules for test in finder.find(importlib.import_module(name)) if test.examples]


@pytest.mark.parametrize("example", _examples(), ids=lambda example: example.name)
def test_examples_of_docstrings(
    example: doctest.DocTest, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world)
    said: list[str] = []
    with hub_at(tmp_path, monkeypatch):
        result = doctest.DocTestRunner(verbose=False).run(example, out=said.append)
    assert result.failed == 0, "".join(said)


def test_what_people_call_has_an_example() -> None:
    shown = {example.name.rpartition(".")[2] for example in _examples()}
    methods = {
        "predict", "overlay", "to_coco", "to_supervision", "Prediction", "save_pretrained", "push_to_hub", "with_names",
    }  # fmt: skip
    functions = {name for name in NAMES if name[0].islower()} - WITH_RAY
    assert functions | methods <= shown
