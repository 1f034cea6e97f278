"""The rules of the design that no linter holds: where Ray may be imported, and how large a module may grow."""

import ast
import functools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "foodseg").rglob("*.py"))
SOURCES = [*MODULES, *(path for name in ("jobs", "proof", "tests") for path in sorted((ROOT / name).rglob("*.py")))]
PLAIN = [path for path in MODULES if not (path.name.startswith("ray_") or path.parent.name == "ray_internals")]
CLI = sorted((ROOT / "foodseg" / "cli").glob("*.py"))  # may import ray_* modules, inside functions
MAX_LINES = 350

# argv: packages that cannot be found, with commas between them, and modules to import; prints {module: error}.
IMPORT_BLOCKED = """
import importlib, json, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(f"{name} is blocked", name=name)
sys.meta_path.insert(0, Blocker())
failed = {}
for name in sys.argv[2:]:
    try:
        importlib.import_module(name)
    except BaseException as error:
        failed[name] = f"{type(error).__name__}: {error}"
print(json.dumps(failed))
"""


def _id(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(tree: ast.AST, package: str, in_function: bool = False) -> Iterator[tuple[str, int, bool]]:
    """Yields (dotted name, line, whether inside a function) of every import; `from a import b` yields a.b."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno, in_function) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((f"{base}.{alias.name}", node.lineno, in_function) for alias in node.names)
        else:
            inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(node, package, inside)


@functools.cache
def _imports_of(path: Path) -> list[tuple[str, int, bool]]:
    package = _module(path) if path.name == "__init__.py" else _module(path).rpartition(".")[0]
    return list(_imports(ast.parse(path.read_text(encoding="utf-8")), package))


def test_imports_finds_every_form() -> None:
    source = """
import ray.data as data
from ..train import ray_trainer
def f():
    from . import ray_here
"""
    found = list(_imports(ast.parse(source), "foodseg.eval"))
    assert found == [
        ("ray.data", 2, False),
        ("foodseg.train.ray_trainer", 3, False),
        ("foodseg.eval.ray_here", 5, True),
    ]


def test_ray_modules_are_imported_only_by_cli_and_jobs() -> None:
    found = [
        f"{_id(path)}:{line} {name}"
        for path in PLAIN
        for name, line, in_function in _imports_of(path)
        if name.startswith("foodseg.") and any(part.startswith("ray_") for part in name.split("."))
        if not (path in CLI and in_function)
    ]
    assert found == []


def test_only_ray_modules_import_ray() -> None:
    found = [
        f"{_id(path)}:{line} {name}"
        for path in PLAIN
        for name, line, _ in _imports_of(path)
        if name.partition(".")[0] == "ray"
    ]
    assert found == []


@pytest.mark.parametrize("blocked", ["ray", "ray,fastapi"])
def test_plain_modules_import_without_ray_and_outside_serve_http_without_fastapi(blocked: str) -> None:
    names = [_module(path) for path in PLAIN if blocked == "ray" or path.parent.name != "http"]
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_BLOCKED, blocked, *names], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {}


def test_preparing_a_data_set_loads_no_torch() -> None:
    """Every process that checks images would take seconds and half a gigabyte for it."""
    names = ["foodseg.data.ray_stream", "foodseg.prepare.ray_prepare"]
    code = f"import sys, {', '.join(names)}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_modules_are_short() -> None:
    lines = {_id(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}


def test_sources_are_ascii() -> None:
    found = [
        f"{_id(path)}:{number}"
        for path in SOURCES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if not line.isascii()
    ]
    assert found == []
