"""Whether a model still answers: what Serve asks every few seconds, to replace a replica whose model is broken.

    health = Health(forward)          # forward: a tiny one, which raises where the model is broken
    health.worked()                   # after each real answer
    health.failed()                   # after an answer that the model broke at
    await health.check()              # in the deployment's `check_health`

A model that has just answered is healthy, so under load nothing is computed for this; an idle one is asked at most once
in `EVERY_SECONDS`. One that failed is asked at once: whether it was the image's fault.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

EVERY_SECONDS = 60.0
LIMIT_SECONDS = 25.0  # Serve gives a check 30 before it counts it as failed


class Health:
    """Used from one event loop; `worked` and `failed` may be called from other threads."""

    def __init__(
        self,
        forward: Callable[[], Awaitable[None]],
        every: float = EVERY_SECONDS,
        limit: float = LIMIT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._forward = forward
        self._every, self._limit, self._clock = every, limit, clock
        self._good_at = clock()  # a model is warmed up before it serves
        self._answers = 0
        self._suspect = False
        self._asking: asyncio.Task[None] | None = None

    def worked(self) -> None:
        """Notes an answer."""
        self._answers += 1
        self._good_at = self._clock()
        self._suspect = False

    def failed(self) -> None:
        """Notes that a request was not answered for a reason other than the request."""
        self._suspect = True

    async def check(self) -> None:
        """Returns where the model answers.

        Raises:
            RuntimeError: it fails at the tiny forward, or nothing has left it for longer than the limit.
        """
        if not self._suspect and self._clock() - self._good_at < self._every:
            return
        answers = self._answers
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(self._forward())
        try:
            await asyncio.wait_for(asyncio.shield(self._asking), self._limit)
        except asyncio.TimeoutError:
            if self._answers == answers:  # else it is busy, not stuck
                raise RuntimeError(f"the model has answered nothing for {self._limit:g} s") from None
            return
        except Exception as error:
            raise RuntimeError(f"the model is broken ({type(error).__name__}: {error})") from error
        self.worked()
