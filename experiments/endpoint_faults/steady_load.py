"""A steady load on an endpoint: what was answered, how often, by which model, and what was lost.

with SteadyLoad(endpoint.url, ask_segment(images), threads=4) as load:
    ...
print(load.figures())
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import httpx

from foodseg.errors import FoodsegError
from foodseg.serve.client import Client
from foodseg.serve.http.schema import PromptAnswer, SegmentAnswer

RETRY_SECONDS = 120.0  # in which the client retries after 429 and 503
Ask = Callable[[Client, int], tuple[str, object]]  # client, number of the image -> who answered, what


def ask_segment(images: Sequence[bytes]) -> Ask:
    """Asks /v1/segment; the answer is the pixels of each ingredient."""

    def ask(client: Client, number: int) -> tuple[str, object]:
        answer: SegmentAnswer = client.segment(images[number % len(images)])
        return answer.model.sha[:12], tuple((one.id, one.pixels) for one in answer.ingredients)

    return ask


def ask_prompt(images: Sequence[bytes]) -> Ask:
    """Asks /v1/prompt for a click, by the image's id where the client knows it; the answer is the masks' pixels."""

    def ask(client: Client, number: int) -> tuple[str, object]:
        answer: PromptAnswer = client.prompt(images[number % len(images)], points=[(100, 100, 1)])
        return "sam", tuple(one.pixels for one in answer.masks)

    return ask


class Counting(httpx.HTTPTransport):
    """Counts the answers as they come, before the client retries."""

    def __init__(self, statuses: Counter[str]) -> None:
        super().__init__()
        self._statuses = statuses

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Sends one request."""
        response = super().handle_request(request)
        later = response.status_code in (429, 503) and "Retry-After" not in response.headers
        self._statuses[f"{response.status_code}{' without Retry-After' if later else ''}"] += 1
        return response


class SteadyLoad:
    """`threads` clients ask for one image after another while the body of `with` runs; each ends its last request."""

    def __init__(self, url: str, ask: Ask, *, images: int, threads: int = 4, pause: float = 0.0) -> None:
        """`images`: how many different ones there are. `pause`: seconds from an answer to the next request."""
        self._url, self._ask = url, ask
        self._images, self._pause = images, pause
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(threads)]
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._statuses: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._by: Counter[str] = Counter()
        self._first: dict[tuple[str, int], object] = {}
        self._differing = 0
        self._longest = 0.0

    def __enter__(self) -> "SteadyLoad":
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()
        self._seconds = time.monotonic() - self._began

    @property
    def answered(self) -> int:
        """Requests that were answered with success so far."""
        return sum(self._by.values())

    def figures(self) -> dict[str, Any]:
        """Returns what happened; `statuses` as they came, `failed` after the client's retries.

        differing: answers that were not those of the same model on the same image before.
        """
        return {
            "answered": self.answered,
            "per_second": round(self.answered / self._seconds, 2),
            "statuses": dict(sorted(self._statuses.items())),
            "failed": dict(self._failed),
            "answered_by": dict(self._by),
            "differing": self._differing,
            "longest_seconds": round(self._longest, 2),
        }

    def lost(self) -> int:
        """Returns how many answers were neither 200 nor retried by the client."""
        retried = {"200", "429", "404"}  # 404: of an image_id that was forgotten; another one is in `failed`
        strange = sum(count for status, count in self._statuses.items() if status not in retried)
        return max(strange, sum(self._failed.values()))

    def _run(self, number: int) -> None:
        # each starts elsewhere, so that the same image does not come from all of them at once
        turn = random.Random(number).randrange(self._images)
        with Client(self._url, retry_seconds=RETRY_SECONDS, transport=Counting(self._statuses)) as client:
            while not self._done.is_set():
                image = turn % self._images
                turn += 1
                began = time.monotonic()
                try:
                    by, what = self._ask(client, image)
                except FoodsegError as error:
                    sentence = f"{getattr(error, 'status', '')} {type(error).__name__}: {error}".strip()[:160]
                    with self._lock:
                        self._failed[sentence] += 1
                    time.sleep(0.2)
                    continue
                with self._lock:
                    self._longest = max(self._longest, time.monotonic() - began)
                    self._by[by] += 1
                    self._differing += self._first.setdefault((by, image), what) != what
                self._done.wait(self._pause)
