"""Data sets on the Hugging Face hub, against a local server that speaks its file layout."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from foodseg.errors import RetryLater, UserError
from foodseg.prepare.formats import huggingface
from foodseg.prepare.formats.detect import list_source
from foodseg.storage.hub import join, list_names, pin, read_text
from tests.support.hub_server import COMMIT, HubServer
from tests.unit.prepare.formats.test_huggingface import check, mirror, rows, write

NAME = "hf://datasets/somebody/meals"
PINNED = f"{NAME}@{COMMIT}"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub with somebody/meals: five rows of train in groups of two, two of validation."""
    mirror(tmp_path / "somebody" / "meals", train=(0, 5), validation=(5, 2))
    huggingface._read_leaf.cache_clear()
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    with HubServer(tmp_path) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


@pytest.mark.parametrize("uri", [NAME, f"{NAME}@main", f"{NAME}@{COMMIT}", f"{NAME}/"])
def test_images_and_masks_of_a_data_set_on_the_hub(uri: str, hub: HubServer) -> None:
    listing = list_source(uri)
    assert [record.split for record in listing.records] == ["train"] * 5 + ["test"] * 2
    assert listing.records[0].image_id == "00000000"
    check(listing, list(range(7)))


def test_records_name_the_commit(hub: HubServer) -> None:
    image = list_source(NAME).records[0].image
    assert image == huggingface.ParquetCell(f"{PINNED}/data/train-00000-of-00001.parquet", 0, 0, "image.bytes")


def test_only_the_row_group_that_is_read_travels(hub: HubServer, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    columns = rows(4)
    for cell in columns["image"]:
        cell["bytes"] += random.bytes(300_000)  # decoders stop at the end of the PNG
    path = tmp_path / "somebody" / "meals" / "data" / "train-00000-of-00001.parquet"
    write(path, columns, group=1)
    record = list_source(NAME).records[2]
    hub.requests.clear()
    record.image.read()
    ranges = [wanted.removeprefix("bytes=").split("-") for _, _, wanted in hub.requests if wanted]
    travelled = sum(int(last) - int(first) + 1 for first, last in ranges)
    own = pq.ParquetFile(path).metadata.row_group(2).column(0).total_compressed_size
    assert own <= travelled < own + 150_000 < path.stat().st_size / 2
    assert not any(method == "GET" and "resolve" in path and not wanted for method, path, wanted in hub.requests)


def test_sources_tsv_on_the_hub(hub: HubServer, tmp_path: Path) -> None:
    folder = tmp_path / "somebody" / "meals"
    write(folder / "data" / "train-00000-of-00001.parquet", rows(2, path="canteen__{}"))
    (folder / "sources.tsv").write_text("canteen\trice\n")
    assert list_source(NAME).annotated == {"canteen": (0, 1)}


def test_the_conversion_of_the_hub(hub: HubServer, tmp_path: Path) -> None:
    write(tmp_path / "somebody" / "converted" / "default" / "train" / "0000.parquet", rows(2))
    (tmp_path / "somebody" / "converted" / "id2label.json").write_bytes(
        '\ufeff{"1": "rice", "2": "egg", "0": "background"}'.encode()
    )
    check(list_source("hf://datasets/somebody/converted"), [0, 1])


def test_names_and_texts(hub: HubServer) -> None:
    assert list_names(PINNED) == ["README.md", "classes.txt", "data"]
    assert list_names(join(PINNED, "data/")) == ["train-00000-of-00001.parquet", "validation-00000-of-00001.parquet"]
    assert list_names(join(PINNED, "nowhere")) == []
    assert read_text(join(PINNED, "classes.txt")).splitlines()[1] == "1\trice"


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("hf://datasets/somebody/nothing", "has no such data set, or it is private; correct the name or set HF_TOKEN"),
        (f"{NAME}@v9", "has no such revision"),
        ("hf://somebody/meals", "expected hf://datasets/owner/name"),
        ("hf://datasets/meals", "expected hf://datasets/owner/name"),
        (f"{NAME}/elsewhere", "holds no Parquet files"),
        ("hf://datasets/some body/meals", "is the name right"),
    ],
)
def test_what_is_not_there_is_one_sentence(uri: str, words: str, hub: HubServer) -> None:
    with pytest.raises(UserError, match=words) as error:
        list_source(uri)
    assert uri.rpartition("@")[0] in str(error.value) and "\n" not in str(error.value)


def test_a_gated_data_set(hub: HubServer) -> None:
    hub.gated.add("somebody/meals")
    with pytest.raises(UserError, match=r"agreed to the conditions on its page; do so and set HF_TOKEN"):
        list_source(NAME)


def test_a_file_that_is_not_there(hub: HubServer) -> None:
    with pytest.raises(UserError, match=f"cannot read {PINNED}/nothing.txt: no such file"):
        read_text(f"{PINNED}/nothing.txt")


def test_names_cannot_be_put_on_the_hub(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "somebody" / "meals" / "classes.txt").unlink()
    with pytest.raises(UserError, match=r"put classes.txt .* into a folder of its files, and give that folder"):
        list_source(NAME)


def test_the_hub_has_one_format(hub: HubServer) -> None:
    with pytest.raises(UserError, match="is read in the format huggingface, not coco"):
        list_source(NAME, "coco")


def test_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:9 is not reachable; download the data set") as error:
        pin(NAME)
    assert "\n" not in str(error.value)


class WebPage(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>Please log in</html>")

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


def test_a_web_page_instead_of_a_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), WebPage) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(UserError, match=r"is http://127\.0\.0\.1:\d+ a hub \(HF_ENDPOINT\)\?"):
            pin(NAME)
        server.shutdown()


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_hub_that_fails_in_mid_run_is_worth_retrying(
    status: int, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = list_source(NAME).records
    hub.broken = status
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    with pytest.raises(RetryLater, match=f"{hub.endpoint} answers {status}; run the same command again later"):
        records[0].image.read()
    hub.broken = 0
    assert records[0].image.read()


def test_a_refusal_in_mid_run_is_not_worth_retrying(hub: HubServer) -> None:
    records = list_source(NAME).records
    hub.broken = 403
    with pytest.raises(UserError, match="answers 403; is HF_ENDPOINT a hub, and HF_TOKEN right"):
        records[0].image.read()
