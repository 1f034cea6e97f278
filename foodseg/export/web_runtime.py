"""onnxruntime-web, which runs an exported graph in a browser: fetched once by npm, verified, and kept on this machine.

    runtime = web_runtime()
    runtime.version, len(runtime.wasm)      # "1.30.0", 14 MB

It is not a part of the repository or of the wheel, which would grow by 14 MB for those who never make a page. npm knows
the registry, the mirror and the proxy of this machine; the files are pinned here, whoever gave them. A machine without
network finds them where they are kept, or takes the package that was put there by hand.
"""

import gzip
import os
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from foodseg.checkpoint.manifest import sha256
from foodseg.errors import UserError

VERSION = "1.30.0"
MODULE, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
FILES = {
    MODULE: "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    WASM: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
SECONDS = 300  # npm fetches 33 MB


@dataclass(frozen=True)
class WebRuntime:
    """module: JavaScript. wasm: what it runs, for browsers with SIMD: all of the last years."""

    version: str
    module: str
    wasm: bytes


def web_runtime() -> WebRuntime:
    """Returns it, fetched where it is not kept yet.

    Raises:
        UserError: npm is missing or cannot fetch it, or what it gives is not what is pinned.
    """
    folder = kept_folder()
    if not all((folder / name).exists() for name in FILES):
        package = folder / f"onnxruntime-web-{VERSION}.tgz"
        if package.exists():
            _unpack(package, folder)
        else:
            with tempfile.TemporaryDirectory(prefix="foodseg-web-") as fetched:
                _unpack(_fetched(Path(fetched), package), folder)
    files = {name: (folder / name).read_bytes() for name in FILES}
    for name, data in files.items():
        if sha256(data) != FILES[name]:
            raise UserError(
                f"{folder / name} is not the file of onnxruntime-web {VERSION}: delete it, and export again"
            )
    return WebRuntime(VERSION, files[MODULE].decode(), files[WASM])


def kept_folder() -> Path:
    """Returns where its files are kept on this machine; the folder may be missing."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "foodseg" / f"onnxruntime-web-{VERSION}"


def _fetched(folder: Path, by_hand: Path) -> Path:
    """Returns the package, fetched into a folder. `by_hand`: where a person may put it instead."""
    otherwise = f"or put {by_hand.name} of the npm registry into {by_hand.parent}"
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            f"--web needs onnxruntime-web {VERSION}, and npm is not installed: install Node.js, {otherwise}"
        )
    command = [npm, "pack", f"onnxruntime-web@{VERSION}", "--silent", "--pack-destination", str(folder)]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False)
        said = done.stderr.strip().splitlines()
    except subprocess.TimeoutExpired:
        said = [f"no answer in {SECONDS} s"]
    found = folder / by_hand.name
    if not found.exists():
        why = said[0][:200] if said else "npm says nothing"
        raise UserError(
            f"--web needs onnxruntime-web {VERSION}, and npm cannot fetch it ({why}): go online, {otherwise}"
        )
    return found


def _unpack(package: Path, folder: Path) -> None:
    """Keeps the files of FILES; one that is there is whole."""
    try:
        with tarfile.open(package) as archive:
            found = {name: _member(archive, f"package/dist/{name}") for name in FILES}
    except (tarfile.TarError, KeyError, EOFError, zlib.error, gzip.BadGzipFile):
        raise UserError(f"{package} is not the package of onnxruntime-web {VERSION}: fetch it again") from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in found.items():
            part = folder / f".{name}.{os.getpid()}"
            part.write_bytes(data)
            part.replace(folder / name)
    except OSError as error:
        raise UserError(f"onnxruntime-web {VERSION} cannot be kept in {folder} ({error.strerror})") from None


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    """Returns the content of a file. KeyError: there is none of this name."""
    file = archive.extractfile(name)
    if file is None:
        raise KeyError(name)
    return file.read()
