"""The machine and the versions that a figure was measured on, and the priority of a process.

A module of its own: both the benchmarks of Ray and the bare loops use it, and a bare loop must not load Ray.
"""

import importlib.metadata
import os
import platform
from pathlib import Path

import foodseg
from foodseg.bench.results import MachineFacts

_PACKAGES = ("ray", "torch", "pyarrow", "numpy", "simplejpeg", "opencv-python-headless", "timm")


def machine_facts(cores: int) -> MachineFacts:
    """Returns cores, processor, load and versions."""
    return MachineFacts(
        cores=cores,
        processor=_processor(),
        load_before=round(os.getloadavg()[0], 2),
        versions={
            "foodseg": foodseg.__version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
    )


def lower_priority(niceness: int) -> None:
    """Brings this process to the niceness that Ray gives its workers (15), so that load slows both sides alike."""
    os.nice(max(0, niceness - os.nice(0)))


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(encoding="ascii", errors="replace").splitlines() if listing.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
