"""What a server answers when something is wrong, over the wire: what is tried again, what is reported at once."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from foodseg import storage
from foodseg.errors import UserError
from foodseg.storage import s3, s3_client
from tests.support.moto_server import CUT, refusal

Faults = list[tuple[int, bytes]]
SLOW_DOWN = refusal(503, "SlowDown")


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_client, "FIRST_DELAY", 0.01)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda self, context: 0.01)


@pytest.mark.parametrize("faults", [[SLOW_DOWN] * 7, [refusal(500, "InternalError")] * 4, [refusal(502, "")] * 4])
def test_a_busy_server_is_asked_until_it_answers(bucket: str, moto_faults: Faults, faults: Faults) -> None:
    uri = storage.join(bucket, "a")
    uses: list[Callable[[], object]] = [
        lambda: storage.write_bytes(uri, b"one"),
        lambda: storage.read_bytes(uri),
        lambda: storage.exists(uri),
        lambda: storage.list_names(bucket),
        lambda: storage.open_input(uri).read(),
        lambda: storage.replace_bytes(uri, b"two", storage.read_versioned(uri)[1]),
        lambda: storage.create_bytes(storage.join(bucket, "b"), b"two"),
        lambda: storage.delete(uri),
    ]
    outcomes = []
    for use in uses:
        moto_faults += faults
        outcomes.append(use())
        assert not moto_faults
    assert outcomes == [None, b"one", True, ["a"], b"one", True, True, None]


def test_half_an_answer_is_read_again(bucket: str, moto_faults: Faults, tmp_path: Path) -> None:
    uri, data = storage.join(bucket, "a"), bytes(range(256)) * 100_000
    storage.write_bytes(uri, data)
    moto_faults += [CUT, CUT]
    assert storage.read_bytes(uri) == data
    moto_faults += [CUT, CUT, CUT]
    storage.download(uri, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == data and not moto_faults


def test_an_upload_in_parts_survives_a_busy_server(bucket: str, moto_faults: Faults, tmp_path: Path) -> None:
    uri, data = storage.join(bucket, "a"), bytes(range(256)) * 150_000
    assert len(data) > s3.WHOLE
    moto_faults += [SLOW_DOWN] * 5
    storage.write_bytes(uri, data)
    assert storage.read_bytes(uri) == data


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (refusal(400, "ExpiredToken"), "the session token for http://.* has expired; renew AWS_SESSION_TOKEN$"),
        (refusal(403, "RequestTimeTooSkewed"), "the clock of this machine differs too much from that of http://"),
        (refusal(403, "SignatureDoesNotMatch"), "this secret is not that of key k; correct AWS_SECRET_ACCESS_KEY$"),
        (refusal(403, "InvalidAccessKeyId"), "does not know the key k; correct AWS_ACCESS_KEY_ID$"),
        (refusal(403, "AccessDenied"), "denies it to the key k; give that key the right on bucket food$"),
        (refusal(404, "NoSuchBucket"), "there is no bucket food at http://"),
        (
            refusal(400, "AuthorizationHeaderMalformed", "<Region>eu-1</Region>"),
            r"the bucket food is elsewhere \(AuthorizationHeaderMalformed: said so\); set AWS_REGION=eu-1$",
        ),
        (
            refusal(301, "PermanentRedirect"),
            "answers with redirects without end; correct AWS_REGION or AWS_ENDPOINT_URL$",
        ),
        (refusal(405, "MethodNotAllowed"), "answers (405|MethodNotAllowed): .*; is that an S3 endpoint"),
    ],
)
@pytest.mark.parametrize("use", ["read", "look for"])
def test_a_mistake_is_reported_at_once(
    bucket: str, moto_faults: Faults, answer: tuple[int, bytes], sentence: str, use: str
) -> None:
    uri = storage.join(bucket, "a")
    if use == "look for" and b"NoSuchBucket" in answer[1]:
        assert not storage.exists("s3://nowhere/a")
        return
    moto_faults += [answer] * 300  # a HEAD answer has no body: then a listing says what it is
    with pytest.raises(UserError, match=rf"^cannot {use} {uri}: .*{sentence}") as outcomes:
        storage.read_bytes(uri) if use == "read" else storage.exists(uri)
    assert "s3cret" not in str(outcomes.value)
    assert len(moto_faults) > 250  # without asking for long


def test_a_redirect_that_has_an_end_does_not_count(bucket: str, moto_faults: Faults) -> None:
    uri = storage.join(bucket, "a")
    storage.write_bytes(uri, b"one")
    for _ in range(2 * s3_client.MOST_REDIRECTS):
        moto_faults.append(refusal(301, "PermanentRedirect"))
        assert storage.read_bytes(uri) == b"one"


def test_one_client_serves_threads_that_begin_together(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # another environment, so another client
    together = threading.Barrier(8)

    def client(_: int) -> object:
        together.wait()
        return s3_client.target_of(bucket).client

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(client, range(8)))) == 1
