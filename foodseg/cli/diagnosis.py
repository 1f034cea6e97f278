"""What is wrong with this machine, before a long run finds out: `foodseg doctor`.

Each check is a small function that answers with a `Check`: what was found and, if it is not good, the one thing to do.
Nothing here starts or imports Ray; torch is imported in a child process, because a broken pair of torch and
torchvision may end the process that imports it.
"""

import importlib.metadata
import os
import platform
import shutil
import socket
import stat
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from foodseg import storage
from foodseg.errors import FoodsegError
from foodseg.report.fonts import is_legible

PACKAGES = ("torch", "torchvision", "ray", "pyarrow", "timm")
GIB = 1 << 30
MIN_CPUS = 2
MIN_MEMORY = 4 * GIB
MIN_SHM = 1 * GIB  # Docker gives 64 MB, and Ray's object store then falls back to the disk
MIN_DISK = 5 * GIB
MAX_DISK_USED = 0.95  # above this share Ray refuses to spill objects
PORTS = {6379: "--port", 8265: "--dashboard-port"}
IMPORT_SECONDS = 120.0
# a word of each script, as a font has to draw it
SCRIPTS = {
    "Latin": "cr\u00e8me", "Greek": "\u03c8\u03c9\u03bc\u03af", "Cyrillic": "\u0440\u0438\u0441",
    "Chinese": "\u7c73\u996d", "Japanese": "\u3054\u98ef", "Korean": "\ubc25", "Thai": "\u0e02\u0e49\u0e32\u0e27",
    "Arabic": "\u0623\u0631\u0632", "Hebrew": "\u05d0\u05d5\u05e8\u05d6", "Devanagari": "\u091a\u093e\u0935\u0932",
}  # fmt: skip
SHM = Path("/dev/shm")

# nms is a compiled operator of torchvision: it is there only if the two packages fit.
_IMPORT_TORCH = """
import torch, torchvision
torch.ops.torchvision.nms
gpus = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
print("cuda: " + gpus if gpus else "mps" if torch.backends.mps.is_available() else "cpu")
from foodseg.config.recipe import load_recipe
from foodseg.models.backbones.timm_hub import weights_cached
model = load_recipe().config.model
print(*(f"{name} {weights_cached(name)}" for name in (model.backbone, model.vit.backbone)))
"""


@dataclass(frozen=True)
class Check:
    """One answer. `fix` is one sentence when `ok` is False, else empty."""

    name: str
    ok: bool
    found: str
    fix: str


def diagnose(storage_uri: str | None = None) -> list[Check]:
    """All checks, in the order in which to repair; takes some seconds. `storage_uri`: a folder to write to, or None."""
    checks = [python_version(), *package_versions(), *torch_works(), fonts(), cpus(), memory(), shared_memory()]
    checks += [disk("disk here", Path.cwd()), disk("disk for Ray", Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray")]
    if storage_uri is not None:
        checks.append(storage_usable(storage_uri))
    checks += [port_free(port, option) for port, option in PORTS.items()]
    return [*checks, ray_address(), auth_token()]


def _check(name: str, ok: bool, found: str, fix: str) -> Check:
    return Check(name, ok, found, "" if ok else fix)


def python_version() -> Check:
    """The interpreter is in the range of pyproject.toml."""
    version = platform.python_version()
    try:
        wanted = importlib.metadata.metadata("foodseg")["Requires-Python"]
    except importlib.metadata.PackageNotFoundError:
        return Check("python", False, f"{version}, foodseg not installed", "install foodseg here: pip install -e .")
    ok = SpecifierSet(wanted).contains(version, prereleases=True)
    return _check("python", ok, version, f"make the virtual environment with a Python {wanted}")


def package_versions() -> list[Check]:
    """The packages that must fit together have the versions that foodseg asks for."""
    try:
        requirements = [Requirement(line) for line in importlib.metadata.requires("foodseg") or []]
    except importlib.metadata.PackageNotFoundError:
        return []  # said by python_version
    wanted = {item.name: item.specifier for item in requirements if item.marker is None}
    checks = []
    for name in PACKAGES:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            version = ""
        ok = bool(version) and wanted[name].contains(version, prereleases=True)
        checks.append(_check(name, ok, version or "not installed", f'run: pip install "{name}{wanted[name]}"'))
    return checks


def torch_works() -> list[Check]:
    """torch and torchvision load together; what a training computes on; the weights that it starts from by default."""
    name = "torch with torchvision"
    fix = "install both in one command, from the same index: pip install torch torchvision (versions as above)"
    command = [sys.executable, "-c", _IMPORT_TORCH]
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=IMPORT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return [
            Check(name, False, f"import took more than {IMPORT_SECONDS:.0f} s", "move the environment to a local disk")
        ]
    if child.returncode != 0:
        last_line = (child.stderr.strip().splitlines() or [f"exit code {child.returncode}"])[-1]
        return [Check(name, False, last_line, fix)]
    device, weights = child.stdout.strip().splitlines()[-2:]
    return [Check(name, True, "import together", ""), Check("device", True, device, ""), _default_weights(weights)]


def _default_weights(said: str) -> Check:
    """What the weights `timm` would do here; a machine without the hub can train, with files or from random.

    Args:
        said: name and True or False (in the cache) of each encoder of the recipe.
    """
    words = said.split()
    cached = {name: is_there == "True" for name, is_there in zip(words[::2], words[1::2], strict=True)}
    hub = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    parts = urlsplit(hub)
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    try:
        with socket.create_connection((parts.hostname or "", parts.port or {"http": 80}.get(parts.scheme, 443)), 3):
            reachable = True
    except (OSError, ValueError):
        reachable = False
    there = ", ".join(f"{name} {'in' if is_there else 'not in'} the cache" for name, is_there in cached.items())
    answers = "reachable" if reachable else "not reachable"
    instead = ": set model.weights to a file, or to none for random weights; of the ViT model.vit.weights"
    advice = "" if all(cached.values()) or reachable else instead
    return Check("pretrained weights", True, f"{there}, hub {shown} {answers}{advice}", "")


def fonts() -> Check:
    """Scripts in which class names are legible in overlays and contact sheets; elsewhere their ids are shown."""
    lacking = [script for script, text in SCRIPTS.items() if not is_legible(text)]
    reordered = "; those whose letters join need FriBidi: apt-get install libfribidi0, brew install fribidi"
    found = f"names in {', '.join(lacking)} are shown as ids{reordered}" if lacking else "names in every common script"
    return Check("fonts", True, found, "")


def cpus() -> Check:
    """CPUs that this process may use."""
    count = len(psutil.Process().cpu_affinity()) if sys.platform == "linux" else (os.cpu_count() or 1)
    return _check("cpus", count >= MIN_CPUS, str(count), f"give the machine or container at least {MIN_CPUS} CPUs")


def memory() -> Check:
    """Memory that is free to use."""
    found = psutil.virtual_memory()
    text = f"{_gib(found.available)} free of {_gib(found.total)}"
    fix = f"stop other programs or give the container more memory: {_gib(MIN_MEMORY)} must be free"
    return _check("memory", found.available >= MIN_MEMORY, text, fix)


def shared_memory() -> Check:
    """/dev/shm, where Ray's object store lives."""
    if not SHM.exists():
        return Check("/dev/shm", True, "none on this system; Ray uses its temporary folder", "")
    total = shutil.disk_usage(SHM).total
    fix = f"start the container with docker run --shm-size={_gib(2 * MIN_SHM).replace(' GiB', 'g')} or more"
    return _check("/dev/shm", total >= MIN_SHM, _gib(total), fix)


def disk(name: str, folder: Path) -> Check:
    """Space below `folder` (or its nearest parent that exists), and the right to write there."""
    path = next(parent for parent in (folder, *folder.parents) if parent.exists())
    usage = shutil.disk_usage(path)
    found = f"{path}: {_gib(usage.free)} free"
    if not os.access(path, os.W_OK):
        return Check(name, False, f"{path}: not writable", f"give this user the right to write to {path}")
    ok = usage.free >= MIN_DISK and 1 - usage.free / usage.total < MAX_DISK_USED
    return _check(
        name, ok, found, f"free space there: {_gib(MIN_DISK)} and {1 - MAX_DISK_USED:.0%} of the disk are needed"
    )


def storage_usable(uri: str) -> Check:
    """A probe object can be written, read back and deleted."""
    shown = storage.redact(uri)
    try:
        probe, content = storage.join(uri, f"foodseg-doctor-{uuid.uuid4().hex}"), os.urandom(16)
        storage.write_bytes(probe, content)
        same = storage.read_bytes(probe) == content
        storage.delete(probe)
        gone = not storage.exists(probe)
    except FoodsegError as error:
        return Check("storage", False, f"{shown}: not usable", str(error))
    if not same:
        return Check("storage", False, f"{shown}: reads back something else", "look for a cache or proxy before it")
    return _check("storage", gone, f"{shown}: write, read and delete work", "give the key the right to delete objects")


def port_free(port: int, option: str) -> Check:
    """The port is free, or Ray itself has it."""
    name = f"port {port}"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a connection that just ended does not count
        try:
            probe.bind(("", port))
            return Check(name, True, "free", "")
        except OSError:
            owner = _listener(port)
    is_ray = any(mark in owner for mark in ("gcs_server", "ray::", "/ray/dashboard/"))
    return _check(name, is_ray, f"in use by {owner}", f"stop that program, or start Ray with another {option}")


def _listener(port: int) -> str:
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        return "a program of another user"
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
            try:
                return f"{' '.join(psutil.Process(connection.pid).cmdline())[:120]} (pid {connection.pid})"
            except psutil.Error:
                break
    return "a program that cannot be seen from here"


def ray_address() -> Check:
    """RAY_ADDRESS: unset, or somebody answers there."""
    address = os.environ.get("RAY_ADDRESS", "")
    if not address or address in ("auto", "local"):
        return Check("RAY_ADDRESS", True, address or "not set: Ray starts or finds a cluster on this machine", "")
    fix = "start that cluster, or correct or unset RAY_ADDRESS"
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=3):
            return Check("RAY_ADDRESS", True, f"{address} answers", "")
    except (OSError, ValueError) as error:
        return Check("RAY_ADDRESS", False, f"{address} does not answer ({error})", fix)


def auth_token() -> Check:
    """Ray's token: there if it is demanded, and not readable by others."""
    name = "ray token"
    mode = os.environ.get("RAY_AUTH_MODE", "")
    if os.environ.get("RAY_AUTH_TOKEN"):
        return Check(name, True, "in RAY_AUTH_TOKEN", "")
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    if not path.is_file():
        fix = "run: ray get-auth-token --generate"
        return _check(name, mode != "token", f"{path} is absent, RAY_AUTH_MODE is {mode or 'not set'}", fix)
    readable = bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))
    return _check(name, not readable, f"{path}{', readable by others' if readable else ''}", f"run: chmod 600 {path}")


def _gib(count: int) -> str:
    return f"{count / GIB:.3g} GiB"
