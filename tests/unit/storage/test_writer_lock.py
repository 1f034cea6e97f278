"""Two commands never write one folder; what a killed one has left there does not block the next."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from foodseg import storage
from foodseg.cluster.orphans import namespace
from foodseg.errors import UserError
from foodseg.storage import writer_lock as module
from foodseg.storage.writer_lock import FILE, in_use, refuse_in_use

WRITER = "import sys, time; from foodseg.storage.writer_lock import in_use\nwith in_use(sys.argv[1], 'run.uri'): print(1, flush=True); time.sleep(60)"  # noqa: E501


def left_by(folder: Path, **changes: Any) -> None:
    here = {"host": socket.gethostname(), "namespace": namespace(), "pid": os.getpid(), "id": "x", "at": time.time()}
    (folder / FILE).write_text(json.dumps({**here, **changes}))


def start_writer(folder: Path) -> "subprocess.Popen[str]":
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None and writer.stdout.readline()
    return writer


def test_a_folder_that_another_process_writes_is_refused_until_it_is_killed(tmp_path: Path) -> None:
    writer = start_writer(tmp_path)
    try:
        said = rf"^run.uri {tmp_path} is being written by another command \(process id {writer.pid} on .*\): wait until"
        with pytest.raises(UserError, match=said), in_use(str(tmp_path), "run.uri"):
            raise AssertionError("it went in")
        assert json.loads((tmp_path / FILE).read_text())["pid"] == writer.pid  # nothing of it was touched
    finally:
        writer.kill()
        writer.wait()
    with in_use(str(tmp_path), "run.uri"):  # at once, though the file is still there
        assert json.loads((tmp_path / FILE).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_within_one_process_too(tmp_path: Path) -> None:
    with (
        in_use(str(tmp_path), "sweep.uri"),
        pytest.raises(UserError, match=r"^sweep.uri .* name another sweep.uri$"),
        in_use(str(tmp_path), "sweep.uri"),
    ):
        pass
    with in_use(str(tmp_path), "sweep.uri"):
        pass


@pytest.mark.parametrize(
    "changes",
    [
        {"pid": 999_999_999},  # gone
        {"at": time.time() - 10 * 365 * 86400},  # this pid has been given out again since
        {},  # of this process, but from a body that was left without tidying up
        {"host": "elsewhere", "at": time.time() - 3600},
        {"namespace": "1", "at": time.time() - 3600},  # another container of this machine
        {"pid": "7"},  # not one of ours
    ],
)
def test_what_was_left_behind_does_not_count(tmp_path: Path, changes: dict[str, Any]) -> None:
    left_by(tmp_path, **changes)
    refuse_in_use(str(tmp_path), "run.uri")


def test_garbage_does_not_count(tmp_path: Path) -> None:
    for content in (b"", b"[1]", b"\xff", b"{"):
        (tmp_path / FILE).write_bytes(content)
        refuse_in_use(str(tmp_path), "run.uri")


def test_another_machine_is_given_time_for_a_sign_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENT_SECONDS", 1.5)
    monkeypatch.setattr(module, "SIGN_SECONDS", 0.1)
    left_by(tmp_path, host="elsewhere")
    began = time.monotonic()
    refuse_in_use(str(tmp_path), "run.uri")  # it stayed silent
    assert 1.0 < time.monotonic() - began < 20

    left_by(tmp_path, host="elsewhere")
    writes = [time.sleep, lambda _: left_by(tmp_path, host="elsewhere", at=time.time() + 0.5)]
    sleep = time.sleep
    monkeypatch.setattr(module.time, "sleep", lambda s: (sleep(s), writes[1](s)))
    with pytest.raises(UserError, match=r"process id \d+ on elsewhere"):
        refuse_in_use(str(tmp_path), "run.uri")


def test_signs_of_life_continue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SIGN_SECONDS", 0.05)
    with in_use(str(tmp_path), "run.uri"):
        first = json.loads((tmp_path / FILE).read_text())["at"]
        deadline = time.monotonic() + 10
        while json.loads((tmp_path / FILE).read_text())["at"] == first:
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.mark.parametrize("where", ["local", "s3"])
@pytest.mark.parametrize("left", [False, True])
def test_of_two_that_begin_at_the_same_moment_one_is_refused(
    where: str, left: bool, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = str(tmp_path) if where == "local" else request.getfixturevalue("bucket")
    if left:
        storage.write_text(storage.join(uri, FILE), "{}")
    looked, look, looks = threading.Barrier(2), module._read, iter([True, True])
    ended = threading.Event()

    def look_together(where: str) -> tuple[dict[str, Any], str | None]:
        found = look(where)
        if next(looks, False):
            looked.wait()
        return found

    def write(_: int) -> str:
        try:
            with in_use(uri, "run.uri"):
                assert ended.wait(60)
        except UserError as error:
            ended.set()
            return str(error)
        return "written"

    monkeypatch.setattr(module, "_read", look_together)
    with ThreadPoolExecutor(2) as pool:
        outcomes = sorted(pool.map(write, range(2)))
    assert "is being written by another command" in outcomes[0] and outcomes[1] == "written"
    assert not storage.exists(storage.join(uri, FILE))
