"""Log lines of a replica: JSON on its stderr, which Ray keeps, with the id of the request that it works for."""

from ray.serve.context import _get_serve_request_context

from foodseg.serve.json_logs import log_json_to_stderr


def log_as_replica() -> None:
    """Called once in each replica behind the ingress; to the ingress, the guard says which request it is."""
    log_json_to_stderr(_request_id)


def _request_id() -> str | None:
    # Serve hands the id of a request on with every call of a handle
    return _get_serve_request_context().request_id or None
