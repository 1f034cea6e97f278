"""Prometheus metrics of the endpoint, in addition to those that Serve itself exports (`ray_serve_*`).

Ray adds the tags deployment, replica and application, and exports every name with the prefix `ray_`. The dashboard
`serve_configs/grafana.json` shows them.
"""

from ray.serve.metrics import Counter, Gauge, Histogram

from foodseg.serve.http.middleware import Exchange

ROUTES = ("/v1/segment", "/v1/prompt", "/v1/zero-shot", "/v1/classes", "/v1/models", "/healthz", "/readyz", "/")
_MILLISECONDS = [5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000, 60_000]
_SIZES = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32]


class RequestMetrics:
    """Metrics of the ingress: every request that `Guard` has answered."""

    def __init__(self) -> None:
        tags = ("path", "status")
        self._requests = Counter("foodseg_requests", "Requests answered.", (*tags, "code"))
        self._milliseconds = Histogram(
            "foodseg_request_milliseconds", "Time to answer, body included.", _MILLISECONDS, tags
        )

    def count(self, exchange: Exchange) -> None:
        """Counts one request; all unknown paths share one label, or each would create a time series."""
        known = exchange.path in ROUTES
        path = exchange.path if known else "/page" if exchange.path.startswith("/page/") else "other"
        tags = {"path": path, "status": str(exchange.status)}
        self._requests.inc(tags={**tags, "code": exchange.code or ""})
        self._milliseconds.observe(1000 * exchange.seconds, tags=tags)


class BatchMetrics:
    """Metrics of the segmenter."""

    def __init__(self) -> None:
        self._size = Histogram("foodseg_batch_size", "Images in one forward pass.", _SIZES)
        self._waiting = Gauge("foodseg_batch_waiting", "Images that wait for a forward pass.")

    def count(self, size: int, waiting: int) -> None:
        """Counts one batch, and the images that still wait."""
        self._size.observe(size, tags={})
        self._waiting.set(waiting, tags={})


class CacheMetrics:
    """Metrics of the cache of SAM's image embeddings."""

    def __init__(self) -> None:
        self._asked = Counter(
            "foodseg_sam_embeddings", "Embeddings requested, by whether they were cached.", ("found",)
        )
        self._bytes = Gauge("foodseg_sam_embedding_bytes", "Bytes of cached embeddings.")

    def count(self, found: bool, kept_bytes: int) -> None:
        """Counts one requested embedding."""
        self._asked.inc(tags={"found": "yes" if found else "no"})
        self._bytes.set(kept_bytes, tags={})
