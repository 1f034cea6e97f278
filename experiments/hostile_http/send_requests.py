"""Hostile requests over real connections: ours (tests/support), those of schemathesis, and bodies that never end."""

import contextlib
import http.client
import json
import random
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from tests.support.hostile_requests import HONEST_503, STATUSES, HostileRequest, hostile_requests

TIMEOUT = 120.0
HEADERS_OF_KEYS = {"authorization", "x-api-key"}
DRIPS = 20  # bytes that a slow body sends, one a while


def send_hostile(url: str, seed: int, count: int, key: str, keyless: float = 0.1) -> Counter[str]:
    """Sends requests from eight threads; returns how often each status came, and what may not come by its own name.

    Args:
        key: is sent with all but those that have a wrong one of their own, and a part `keyless` of the others.
    """
    draw = random.Random(seed)
    requests = [_with_key(request, key, draw.random() < keyless) for request in hostile_requests(seed, count)]
    with ThreadPoolExecutor(8) as pool:
        return Counter(pool.map(lambda request: _outcome(url, request), requests))


def send_schemathesis(url: str, key: str, examples: int) -> Counter[str]:
    """Sends what schemathesis makes of the OpenAPI document, right and wrong by it; returns as `send_hostile`.

    examples: of each kind for each operation.
    """
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from schemathesis import GenerationMode

    headers = {"Authorization": f"Bearer {key}"}
    schema = schemathesis.openapi.from_url(f"{url}openapi.json")
    outcomes: Counter[str] = Counter()
    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            try:
                strategy = operation.as_strategy(generation_mode=mode)
            except Exception as error:  # an operation without fields has no wrong ones
                outcomes[f"skipped: {operation.method} {operation.path} {mode}: {type(error).__name__}"] += 1
                continue

            @seed(0)
            @settings(
                max_examples=examples, deadline=None, database=None, phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            @given(case=strategy)
            def probe(case: Any) -> None:
                try:
                    answer = case.call(base_url=url.rstrip("/"), headers=headers, timeout=TIMEOUT)
                except (ValueError, UnicodeError):  # the client library itself refuses to send it
                    outcomes["not sendable"] += 1
                    return
                outcomes[judged(answer.status_code, answer.content)] += 1

            try:
                probe()
            except Exception as error:
                if type(error).__name__ != "Unsatisfiable":
                    raise
                outcomes[f"skipped: {operation.method} {operation.path} {mode}: nothing to make wrong"] += 1
    return outcomes


def send_slow_bodies(url: str, key: str, count: int) -> Counter[str]:
    """Opens `count` connections that promise a body and drip it, until the server gives each up."""
    with ThreadPoolExecutor(count) as pool:
        return Counter(pool.map(lambda number: _drip(url, key, number), range(count)))


def judged(status: int, body: bytes) -> str:
    """Returns the status as text, `503 code` of an honest one, or `WRONG ...` of an answer that may not come."""
    if status == 503:
        code = _code(body)
        return f"503 {code}" if code in HONEST_503 else f"WRONG 503 {code}"
    return str(status) if status in STATUSES else f"WRONG {status} {body[:80]!r}"


def wrong(outcomes: Mapping[str, int]) -> dict[str, int]:
    """Returns those that may not come."""
    return {name: count for name, count in outcomes.items() if name.startswith("WRONG")}


def sent(outcomes: Mapping[str, int]) -> int:
    """Returns how many requests were sent and answered, or cut off by the server."""
    return sum(count for name, count in outcomes.items() if name[0].isdigit() or name.startswith(("WRONG", "closed")))


def batches(count: int, size: int) -> Iterator[int]:
    """Yields sizes of `size` and a rest, `count` in all."""
    while count > 0:
        yield min(size, count)
        count -= size


def _with_key(request: HostileRequest, key: str, keyless: bool) -> HostileRequest:
    own = HEADERS_OF_KEYS & {name.lower() for name in request.headers}
    if own or keyless:
        return request
    headers = {**request.headers, "Authorization": f"Bearer {key}"}
    return HostileRequest(request.method, request.path, headers, request.body)


def _outcome(url: str, request: HostileRequest) -> str:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT)
    try:
        connection.putrequest(request.method, request.path, skip_accept_encoding=True)
        for name, value in request.headers.items():
            connection.putheader(name, value.encode("latin-1"))
        connection.putheader("Content-Length", str(len(request.body)))
        connection.endheaders()
        # refused before it was read to its end, the answer may be there all the same
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.send(request.body)
        answer = connection.getresponse()
        return judged(answer.status, answer.read())
    except (http.client.HTTPException, ConnectionError) as error:
        return f"closed: {type(error).__name__}"
    except TimeoutError:
        return f"WRONG no answer within {TIMEOUT:.0f} s"
    finally:
        connection.close()


def _drip(url: str, key: str, number: int) -> str:
    parts = urlsplit(url)
    head = (
        f"POST /v1/segment HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {key}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n"
    )
    length = "Transfer-Encoding: chunked\r\n\r\n" if number % 2 else "Content-Length: 100000\r\n\r\n"
    data = b""
    with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=TIMEOUT) as connection:
        connection.sendall((head + length).encode())
        try:
            for _ in range(DRIPS):
                connection.sendall(b"1\r\nx\r\n" if number % 2 else b"x")
                time.sleep(0.1)
            while part := connection.recv(65536):
                data += part
                if b"\r\n\r\n" in data and data.rstrip().endswith(b"}"):
                    break
        except TimeoutError:
            return f"WRONG no answer within {TIMEOUT:.0f} s"
        except ConnectionError:
            pass
    head_of_answer, _, body = data.partition(b"\r\n\r\n")
    words: Sequence[bytes] = head_of_answer.split(b" ", 2)
    return judged(int(words[1]), body) if len(words) > 1 else "closed: without an answer"


def _code(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return "without an error response"
