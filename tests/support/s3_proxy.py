"""A proxy in front of an S3 server on this machine: counts what is asked and read, and can hold every request back.

with S3Proxy(server.endpoint, seconds=0.03) as proxy:
    os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint         # or storage.join(bucket, "run") + proxy.query in a URI
    ...
    proxy.requests["GET", "bucket/run/a"], proxy.read["bucket/run/a"]
"""

import asyncio
import threading
from collections import Counter
from types import TracebackType
from urllib.parse import urlsplit

import aiohttp
import yarl
from aiohttp import web

_OF_ONE_CONNECTION = ("connection", "keep-alive", "transfer-encoding", "expect")


class S3Proxy:
    """Runs in a thread. `requests`: by method and "bucket/key"; `read`: bytes that answered GET, by "bucket/key".

    `seconds` are those that each request waits on its own, as on a network with that latency.
    """

    def __init__(self, endpoint: str, seconds: float = 0.0) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()
        self.read: Counter[str] = Counter()
        self._server, self._seconds = endpoint, seconds
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> "S3Proxy":
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def query(self) -> str:
        """What a URI of `storage` ends with, to reach the server through this proxy."""
        return f"?endpoint_override={urlsplit(self.endpoint).netloc}&scheme=http&region=us-east-1"

    def below(self, folder: str) -> dict[str, int]:
        """Returns the bytes read of each object of the folder "bucket/key", by its name; empty objects are left out."""
        found = [(key.partition(f"{folder}/"), count) for key, count in self.read.items()]
        return {name: count for (before, mark, name), count in found if mark and not before and count}

    async def _start(self) -> None:
        self._client = aiohttp.ClientSession(
            auto_decompress=False, connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
        )
        app = web.Application()
        app.router.add_route("*", "/{key:.*}", self._forward)
        self._runner = web.AppRunner(app, shutdown_timeout=0.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, backlog=256).start()
        self.endpoint = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self._client.close()

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        """Passes a request on as it is, so that its signature, which covers path and host, stays valid."""
        key = request.path.lstrip("/")  # decoded
        self.requests[request.method, key] += 1
        await asyncio.sleep(self._seconds)
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in _OF_ONE_CONNECTION]
        async with self._client.request(
            request.method,
            yarl.URL(self._server + request.raw_path, encoded=True),
            headers=headers,
            data=request.content if request.can_read_body else None,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            allow_redirects=False,
        ) as answer:
            reply = web.StreamResponse(status=answer.status, reason=answer.reason)
            reply.headers.extend((k, v) for k, v in answer.headers.items() if k.lower() not in _OF_ONE_CONNECTION)
            await reply.prepare(request)
            async for part in answer.content.iter_chunked(1 << 16):
                if request.method == "GET" and answer.status < 300:  # of an empty object, no range can be had
                    self.read[key] += len(part)
                await reply.write(part)
            await reply.write_eof()
        return reply
