"""An HTTP server in front of an S3 server that counts what is read: so many bytes of which key.

with CountingProxy(server.endpoint) as proxy:
    ...                                   # s3://bucket/key?endpoint_override={proxy.address}&scheme=http
    proxy.read["bucket/key"]
"""

import http.client
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class CountingProxy:
    """`address`: its host and port. `read`: bytes of the bodies that answered GET, by "bucket/key"."""

    def __init__(self, endpoint: str) -> None:
        self.read: Counter[str] = Counter()
        self._behind, self._lock = urlsplit(endpoint).netloc, threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self) -> None:
                proxy._forward(self)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward  # noqa: N815

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "CountingProxy":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def below(self, folder: str) -> dict[str, int]:
        """Returns the bytes read of each object of the folder "bucket/key", by its name; empty objects are left out."""
        found = [(key.partition(f"{folder}/"), count) for key, count in self.read.items()]
        return {name: count for (before, mark, name), count in found if mark and not before and count}

    def _forward(self, handler: BaseHTTPRequestHandler) -> None:
        """Passes a request on as it is, so that its signature, which covers the header Host, stays valid."""
        body = _body(handler)
        connection = http.client.HTTPConnection(self._behind)
        try:
            connection.putrequest(handler.command, handler.path, skip_host=True, skip_accept_encoding=True)
            for name, value in handler.headers.items():
                if name.lower() not in ("expect", "transfer-encoding", "content-length"):
                    connection.putheader(name, value)
            if body or handler.command in ("PUT", "POST"):
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if handler.command == "GET" and answer.status < 300:  # of an empty object, no range can be had
            with self._lock:
                self.read[unquote(urlsplit(handler.path).path).lstrip("/")] += len(content)
        handler.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                handler.send_header(name, value)
        # the answer to HEAD says how long the object is, without it
        length = answer.getheader("Content-Length") if handler.command == "HEAD" else str(len(content))
        if length is not None:
            handler.send_header("Content-Length", length)
        handler.end_headers()
        handler.wfile.write(content)


def _body(handler: BaseHTTPRequestHandler) -> bytes:
    if handler.headers.get("Transfer-Encoding", "").lower() != "chunked":
        return handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
    body = b""
    while size := int(handler.rfile.readline().partition(b";")[0], 16):
        body += handler.rfile.read(size)
        handler.rfile.readline()
    while handler.rfile.readline().strip():
        pass  # trailers
    return body
