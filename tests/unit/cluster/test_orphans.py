"""A command that is killed leaves nothing behind: whatever it started ends within seconds, in a session of its own or
not, and the next command names it until then."""

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from foodseg.cluster import orphans
from foodseg.cluster.orphans import MARK, end_marked, keeper
from tests.support.drivers import wait_for

SLEEPER = [sys.executable, "-c", "import time; time.sleep(120)"]
# starts a process of its own session, which starts another one; says who they are, and waits
DRIVER = """
import os, subprocess, sys, time
from foodseg.cluster.orphans import keeper
with keeper(grace=1) as marks:
    code = ("import subprocess, sys, time; "
            "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(120)'], start_new_session=True); "
            "print(child.pid, flush=True); time.sleep(120)")
    child = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, **marks}, start_new_session=True,
                             stdout=subprocess.PIPE, text=True)
    print(child.pid, child.stdout.readline().strip(), flush=True)
    if sys.argv[1] == "wait":
        time.sleep(120)
"""


def start(how: str) -> tuple["subprocess.Popen[str]", list[psutil.Process]]:
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, how], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    return driver, [psutil.Process(int(word)) for word in driver.stdout.readline().split()]


def gone(processes: list[psutil.Process]) -> bool:
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda n: n.name)
def test_what_a_command_started_ends_with_it_by_any_signal(number: signal.Signals) -> None:
    driver, started = start("wait")
    keepers = psutil.Process(driver.pid).children()
    assert len(started) == 2 and not gone(started)
    driver.send_signal(number)
    driver.wait(timeout=20)
    wait_for(lambda: gone(started), 20)
    wait_for(lambda: gone(keepers), 10)


def test_a_command_that_ends_by_itself_waits_until_nothing_is_left() -> None:
    driver, started = start("end")
    assert driver.wait(timeout=30) == 0
    assert gone(started)


def test_what_a_killed_command_left_is_named_and_ended_by_the_next(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a namespace of its own, so that no other command on this machine is faster
    monkeypatch.setattr(orphans, "namespace", lambda: "test")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    mark = f"{dead.pid}/{orphans.namespace()}/abc"
    left = subprocess.Popen(SLEEPER, env={**os.environ, MARK: mark}, start_new_session=True)
    wait_for(lambda: mark in orphans.leftovers(), 10)
    with caplog.at_level(logging.WARNING, "foodseg"), keeper(grace=0):
        pass
    line = [r.getMessage() for r in caplog.records if str(left.pid) in r.getMessage()]
    assert len(line) == 1
    assert f"process id {dead.pid} was killed and has left behind python" in line[0] and "MiB" in line[0]
    assert left.wait(timeout=20) == -signal.SIGKILL


def test_neither_living_commands_nor_other_containers_are_touched() -> None:
    here = orphans.namespace()
    alive = subprocess.Popen(SLEEPER, env={**os.environ, MARK: f"{os.getpid()}/{here}/own"})
    elsewhere = subprocess.Popen(SLEEPER, env={**os.environ, MARK: "999999999/12/other"})
    try:
        wait_for(lambda: {"own", "other"} <= {mark.rpartition("/")[2] for _, mark in orphans._marked()}, 10)
        found = orphans.leftovers()
        assert not any("/own" in mark or "/other" in mark for mark in found)
        end_marked(f"{os.getpid()}/{here}/nobody", grace=0)
        assert alive.poll() is None and elsewhere.poll() is None
        end_marked(f"{os.getpid()}/{here}/own", grace=0)
        assert alive.wait(timeout=10) == -signal.SIGKILL and elsewhere.poll() is None
    finally:
        for process in (alive, elsewhere):
            process.kill()
            process.wait()


def test_what_ends_by_itself_within_the_grace_is_not_killed(tmp_path: Path) -> None:
    mark = f"{os.getpid()}/{orphans.namespace()}/tidy"
    code = "import pathlib, sys, time; time.sleep(1); pathlib.Path(sys.argv[1]).write_text('tidied')"
    tidy = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "done")], env={**os.environ, MARK: mark})
    began = time.monotonic()
    end_marked(mark, grace=30)
    assert (tmp_path / "done").read_text() == "tidied" and tidy.wait(timeout=5) == 0
    assert time.monotonic() - began < 20


COMMAND = """
import sys, time
from foodseg.cli import main as cli

@cli.app.command()
def hang() -> None:
    try:
        print("begun", flush=True)
        time.sleep(60)
    finally:
        print("tidied", flush=True)

sys.argv = ["foodseg", "hang"]
cli.main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda n: n.name)
def test_a_command_that_is_asked_to_end_tidies_up_and_says_so(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as command:
        assert command.stdout is not None and command.stdout.readline() == "begun\n"
        command.send_signal(number)
        out, err = command.communicate(timeout=30)
    assert (command.returncode, out) == (130, "tidied\n")
    assert err == "foodseg: interrupted\n"


def test_nohup_keeps_a_command_alive() -> None:
    ignoring = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n{COMMAND}"
    with subprocess.Popen([sys.executable, "-c", ignoring], stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None and command.stdout.readline() == "begun\n"
        command.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            command.wait(timeout=1)
        command.kill()
