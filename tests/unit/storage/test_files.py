"""One interface for local paths and S3 (moto): round trips, atomic writes, sentences for mistakes, retries."""

import _thread
import io
import logging
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow
import pyarrow.parquet
import pytest
from botocore import exceptions
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends

from foodseg import storage
from foodseg.errors import MissingFile, RetryLater, UserError
from foodseg.storage import local, s3, s3_client, uris
from tests.unit.conftest import lead_to


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "root") if request.param == "local" else request.getfixturevalue("bucket")


@pytest.mark.parametrize(
    ("uri", "parts", "expected"),
    [
        ("/data", ("a", "b.txt"), "/data/a/b.txt"),
        ("/data/", ("a/b",), "/data/a/b"),
        ("file:///data/my%20set", ("a",), "/data/my set/a"),
        ("s3://bucket", ("a",), "s3://bucket/a"),
        ("s3://bucket/p/", ("a/", "/b"), "s3://bucket/p/a/b"),
        ("s3://bucket/p?region=eu-1&scheme=http", ("a",), "s3://bucket/p/a?region=eu-1&scheme=http"),
        ("s3://k:s@bucket/p", ("a",), "s3://k:s@bucket/p/a"),
        ("s3://bucket/p", (), "s3://bucket/p"),
    ],
)
def test_join(uri: str, parts: tuple[str, ...], expected: str) -> None:
    assert storage.join(uri, *parts) == expected


def test_join_refuses_a_name_that_would_begin_the_query() -> None:
    with pytest.raises(UserError, match=r"'what\?.png' has a '\?'"):
        storage.join("s3://bucket/p", "what?.png")


def test_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert storage.absolute("a/b") == str(tmp_path / "a/b")
    assert storage.absolute("~/x") == "/home/me/x"
    assert storage.absolute("file:///x/y/") == "/x/y"
    assert storage.absolute("s3://b/k/") == "s3://b/k"
    assert storage.absolute("s3://b/k/?region=x") == "s3://b/k?region=x"
    assert storage.is_local("file:///x") and not storage.is_local("s3://b")


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("gs://b/k", "unknown scheme gs://; use a plain path, file:///path or s3://bucket/key"),
        ("https://a/b.jpg", "unknown scheme https://; download it first, and use a plain path"),
        ("s3://", "no bucket; write s3://bucket/key"),
        ("s3://key:s@/x", "no bucket"),
        ("s3://b/k?endpoint=x", "unknown query key endpoint; valid are endpoint_override, region, scheme, anon"),
        ("s3://b/k?anonymous=yes", "anonymous is true or false, found 'yes'"),
        ("s3://key@b/k", "write the key with its secret"),
        ("file://data/x", "three slashes"),
        ("s3://key:se/cret@b/k", "write '/' as %2F"),
        ("~no-such-user/x", "no home folder is known for ~no-such-user; write the path out"),
    ],
)
def test_a_malformed_uri_is_refused(uri: str, sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        storage.absolute(uri)
    assert sentence in str(refused.value) and "se/cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://b/k", "s3://b/k"),
        ("s3://b/a@c", "s3://b/a@c"),
        ("s3://key:secret@b/k?scheme=http", "s3://***@b/k?scheme=http"),
        ("s3://key:se/cret@b/k", "s3://***@b/k"),
        ("s3://b/k?secret_key=abc&region=x", "s3://b/k?secret_key=***&region=x"),
        ("s3://b/k?region=x&Session_Token=a%2Fb", "s3://b/k?region=x&Session_Token=***"),
        ("two: http://u:p@h and s3://q:r@b", "two: http://***@h and s3://***@b"),
    ],
)
def test_redact(uri: str, expected: str) -> None:
    assert storage.redact(uri) == expected


def test_round_trip(root: str, tmp_path: Path) -> None:
    uri = storage.join(root, "deep", "a.json.gz")  # pyarrow would compress by the name
    assert not storage.exists(uri) and storage.list_names(root) == []
    storage.write_json(uri, {"n": 1})
    assert storage.read_text(uri) == '{\n  "n": 1\n}\n'
    storage.write_bytes(uri, b"new")
    storage.write_text(storage.join(root, "b.txt"), "\u00e9")
    assert storage.read_bytes(uri) == b"new"
    assert storage.list_names(root) == ["b.txt", "deep"]
    assert storage.exists(storage.join(root, "deep"))

    copy = tmp_path / "copy" / "a"
    storage.download(uri, copy)
    assert copy.read_bytes() == b"new"
    storage.upload(copy, storage.join(root, "c"))
    assert storage.read_bytes(storage.join(root, "c")) == b"new"

    storage.write_bytes(storage.join(root, "empty"), b"")
    assert storage.read_bytes(storage.join(root, "empty")) == b""


def test_a_tree_is_listed_with_the_ways_to_its_files(root: str) -> None:
    assert storage.list_tree(root) == []
    for path in ("b/c/1.jpg", "b/c.txt", "a b#%.jpg", "b/.hidden"):
        storage.write_bytes(storage.join(root, path), b"x")
    assert storage.list_tree(root) == ["a b#%.jpg", "b/.hidden", "b/c.txt", "b/c/1.jpg"]
    assert storage.list_tree(storage.join(root, "b")) == [".hidden", "c.txt", "c/1.jpg"]


def test_large_file(root: str, tmp_path: Path) -> None:
    local, uri, back = tmp_path / "large", storage.join(root, "large"), tmp_path / "back"
    local.write_bytes(os.urandom((30 << 20) + 7))
    storage.upload(local, uri)
    storage.download(uri, back)
    assert back.read_bytes() == local.read_bytes()
    whole = back.read_bytes() * 2  # in parts too
    storage.write_bytes(uri, whole)
    assert storage.read_bytes(uri) == whole


def test_append_line(root: str) -> None:
    uri = storage.join(root, "log", "a.jsonl")
    storage.append_line(uri, "one")
    storage.append_line(uri, "zw\u00f6lf")
    assert storage.read_text(uri) == "one\nzw\u00f6lf\n"


def test_lines_of_many_writers_stay_whole(root: str) -> None:
    uri, lines = storage.join(root, "log"), [f"{number:03d}" * 50 for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda line: storage.append_line(uri, line), lines))
    assert sorted(storage.read_text(uri).splitlines()) == lines


def test_delete(root: str) -> None:
    for name in ("x/1", "x/y/2", "z"):
        storage.write_text(storage.join(root, name), name)
    storage.delete(storage.join(root, "x"))
    storage.delete(storage.join(root, "x"))
    assert storage.list_names(root) == ["z"]
    storage.delete(storage.join(root, "z"))
    assert not storage.exists(storage.join(root, "z"))


def test_delete_refuses_a_bucket(bucket: str) -> None:
    with pytest.raises(UserError, match="whole bucket"):
        storage.delete("s3://food")


def test_parquet_is_read_at_random_by_threads(root: str) -> None:
    table = pyarrow.table({f"c{i}": list(range(i, 3000 + i)) for i in range(8)})
    sink = io.BytesIO()
    pyarrow.parquet.write_table(table, sink, row_group_size=500)
    uri = storage.join(root, "t.parquet")
    storage.write_bytes(uri, sink.getvalue())
    with storage.open_input(uri) as stream:
        parquet = pyarrow.parquet.ParquetFile(stream, pre_buffer=True)
        assert parquet.read(use_threads=True).equals(table)
        with ThreadPoolExecutor(4) as pool:
            groups = list(
                pool.map(lambda g: pyarrow.parquet.ParquetFile(storage.open_input(uri)).read_row_group(g), range(6))
            )
    assert pyarrow.concat_tables(groups).equals(table)


def test_missing_things_are_named(root: str) -> None:
    uri = storage.join(root, "none")
    for look in (storage.read_bytes, storage.open_input):
        with pytest.raises(MissingFile, match=r"cannot read .*none: no such file"):
            look(uri)


def test_missing_bucket(bucket: str) -> None:
    for use in (storage.read_bytes, storage.list_names, lambda uri: storage.write_bytes(uri, b"x")):
        with pytest.raises(UserError, match=r"there is no bucket nowhere at http://127\.0\.0\.1:"):
            use("s3://nowhere/k")


def test_a_bucket_is_not_a_file(bucket: str) -> None:
    with pytest.raises(UserError, match="that is a bucket or a folder; name a file in it"):
        storage.write_bytes("s3://food", b"x")


def test_the_query_leads_to_the_endpoint(bucket: str, moto_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_text(storage.join(bucket, "a"), "x")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    host = moto_endpoint.removeprefix("http://")
    uri = f"{bucket.replace('s3://', 's3://k:s@')}?endpoint_override={host}&scheme=http"
    assert storage.read_text(storage.join(uri, "a")) == "x"


def test_half_a_pair_of_keys(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(UserError, match="set both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        storage.read_bytes(bucket)


def test_a_crash_before_the_rename_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a"
    storage.write_text(str(target), "old")

    def crash(self: Path, to: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        storage.write_text(str(target), "new")
    assert target.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_a_killed_writer_leaves_is_not_listed(tmp_path: Path) -> None:
    (tmp_path / f"{local.TEMPORARY}1").write_text("half")
    assert storage.list_names(str(tmp_path)) == []


@pytest.mark.parametrize("read_before_failing", [1 << 10, 20 << 20])
@pytest.mark.parametrize("interrupted", [False, True])
def test_a_failed_upload_leaves_the_old_object(bucket: str, read_before_failing: int, interrupted: bool) -> None:
    class Failing(io.BytesIO):
        def read(self, count: int | None = -1) -> bytes:
            if self.tell() >= read_before_failing:
                if interrupted:
                    _thread.interrupt_main()
                    time.sleep(1.0)
                raise OSError(5, "Input/output error")
            return super().read(count)

    uri = storage.join(bucket, "a")
    storage.write_text(uri, "old")
    target = s3_client.target_of(uri)
    with pytest.raises(KeyboardInterrupt if interrupted else OSError):
        s3.send(target, Failing(b"x" * (40 << 20)))
    assert storage.read_text(uri) == "old"
    assert not target.client.list_multipart_uploads(Bucket="food").get("Uploads")


@pytest.mark.parametrize("newer", [b"n" * (30 << 20), b"short", b""])
def test_an_object_replaced_while_it_is_read_is_read_again(bucket: str, newer: bytes, tmp_path: Path) -> None:
    uri = storage.join(bucket, "a")
    storage.write_bytes(uri, b"o" * (20 << 20))
    client = s3_client.target_of(uri).client
    get, left = client.get_object, [newer]

    def overtaken(**request: Any) -> Any:
        answer = get(**request)
        if left:
            storage.write_bytes(uri, left.pop())
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "get_object", overtaken)
        storage.download(uri, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == newer


def test_a_file_for_random_access_is_of_one_version(bucket: str) -> None:
    uri = storage.join(bucket, "a")
    storage.write_bytes(uri, b"o" * (1 << 20))
    with storage.open_input(uri) as stream:
        assert stream.read(3) == b"ooo"
        storage.write_bytes(uri, b"n" * (1 << 20))
        with pytest.raises(RetryLater, match=f"^cannot read {uri}: it has been replaced while it was read; run the"):
            stream.read(3)


@pytest.mark.parametrize("size", [0, 1, 100_000, (20 << 20) + 3])
def test_random_access_reads_what_is_there(bucket: str, size: int) -> None:
    uri, data = storage.join(bucket, "a"), os.urandom(size)
    storage.write_bytes(uri, data)
    with storage.open_input(uri) as stream:
        assert stream.size() == size and stream.read() == data
        stream.seek(size // 2)
        assert stream.read(10) == data[size // 2 : size // 2 + 10] and stream.read_at(5, size) == b""


def test_a_small_parquet_file_is_read_with_one_request(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"a": [1, 2, 3]}), sink)
    uri = storage.join(bucket, "t.parquet")
    storage.write_bytes(uri, sink.getvalue())
    client, requests = s3_client.target_of(uri).client, []
    get = client.get_object
    monkeypatch.setattr(client, "get_object", lambda **request: (requests.append(request), get(**request))[1])
    with storage.open_input(uri) as stream:
        assert pyarrow.parquet.ParquetFile(stream).read().num_rows == 3
    assert len(requests) == 1


def test_more_names_than_one_page_holds(bucket: str) -> None:
    below = uris.parse(bucket).key
    for number in range(1005):
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object("food", f"{below}/{number:04d}", b"")
    assert len(storage.list_names(bucket)) == len(storage.list_tree(bucket)) == 1005
    storage.delete(bucket)
    assert not storage.exists(bucket) and storage.list_names(bucket) == []


def test_the_mark_of_a_folder_is_not_a_file(bucket: str) -> None:
    target = s3_client.target_of(bucket)
    for key in ("", "sub/", "sub/a"):
        target.client.put_object(Bucket="food", Key=f"{target.key}/{key}")
    assert storage.list_names(bucket) == ["sub"] and storage.list_tree(bucket) == ["sub/a"]


def test_local_permission_and_type_errors(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"cannot write .*file/a: .*file is a file, not a folder; name a folder"):
        storage.write_text(str(tmp_path / "file" / "a"), "x")
    with pytest.raises(UserError, match="cannot list"):
        storage.list_names(str(tmp_path / "file"))
    (tmp_path / "latin").write_bytes(b"ab\xe9")
    with pytest.raises(UserError, match=r"byte 2 .* is not UTF-8"):
        storage.read_text(str(tmp_path / "latin"))


def test_a_full_disk_during_a_download_is_not_retried(bucket: str, tmp_path: Path, monkeypatch: Any) -> None:
    uri = storage.join(bucket, "a")
    storage.write_text(uri, "x")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", str(tmp_path))

    monkeypatch.setattr(local.os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        storage.download(uri, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def answered(code: str, status: int, **more: str) -> exceptions.ClientError:
    """What boto3 raises for an answer."""
    response = {"Error": {"Code": code, "Message": "said so", **more}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return exceptions.ClientError(response, "GetObject")


@pytest.mark.parametrize(
    "failure",
    [
        answered("SlowDown", 503),
        answered("503", 503),
        answered("InternalError", 500),
        answered("RequestTimeout", 400),
        exceptions.EndpointConnectionError(endpoint_url="http://there"),
        exceptions.ReadTimeoutError(endpoint_url="http://there"),
        exceptions.ResponseStreamingError(error="cut"),
        exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2),
        ConnectionResetError(104, "Connection reset by peer"),
    ],
)
def test_a_flaky_server_is_asked_again(
    bucket: str, failure: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    storage.write_text(storage.join(bucket, "a"), "x")
    slept: list[float] = []
    monkeypatch.setattr(s3_client.time, "sleep", slept.append)
    failures = [failure, failure]

    def flaky(target: s3_client.Target) -> str:
        if failures:
            raise failures.pop()
        return "worked"

    with caplog.at_level(logging.WARNING, logger="foodseg.storage"):
        assert s3_client.with_retries(bucket, "read", flaky) == "worked"
    assert slept == [0.5, 1.0]
    assert sum(record.name == "foodseg.storage" for record in caplog.records) == 2


def test_retries_run_out(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_text(storage.join(bucket, "a"), "x")
    monkeypatch.setattr(s3_client, "RETRY_SECONDS", 0.1)

    def broken(target: s3_client.Target) -> None:
        raise answered("InternalError", 500)

    with pytest.raises(RetryLater, match=r"failed for 0 s \(InternalError: said so\); run the same command again"):
        s3_client.with_retries(bucket, "write", broken)


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        (answered("SignatureDoesNotMatch", 403), "this secret is not that of key k; correct AWS_SECRET_ACCESS_KEY"),
        (answered("InvalidAccessKeyId", 403), "does not know the key k; correct AWS_ACCESS_KEY_ID"),
        (answered("ExpiredToken", 400), "has expired; renew AWS_SESSION_TOKEN"),
        (answered("AccessDenied", 403), "denies it to the key k; give that key the right on bucket food"),
        (answered("RequestTimeTooSkewed", 403), "the clock of this machine differs too much from that of http://127."),
        (
            answered("AuthorizationHeaderMalformed", 400, Region="eu-west-1"),
            "is elsewhere .*; set AWS_REGION=eu-west-1",
        ),
        (answered("PermanentRedirect", 301), "is elsewhere .*; correct AWS_REGION or AWS_ENDPOINT_URL"),
        (answered("MethodNotAllowed", 405), "answers MethodNotAllowed: said so; is that an S3 endpoint"),
        (exceptions.NoCredentialsError(), "wants credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        (exceptions.UnauthorizedSSOTokenError(), "run `aws sso login` again"),
        (exceptions.SSLError(endpoint_url="https://x", error="self-signed"), "AWS_CA_BUNDLE"),
    ],
)
def test_a_mistake_is_told_at_once(bucket: str, failure: Exception, sentence: str) -> None:
    def refuse(target: s3_client.Target) -> None:
        raise failure

    with pytest.raises(UserError, match=f"^cannot read {bucket}: .*{sentence}"):
        s3_client.with_retries(bucket, "read", refuse)


def test_a_profile_that_does_not_exist_and_one_that_does(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write_text(storage.join(bucket, "a"), "x")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "kitchen")
    with pytest.raises(UserError, match=r"kitchen.*AWS_PROFILE"):
        storage.exists(bucket)
    (tmp_path / "credentials").write_text("[kitchen]\naws_access_key_id = k\naws_secret_access_key = s\n")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # another environment: the profiles are read again
    assert storage.read_text(storage.join(bucket, "a")) == "x"


@pytest.mark.parametrize("query", ["anonymous=true", "requester_pays=true", "anonymous=false"])
def test_who_asks_is_said_in_the_query(query: str, bucket: str) -> None:
    uri = storage.join(f"{bucket}?{query}", "a")
    client, sent = s3_client.target_of(uri).client, {}
    client.meta.events.register("before-send.s3", lambda request, **_: sent.update(request.headers))
    storage.write_text(uri, "x")
    if query != "anonymous=true":  # moto lets strangers write alone
        assert storage.read_text(uri) == "x" and storage.list_names(f"{bucket}?{query}") == ["a"]
    assert ("Authorization" in sent) == (query != "anonymous=true")
    assert ("x-amz-request-payer" in sent) == (query == "requester_pays=true")


def test_a_forked_process_has_its_own_client(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = s3_client.target_of(bucket).client
    assert s3_client.target_of(bucket).client is mine
    monkeypatch.setattr(s3_client.os, "getpid", lambda: 1)
    assert s3_client.target_of(bucket).client is not mine


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> str:
    """An endpoint where nobody listens."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
    lead_to(endpoint, monkeypatch)
    return endpoint


def test_an_endpoint_that_answered_another_process_is_away(nobody: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_client, "_ANSWERED", set())
    monkeypatch.setattr(s3_client, "RETRY_SECONDS", 0.1)
    storage.expect("s3://food/k", "/a/local/path", "")
    with pytest.raises(RetryLater, match="failed for 0 s"):
        storage.exists("s3://food/k")


def test_until_answered_asks_again(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_client.time, "sleep", lambda seconds: None)
    failures = [RetryLater("away"), RetryLater("away")]

    def ask() -> str:
        if failures:
            raise failures.pop()
        return "worked"

    assert storage.until_answered(ask, 60.0) == "worked"
    failures += [RetryLater("away")]
    with pytest.raises(RetryLater):
        storage.until_answered(ask, 0.0)


def test_an_endpoint_that_never_answered_fails_fast(nobody: str, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = nobody
    monkeypatch.setattr(s3_client, "FIRST_CONTACT_SECONDS", 0.1)
    with pytest.raises(UserError, match=f"{endpoint} is not reachable .*Could not connect.*correct AWS_ENDPOINT_URL"):
        storage.exists("s3://food/k")


ODD_KEYS = [
    "my key",
    "k#1/a",
    "100%",
    "%41",
    "a+b",
    "\u00fcn\u00ef \u5bff\u53f8",
    "it's",
    "a&b=c",
    'say "q"',
    "a:b",
    "a@b",
]


@pytest.mark.parametrize("key", ODD_KEYS)
def test_a_key_is_plain_text(key: str) -> None:
    uri = f"s3://bucket/{key}?endpoint_override=127.0.0.1:9&scheme=http&region=eu"
    assert uris.parse(uri).key == key
    assert storage.join(uri, "x").partition("?")[0] == f"s3://bucket/{key}/x"


@pytest.mark.parametrize("name", [*ODD_KEYS, "what?", "a?b#c"])
def test_odd_names_on_a_local_disk(name: str, tmp_path: Path) -> None:
    where = storage.join(str(tmp_path), name, "f.txt")
    storage.write_text(where, "here")
    assert storage.read_text(where) == "here" and (tmp_path / name / "f.txt").exists()
    assert storage.list_names(str(tmp_path)) == [Path(name).parts[0]]
    assert storage.without_query(where) == where
    assert storage.read_text(f"file://{quote(where)}") == "here"


def test_only_s3_has_a_query() -> None:
    assert storage.without_query("s3://b/k.tsv?region=eu") == "s3://b/k.tsv"
    assert storage.without_query("my#1?/k.tsv") == "my#1?/k.tsv"


@pytest.mark.parametrize("key", ODD_KEYS)
def test_odd_keys_in_a_bucket(key: str, bucket: str) -> None:
    where = storage.join(bucket, "odd", key, "f #2.txt")
    storage.write_text(where, "here")
    assert storage.read_text(where) == "here" and storage.exists(where)
    assert Path(key).parts[0] in storage.list_names(storage.join(bucket, "odd"))
    storage.delete(where)
