"""The rules of the design that no linter holds: where Ray is imported, how long a module is, what a test is called."""

import ast
import functools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "foodseg").rglob("*.py"))
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.py"))
SOURCES = [
    *MODULES,
    *EXPERIMENTS,
    *(path for name in ("jobs", "tests") for path in sorted((ROOT / name).rglob("*.py"))),
]
PLAIN = [path for path in MODULES if not (path.name.startswith("ray_") or path.parent.name == "ray_internals")]
CLI = sorted((ROOT / "foodseg" / "cli").glob("*.py"))  # may import ray_* modules, inside functions
MAX_LINES = 350
# Unit tests of what several modules of a package do together; any other is named after the module that it tests.
OF_SEVERAL = {
    "config/test_shipped", "serve/page/test_page", "serve/test_loopback", "train/test_conditioned_training",
    "train/test_diffusion_training", "train/test_distillation", "train/test_equal_gradients", "train/test_killed_run",
    "train/test_realtime_training", "train/test_vit_training", "tune/test_before_trials",
}  # fmt: skip
PRIVATE_MODULES = ("ray.core.generated", "ray.experimental.internal_kv")  # without an underscore in their names
PRIVATE_ATTRIBUTES = (
    "_controller", "_get_global_client", "_get_serve_request_context", "_init", "_resources_per_worker_not_none",
    "_set_global_client", "__ray_call__",
    # of Serve's private client
    "deploy_apps", "get_serve_status", "http_config", "shutdown_cached_handles", "wait_for_proxies_serving",
)  # fmt: skip

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
        if path != ROOT / "foodseg" / "__init__.py"  # names them to type checkers; test_api.py: it imports nothing
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


def _private_of_ray(tree: ast.AST, package: str) -> Iterator[str]:
    """Yields "line name" for each import of a private part of Ray, and each use of one of its private attributes."""
    for name, line, _ in _imports(tree, package):
        parts = name.split(".")
        private = any(part.startswith("_") and not part.startswith("__") for part in parts)
        if parts[0] == "ray" and (private or name.startswith(PRIVATE_MODULES)):
            yield f"{line} {name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            if node.attr in PRIVATE_ATTRIBUTES or (name.startswith("ray.") and node.attr.startswith("_")):
                yield f"{node.lineno} {name}"


def test_private_parts_of_ray_are_found_in_every_form() -> None:
    source = """
import ray._private.worker
from ray.serve._private.api import serve_start
from ray.core.generated import gcs_pb2
from ray.experimental import internal_kv
from ray.serve.context import _get_global_client
from foodseg.cluster.ray_internals import core
from ray.train.v2.api.exceptions import ControllerError
def f(client, handle, scaling):
    ray._private.worker.global_worker
    client._controller.check_alive.remote()
    handle._init(_run_router_in_separate_loop=True)
    client.http_config.host
    self._client = scaling.num_workers
"""
    assert sorted({int(found.split()[0]) for found in _private_of_ray(ast.parse(source), "foodseg.serve")}) == [
        *range(2, 7),
        *range(10, 14),
    ]


def test_only_ray_internals_touch_private_parts_of_ray() -> None:
    found = [
        f"{_id(path)}:{line}"
        for path in SOURCES
        if path.relative_to(ROOT).parts[0] != "tests" and path.parent.name != "ray_internals"
        for line in _private_of_ray(ast.parse(path.read_text(encoding="utf-8")), _module(path).rpartition(".")[0])
    ]
    assert found == []


def test_everything_in_ray_internals_is_named_in_its_contract_tests() -> None:
    tests = (ROOT / "tests" / "integration" / "test_ray_internals.py").read_text(encoding="utf-8")
    names = [
        name
        for path in MODULES
        if path.parent.name == "ray_internals"
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        for name in _public_names(node)
    ]
    assert len(names) > 40
    assert [name for name in names if not re.search(rf"\b{name}\b", tests)] == []


def _public_names(node: ast.stmt) -> list[str]:
    """Returns the function or class that a statement defines, and what a list `__all__` names."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [] if node.name.startswith("_") else [node.name]
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
        return list(ast.literal_eval(node.value))
    return []


def test_ray_internals_load_only_what_their_verb_needs() -> None:
    code = "import sys, foodseg.cluster.ray_internals.{0}; print(*[m for m in {1!r} if m in sys.modules])"
    for name, others in {
        "core": ["ray.train.v2.api.config", "ray.serve.context", "ray.data.dataset", "torch"],
        "data": ["ray.serve.context", "torch"],
        "train": ["ray.serve.context"],
        "serve": ["ray.train.v2.api.config", "torch"],
    }.items():
        command = [sys.executable, "-c", code.format(name, others)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert (name, done.stdout.strip()) == (name, "")


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


def test_no_folder_of_experiments_imports_another() -> None:
    folders = {path.name for path in (ROOT / "experiments").iterdir() if path.is_dir()}
    found = [
        f"{_id(path)}:{line} {name}"
        for path in EXPERIMENTS
        for name, line, _ in _imports_of(path)
        if name.startswith("experiments.") and name.split(".")[1] in folders - {path.parent.name}
    ]
    assert found == []


def test_modules_are_short() -> None:
    sources = [*MODULES, *EXPERIMENTS]
    lines = {_id(path): len(path.read_text(encoding="utf-8").splitlines()) for path in sources}
    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}


def test_sources_are_ascii() -> None:
    found = [
        f"{_id(path)}:{number}"
        for path in SOURCES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if not line.isascii()
    ]
    assert found == []


def test_unit_tests_lie_where_their_module_lies_and_begin_with_its_name() -> None:
    tests, found = ROOT / "tests" / "unit", set()
    for path in tests.glob("*/**/test_*.py"):  # those of the whole repository lie at the top
        folder = path.parent.relative_to(tests)
        if folder == Path("experiments"):  # by the name of the module, or of the folder
            modules = {f"test_{module.stem}" for module in (ROOT / folder).iterdir()}
        else:
            modules = {f"test_{module.stem}" for module in (ROOT / "foodseg" / folder).glob("*.py")}
        if not any(path.stem == name or path.stem.startswith(f"{name}_") for name in modules):
            found.add((folder / path.stem).as_posix())
    assert found == OF_SEVERAL
