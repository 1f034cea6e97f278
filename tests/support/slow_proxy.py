"""A proxy before an S3 server on this machine that holds back every request for a while and counts them.

with SlowProxy(server.endpoint, seconds=0.03) as proxy:
    os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint
    ...
    proxy.requests  # Counter({("GET", "/bucket/key"): 2, ...})
"""

import asyncio
import contextlib
import threading
from collections import Counter
from types import TracebackType
from urllib.parse import urlsplit


class SlowProxy:
    """Runs in a thread; each request waits on its own, as on a network with that latency."""

    def __init__(self, endpoint: str, seconds: float) -> None:
        self.seconds = seconds
        self.requests: Counter[tuple[str, str]] = Counter()  # by method and path without query
        target = urlsplit(endpoint)
        self._target = (target.hostname, target.port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> "SlowProxy":
        self._thread.start()
        starting = asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=256)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result()
        self.endpoint = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_connection(*self._target)
        answers = asyncio.create_task(_pump(upstream, writer))
        try:
            # the client has hung up, or `_close` ends this task; asyncio would print the latter
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                while True:
                    await self._forward(reader, downstream)
        finally:
            answers.cancel()
            writer.close()
            downstream.close()

    async def _forward(self, reader: asyncio.StreamReader, downstream: asyncio.StreamWriter) -> None:
        """Passes one request on."""
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        headers = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
        self.requests[method, path.partition("?")[0]] += 1
        await asyncio.sleep(self.seconds)
        downstream.write(head)
        if headers.get("transfer-encoding") == "chunked":
            while size := int((await _line(reader, downstream)).partition(b";")[0], 16):
                await _pass(reader, downstream, size + 2)
            while await _line(reader, downstream) != b"\r\n":
                pass  # trailers
        else:
            await _pass(reader, downstream, int(headers.get("content-length", 0)))
        await downstream.drain()


async def _line(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> bytes:
    line = await source.readuntil(b"\r\n")
    sink.write(line)
    return line


async def _pass(source: asyncio.StreamReader, sink: asyncio.StreamWriter, count: int) -> None:
    while count:
        part = await source.readexactly(min(count, 1 << 16))
        count -= len(part)
        sink.write(part)
        await sink.drain()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while part := await source.read(1 << 16):
            sink.write(part)
            await sink.drain()
    sink.close()
