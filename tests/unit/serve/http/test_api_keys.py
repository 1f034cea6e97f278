"""API keys of a file and of the environment, and when the endpoint may start without any."""

import hashlib
import logging
from pathlib import Path

import pytest

from foodseg.config.serve import HttpConfig
from foodseg.errors import UserError
from foodseg.serve.http import api_keys as keys_module
from foodseg.serve.http.api_keys import ENVIRONMENT, Keys, is_loopback, keys_for, presented_key
from foodseg.serve.http.schema import ApiError

ONE, TWO = b"first-key-of-canteen", b"second-key-of-a-lab"


def _line(name: str, key: bytes) -> str:
    return f"{name} {hashlib.sha256(key).hexdigest()}\n"


def _file(path: Path, text: str) -> HttpConfig:
    path.write_text(text)
    return HttpConfig(keys_file=str(path))


def _keys(config: HttpConfig, environ: dict[str, str] | None = None) -> Keys:
    keys = keys_for(config, environ or {})
    assert keys is not None
    return keys


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(keys_module, "time", found)
    return found


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("foodseg"), "propagate", True)
    return caplog


def test_a_file_of_hashes(tmp_path: Path) -> None:
    text = "# who may call\n\n" + _line("canteen", ONE) + _line("lab", TWO).upper().replace("LAB", "lab")
    keys = _keys(_file(tmp_path / "keys", text))
    assert (keys.owner(ONE), keys.owner(TWO), keys.owner(b"other"), keys.owner(b"")) == ("canteen", "lab", None, None)
    assert keys.owner(hashlib.sha256(ONE).hexdigest().encode()) is None


def test_a_file_is_read_again_within_five_seconds(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "keys"
    keys = _keys(_file(path, _line("canteen", ONE)))
    path.write_text(_line("canteen", TWO))
    clock.now += 4.9
    assert (keys.owner(ONE), keys.owner(TWO)) == (None, "canteen")


def test_without_any_key_left_all_requests_are_refused(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "keys"
    keys = _keys(_file(path, _line("canteen", ONE)))
    path.write_text("")
    clock.now += 5
    assert keys.owner(ONE) is None


def test_without_the_file_all_requests_are_refused(tmp_path: Path, clock: Clock, log: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "keys"
    keys = _keys(_file(path, _line("canteen", ONE)))
    path.unlink()
    clock.now += 5
    for _ in range(3):
        with pytest.raises(ApiError) as caught:
            keys.owner(ONE)
        assert (caught.value.status, caught.value.code) == (503, "keys_unreadable")
    assert len(log.records) == 1  # logged once, not with every request
    path.write_text(_line("canteen", ONE))
    assert keys.owner(ONE) == "canteen"


def test_a_wrong_line_invalidates_only_its_own_key(tmp_path: Path, clock: Clock, log: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "keys"
    keys = _keys(_file(path, _line("canteen", ONE)))
    path.write_text(f"lab {TWO.decode()}\n" + _line("canteen", ONE))
    clock.now += 5
    assert (keys.owner(ONE), keys.owner(TWO)) == ("canteen", None)
    assert "line 1" in log.text and TWO.decode() not in log.text


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_as_windows_editors_save_it(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    path.write_bytes(_line("canteen", ONE).replace("\n", "\r\n").encode(encoding))
    keys = keys_for(HttpConfig(keys_file=str(path)), {})
    assert keys is not None and keys.owner(ONE) == "canteen"


@pytest.mark.parametrize("line", ["canteen", "canteen abc", f"two words {'0' * 64}", f"canteen {'g' * 64}"])
def test_a_wrong_line_at_the_start_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(UserError, match=r"keys, line 1: expected a name and the SHA-256"):
        keys_for(_file(tmp_path / "keys", line), {})


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"http\.keys_file: cannot read .*keys"):
        keys_for(HttpConfig(keys_file=str(tmp_path / "keys")), {ENVIRONMENT: "a:" + "x" * 20})


def test_keys_of_the_environment() -> None:
    keys = _keys(HttpConfig(host="0.0.0.0"), {ENVIRONMENT: f"canteen:{ONE.decode()}, lab:{TWO.decode()}"})
    assert (keys.owner(ONE), keys.owner(TWO), keys.owner(b"x")) == ("canteen", "lab", None)


@pytest.mark.parametrize(
    "listed", ["justakeywithoutname", "canteen:short", "two words:" + "x" * 20, "a:" + "x" * 20 + ","]
)
def test_malformed_keys_of_the_environment(listed: str) -> None:
    with pytest.raises(UserError, match=ENVIRONMENT) as caught:
        keys_for(HttpConfig(), {ENVIRONMENT: listed})
    assert "x" * 20 not in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]"])
def test_a_loopback_address_starts_open_with_a_warning(host: str, log: pytest.LogCaptureFixture) -> None:
    assert is_loopback(host)
    assert keys_for(HttpConfig(host=host), {}) is None
    assert "no API keys" in log.text


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "food.example"])
def test_any_other_address_needs_keys(host: str) -> None:
    with pytest.raises(UserError, match=r"needs API keys: set http\.keys_file"):
        keys_for(HttpConfig(host=host), {})


def test_the_key_of_a_request() -> None:
    assert presented_key({b"authorization": b"Bearer a b"}) == b"a b"
    assert presented_key({b"authorization": b"Basic x", b"x-api-key": b" k "}) == b"k"
    assert presented_key({}) is None
