"""onnxruntime-web on this machine: fetched by npm once, verified, and what is said where that fails."""

import io
import tarfile
from pathlib import Path

import pytest

from foodseg.checkpoint.manifest import sha256
from foodseg.errors import UserError
from foodseg.export import web_runtime as module
from foodseg.export.web_runtime import MODULE, VERSION, WASM, kept_folder, web_runtime

CONTENT = {MODULE: b"export default 1;", WASM: b"\0asm"}
PACKAGE = f"onnxruntime-web-{VERSION}.tgz"


def package(content: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name, data in content.items():
            entry = tarfile.TarInfo(f"package/dist/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return made.getvalue()


@pytest.fixture(autouse=True)
def bin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with an empty cache, whose PATH has nothing in it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "FILES", {name: sha256(data) for name, data in CONTENT.items()})
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(module.shutil, "which", lambda name: str(tmp_path / "bin" / name))
    return tmp_path / "bin"


def fake_npm(folder: Path, script: str) -> None:
    (folder / "npm").write_text(f'#!/bin/sh\necho "$@" >> {folder}/asked\n{script}\n')
    (folder / "npm").chmod(0o755)


def test_it_is_fetched_once(bin_folder: Path) -> None:
    (bin_folder / PACKAGE).write_bytes(package(CONTENT))
    fake_npm(bin_folder, f'cp {bin_folder}/{PACKAGE} "$5"')
    for _ in range(2):
        found = web_runtime()
        assert (found.version, found.module.encode(), found.wasm) == (VERSION, CONTENT[MODULE], CONTENT[WASM])
    (asked,) = (bin_folder / "asked").read_text().splitlines()
    assert asked.startswith(f"pack onnxruntime-web@{VERSION} --silent --pack-destination ")
    assert sorted(path.name for path in kept_folder().iterdir()) == sorted(CONTENT)


def test_a_package_that_was_put_there_by_hand(bin_folder: Path) -> None:
    kept_folder().mkdir(parents=True)
    (kept_folder() / PACKAGE).write_bytes(package(CONTENT))
    assert web_runtime().wasm == CONTENT[WASM]


def test_npm_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    with pytest.raises(
        UserError, match=rf"npm is not installed: install Node\.js, or put {PACKAGE} of the npm registry"
    ):
        web_runtime()


def test_npm_finds_no_network(bin_folder: Path) -> None:
    fake_npm(bin_folder, "echo 'npm error code ENOTFOUND' >&2; exit 1")
    with pytest.raises(UserError, match=r"npm cannot fetch it \(npm error code ENOTFOUND\): go online, or put "):
        web_runtime()
    assert not kept_folder().exists()


def test_other_files_are_refused(bin_folder: Path) -> None:
    (bin_folder / PACKAGE).write_bytes(package({**CONTENT, WASM: b"another"}))
    fake_npm(bin_folder, f'cp {bin_folder}/{PACKAGE} "$5"')
    with pytest.raises(UserError, match=rf"{WASM} is not the file of onnxruntime-web {VERSION}: delete it, and export"):
        web_runtime()


@pytest.mark.parametrize("content", [b"no archive", package({MODULE: b""})])
def test_a_damaged_package(content: bytes) -> None:
    kept_folder().mkdir(parents=True)
    (kept_folder() / PACKAGE).write_bytes(content)
    with pytest.raises(UserError, match=rf"{PACKAGE} is not the package of onnxruntime-web {VERSION}: fetch it again"):
        web_runtime()
