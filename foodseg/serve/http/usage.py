"""The curl command of each path, as a usage hint that every error response for a bad request ends with.

usage("/v1/segment", "http://127.0.0.1:8000")   # curl -F image=@lunch.jpg http://127.0.0.1:8000/v1/segment
"""

import difflib
import re
from collections.abc import Mapping
from typing import Any

from foodseg.serve.http.schema import ApiError

_FORM = {  # of the paths that take an image
    "/v1/segment": "-F image=@lunch.jpg",
    "/v1/prompt": "-F image=@lunch.jpg -F 'points=[[320, 240, 1]]'",
    "/v1/zero-shot": "-F image=@lunch.jpg -F 'names=rice, egg'",
    "/v1/classify-regions": "-F image=@lunch.jpg -F masks=@masks.png",
}
_GET = ("/v1/classes", "/v1/models", "/healthz", "/readyz", "/docs", "/")
_SHOWN = re.compile(r"[A-Za-z0-9.:\[\]-]{1,100}", re.ASCII)


def usage(path: str, base: str) -> str:
    """Returns the curl command for a path; for an unknown one, that of /v1/segment."""
    if path in _GET:
        return f"curl {base}{path}"
    known = path if path in _FORM else "/v1/segment"
    return f"curl {_FORM[known]} {base}{known}"


def base_of(scope: Mapping[str, Any]) -> str:
    """Returns the address by which a client has reached the server; a default if its Host header is not valid."""
    host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
    shown = host if _SHOWN.fullmatch(host) else "127.0.0.1:8000"
    return f"{scope.get('scheme', 'http')}://{shown}{scope.get('root_path', '').rstrip('/')}"


def route_of(scope: Mapping[str, Any]) -> str:
    """Returns the path below the prefix at which the application is mounted."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    if root and (path == root or path.startswith(f"{root}/")):
        return path[len(root) :] or "/"
    return path


def no_such_path(path: str, base: str) -> ApiError:
    """Returns the 404 for a path that does not exist; it names all paths and a similar one as example."""
    every = (*_FORM, *_GET)
    tail = path.rstrip("/").rpartition("/")[2].lower().replace("_", "-")
    near = [known for known in every if tail and tail == known.rpartition("/")[2]]
    near = near or difflib.get_close_matches(path.lower(), every, 1, 0.7)
    hint = f"POST: {', '.join(_FORM)}; GET: {', '.join(_GET)}; for example: {usage(near[0] if near else '', base)}"
    return ApiError(404, "not_found", f"there is no {path[:80]!r} here", hint)


def wrong_method(method: str, path: str, base: str) -> ApiError:
    """Returns the 405, which names the right method of the path."""
    if path in _FORM:
        hint = f"send an image with POST: {usage(path, base)}"
    else:
        hint = f"ask with GET: {usage(path, base)}; an image goes to /v1/segment: {usage('/v1/segment', base)}"
    return ApiError(405, "method_not_allowed", f"{path[:80]} does not take {method[:20]!r}", hint)
