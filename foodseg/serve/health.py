"""The health check of a model: Serve calls it every few seconds and replaces a replica whose model is broken.

    health = Health(forward)          # forward: a tiny one, which raises where the model is broken
    health.worked()                   # after each real answer
    health.failed()                   # after a request at which the model failed
    await health.check()              # in the deployment's `check_health`

A model that has just answered is healthy, so that under load nothing is computed for the check. An idle model runs the
tiny forward pass at most once in `EVERY_SECONDS`. After a failure the next check runs it, to tell a broken model from a
bad image.
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
        """Records a request that was answered."""
        self._answers += 1
        self._good_at = self._clock()
        self._suspect = False

    def failed(self) -> None:
        """Records a request that failed for a reason other than the request itself."""
        self._suspect = True

    async def check(self) -> None:
        """Returns if the model answers.

        Raises:
            RuntimeError: the tiny forward pass fails, or the model has answered nothing for longer than the limit.
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
