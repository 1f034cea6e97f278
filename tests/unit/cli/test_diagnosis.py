"""Each check says what is wrong and what to do; the failures are faked."""

import importlib.metadata
import os
import socket
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest

from foodseg import storage
from foodseg.cli import diagnosis
from foodseg.cli.diagnosis import Check


@pytest.fixture
def s3_environment(moto_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, moto_endpoint)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "s3cret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return moto_endpoint


def _refused(check: Check, found: str, fix: str) -> None:
    assert not check.ok and found in check.found and fix in check.fix, check


def test_a_good_machine_has_nothing_to_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "torch_works", list)  # seconds of import: tested below
    checks = diagnosis.diagnose(str(tmp_path))
    names = [check.name for check in checks]
    assert {"python", "torch", "ray", "cpus", "memory", "/dev/shm", "disk here", "storage", "port 6379"} <= set(names)
    assert len(names) == len(set(names))
    assert all(bool(check.fix) != check.ok for check in checks)
    assert [check.ok for check in checks if check.name in ("python", "torch", "ray", "storage")] == [True] * 4
    assert list(tmp_path.iterdir()) == []


def test_without_storage_nothing_is_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "torch_works", list)
    assert "storage" not in [check.name for check in diagnosis.diagnose()]


def test_old_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis.platform, "python_version", lambda: "3.9.1")
    _refused(diagnosis.python_version(), "3.9.1", "Python <3.13,>=3.10")


def test_wrong_and_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "timm":
            raise importlib.metadata.PackageNotFoundError(name)
        return {"ray": "2.40.0", "torch": "2.14.1+cpu"}.get(name) or real(name)

    monkeypatch.setattr(diagnosis.importlib.metadata, "version", version)
    checks = {check.name: check for check in diagnosis.package_versions()}
    _refused(checks["ray"], "2.40.0", 'pip install "ray==2.60.0"')
    _refused(checks["timm"], "not installed", "pip install")
    assert checks["torch"].ok


def test_foodseg_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(diagnosis.importlib.metadata, "metadata", absent)
    monkeypatch.setattr(diagnosis.importlib.metadata, "requires", absent)
    _refused(diagnosis.python_version(), "foodseg not installed", "pip install -e .")
    assert diagnosis.package_versions() == []


def test_torch_and_torchvision_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "_IMPORT_TORCH", "raise RuntimeError('operator torchvision::nms does not exist')")
    (check,) = diagnosis.torch_works()
    _refused(check, "operator torchvision::nms does not exist", "from the same index")


def test_torch_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*args: Any, **kwargs: Any) -> None:
        raise subprocess.TimeoutExpired("python", 120)

    monkeypatch.setattr(diagnosis.subprocess, "run", hang)
    _refused(diagnosis.torch_works()[0], "more than 120 s", "local disk")


def test_no_gpu_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "_IMPORT_TORCH", "print('cpu'); print('a_backbone False')")
    assert diagnosis.torch_works()[1] == Check("device", True, "cpu", "")


def test_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "is_legible", lambda text: text.isascii() or "\u00e8" in text or "\u03c8" in text)
    found = diagnosis.fonts()
    assert found.ok and found.found.startswith("names in Cyrillic, Chinese, Japanese, Korean, Thai, Arabic, Hebrew")
    monkeypatch.setattr(diagnosis, "is_legible", lambda text: True)
    assert diagnosis.fonts().found == "names in every common script"


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("reachable", [True, False])
def test_default_weights(cached: bool, reachable: bool, monkeypatch: pytest.MonkeyPatch, moto_endpoint: str) -> None:
    """A machine that cannot have them gets advice, and is not broken for that."""
    monkeypatch.setenv("HF_ENDPOINT", moto_endpoint if reachable else "http://me:secret@127.0.0.1:9")
    monkeypatch.setattr(diagnosis, "_IMPORT_TORCH", f"print('cpu'); print('a_backbone {cached} a_vit True')")
    check = diagnosis.torch_works()[2]
    there = f"a_backbone {'in' if cached else 'not in'} the cache, a_vit in the cache, hub http://127"
    assert check.ok and check.found.startswith(there)
    assert ("not reachable" in check.found) != reachable and "secret" not in check.found
    assert ("set model.weights to a file, or to none" in check.found) == (not cached and not reachable)


def test_small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(available=1 << 30, total=2 << 30)
    monkeypatch.setattr(diagnosis.psutil, "virtual_memory", lambda: usage)
    monkeypatch.setattr(diagnosis, "MIN_CPUS", 10_000)
    _refused(diagnosis.memory(), "1 GiB free of 2 GiB", "4 GiB must be free")
    _refused(diagnosis.cpus(), "", "at least 10000 CPUs")


def test_small_shared_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(diagnosis, "SHM", tmp_path)
    monkeypatch.setattr(diagnosis.shutil, "disk_usage", lambda _: SimpleNamespace(total=64 << 20))
    _refused(diagnosis.shared_memory(), "0.0625 GiB", "docker run --shm-size=2g")
    monkeypatch.setattr(diagnosis, "SHM", tmp_path / "none")
    assert diagnosis.shared_memory().ok


@pytest.mark.parametrize(("total", "free", "ok"), [(100, 50, True), (100, 4, False), (1000, 40, False)])
def test_disk_space(total: int, free: int, ok: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = SimpleNamespace(total=total << 30, free=free << 30)
    monkeypatch.setattr(diagnosis.shutil, "disk_usage", lambda _: usage)
    check = diagnosis.disk("disk", tmp_path / "not" / "yet")
    assert check.ok == ok and check.found == f"{tmp_path}: {free} GiB free"
    assert ok or "5 GiB and 5% of the disk" in check.fix


def test_a_folder_without_write_permission(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(diagnosis.os, "access", lambda *_: False)  # chmod does not stop root
    _refused(diagnosis.disk("disk", tmp_path), "not writable", f"write to {tmp_path}")


def test_storage_on_s3(s3_environment: str) -> None:
    boto3.client("s3", endpoint_url=s3_environment).create_bucket(Bucket="good")
    assert diagnosis.storage_usable("s3://good/runs").ok
    _refused(
        diagnosis.storage_usable("s3://none/runs"), "s3://none/runs", "there is no bucket none at http://127.0.0.1:"
    )


def test_storage_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    _refused(diagnosis.storage_usable(str(tmp_path / "file")), "not usable", "cannot write")
    _refused(diagnosis.storage_usable("gs://x"), "gs://x", "unknown scheme gs://")


def test_storage_that_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "delete", lambda uri: None)
    _refused(diagnosis.storage_usable(str(tmp_path)), "", "the right to delete")
    monkeypatch.setattr(storage, "read_bytes", lambda uri: b"old")
    _refused(diagnosis.storage_usable(str(tmp_path)), "something else", "cache or proxy")


def test_a_port_in_use() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        _refused(diagnosis.port_free(port, "--port"), f"(pid {os.getpid()})", "start Ray with another --port")
    assert diagnosis.port_free(port, "--port").found == "free"


def test_a_port_that_ray_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "_listener", lambda port: "/x/ray/core/src/ray/gcs/gcs_server --a (pid 7)")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        assert diagnosis.port_free(listener.getsockname()[1], "--port").ok


def test_ray_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert diagnosis.ray_address().ok
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", f"http://{address}")
        _refused(diagnosis.ray_address(), "does not answer", "unset RAY_ADDRESS")
        listener.listen()
        assert diagnosis.ray_address().ok
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:port")
    _refused(diagnosis.ray_address(), "127.0.0.1:port", "correct or unset")


def test_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    token = tmp_path / "token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    assert diagnosis.auth_token().ok
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    _refused(diagnosis.auth_token(), "is absent", "ray get-auth-token --generate")
    token.write_text("t")
    token.chmod(0o644)
    _refused(diagnosis.auth_token(), "readable by others", f"chmod 600 {token}")
    token.chmod(0o600)
    assert diagnosis.auth_token().ok
