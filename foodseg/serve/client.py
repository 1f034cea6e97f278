"""A typed client of the HTTP API.

    with Client("http://127.0.0.1:8000", key="...") as client:
        answer = client.segment("lunch.jpg")
        print([(i.name, i.share_of_food) for i in answer.ingredients])
        mask = client.prompt("lunch.jpg", points=[(320, 240, 1)]).masks[0]

When the server is full (429) or not ready (503), the client retries after the time that the server names. For an image
that SAM has embedded, the client sends its id instead of the image; if the server no longer keeps it, the image is sent
again.
"""

import base64
import hashlib
import json
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import numpy as np
from cachetools import LRUCache

from foodseg import storage
from foodseg.data.image_io import decode_mask
from foodseg.errors import RetryLater
from foodseg.serve.http.masks import from_rle
from foodseg.serve.http.schema import (
    ApiError,
    ClassesAnswer,
    ImageInfo,
    MaskFormat,
    ModelsAnswer,
    PromptAnswer,
    RefineBy,
    RegionFormat,
    RegionsAnswer,
    Rle,
    SegmentAnswer,
    ZeroShotAnswer,
)

REMEMBERED_IMAGES = 256


class Client:
    """Not to be shared between threads. An image is passed as bytes, or as a path or URI."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        key: str | None = None,
        *,
        timeout: float = 90.0,
        retry_seconds: float = 60.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`timeout`: seconds for one attempt. `retry_seconds`: how long 429 and 503 are retried, in all.

        `transport`: of httpx, for a proxy or a test.
        """
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout, transport=transport)
        self._url = url
        self._retry_seconds = retry_seconds
        self._ids: LRUCache[bytes, str] = LRUCache(REMEMBERED_IMAGES)

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def segment(
        self,
        image: bytes | str | Path,
        *,
        model: str | None = None,
        ingredients: Sequence[str] | None = None,
        refine: RefineBy = "none",
        format: MaskFormat = "rle",
        pixels_per_cm: float | None = None,
        recheck: bool = False,
    ) -> SegmentAnswer:
        """Segments the ingredients. `ingredients`: names of the conditioning classes, for models that take them.

        `recheck`: regions of low confidence are looked at again by the region classifier of the endpoint.

        Raises:
            ApiError: the server refused, or was full for longer than `retry_seconds`.
            RetryLater: the server could not be reached.
            UserError: the image cannot be read.
        """
        data = _bytes(image)
        fields = {
            "model": model,
            "ingredients": None if ingredients is None else json.dumps(list(ingredients)),
            "refine": refine,
            "format": format,
            "pixels_per_cm": pixels_per_cm,
            "recheck": "true" if recheck else None,
        }
        answer = SegmentAnswer.model_validate_json(self._post("/v1/segment", fields, data))
        self._remember(data, answer.image)
        return answer

    def prompt(
        self,
        image: bytes | str | Path,
        *,
        points: Sequence[tuple[float, float, int]] = (),
        box: tuple[float, float, float, float] | None = None,
        format: RegionFormat = "rle",
    ) -> PromptAnswer:
        """Returns SAM's masks for points (x, y, 1 = in or 0 = out) and a box (x0, y0, x1, y1); raises as `segment`."""
        data = _bytes(image)
        fields = {
            "points": json.dumps([list(point) for point in points]) if points else None,
            "box": json.dumps(list(box)) if box else None,
            "format": format,
        }
        answer = PromptAnswer.model_validate_json(self._prompted(data, fields))
        self._remember(data, answer.image)
        return answer

    def zero_shot(
        self,
        image: bytes | str | Path,
        names: Sequence[str],
        *,
        masks: bool = False,
        dense: bool = True,
        refine: RefineBy = "none",
        format: MaskFormat = "rle",
    ) -> ZeroShotAnswer:
        """Finds where any names are on the image, and how well they fit it; raises as `segment`.

        Args:
            masks: also how well they fit each region that SAM finds. dense: the label map. refine: as for `segment`.
        """
        data = _bytes(image)
        flags = {"masks": "true" if masks else "false", "dense": "true" if dense else "false"}
        fields = {"names": json.dumps(list(names)), **flags, "refine": refine, "format": format}
        answer = ZeroShotAnswer.model_validate_json(self._post("/v1/zero-shot", fields, data))
        self._remember(data, answer.image)
        return answer

    def classify_regions(self, image: bytes | str | Path, masks: bytes | str | Path | list[Any]) -> RegionsAnswer:
        """Names regions whose masks are known; raises as `segment`.

        Args:
            masks: a PNG with one value for each, or JSON: content, path or URI; or a list of RLE or polygons. Of the
                image's own size, upright.
        """
        data = _bytes(image)
        sent = json.dumps(masks).encode() if isinstance(masks, list) else _bytes(masks)
        answer = RegionsAnswer.model_validate_json(self._post("/v1/classify-regions", {}, data, masks=sent))
        self._remember(data, answer.image)
        return answer

    def classes(self, model: str | None = None) -> ClassesAnswer:
        """Returns the classes of a model with their colours; raises as `segment`."""
        return ClassesAnswer.model_validate_json(self._send("GET", "/v1/classes", params=_given({"model": model})))

    def models(self) -> ModelsAnswer:
        """Returns the models and what else is configured; raises as `segment`."""
        return ModelsAnswer.model_validate_json(self._send("GET", "/v1/models"))

    def _prompted(self, data: bytes, fields: Mapping[str, Any]) -> bytes:
        known = self._ids.get(_digest(data))
        if known is not None:
            try:
                return self._post("/v1/prompt", {**fields, "image_id": known}, None)
            except ApiError as error:
                if error.code != "image_expired":
                    raise
        return self._post("/v1/prompt", fields, data)

    def _remember(self, data: bytes, info: ImageInfo) -> None:
        if info.id is not None:
            self._ids[_digest(data)] = info.id

    def _post(self, path: str, fields: Mapping[str, Any], image: bytes | None, **files: bytes) -> bytes:
        # a file name of None makes an ordinary field, so that the body is multipart even without an image
        parts = {name: (None, value) for name, value in _given(fields).items()}
        part = {} if image is None else {"image": ("image", image, "application/octet-stream")}
        more = {name: (name, data, "application/octet-stream") for name, data in files.items()}
        return self._send("POST", path, files={**parts, **part, **more})

    def _send(self, method: str, path: str, **request: Any) -> bytes:
        """Returns the body of an answer with status 200."""
        until = time.monotonic() + self._retry_seconds
        while True:
            try:
                response = self._http.request(method, path, **request)
            except httpx.TransportError as error:
                reason = str(error) or type(error).__name__
                raise RetryLater(f"{self._url} did not answer ({reason}); is the endpoint running?") from None
            if response.status_code == 200:
                return response.content
            refused = _error(response)
            # jitter: clients that were refused at the same time do not all come back at the same time
            pause = None if refused.retry_after is None else refused.retry_after * random.uniform(1.0, 1.25)
            if response.status_code not in (429, 503) or pause is None or time.monotonic() + pause > until:
                raise refused
            time.sleep(pause)


def label_map(answer: SegmentAnswer) -> np.ndarray:
    """Returns the (H, W) uint8 or uint16 ids of an answer with format=png or format=rle, 0 = background.

    Raises:
        ValueError: the answer holds polygons, which are not exact.
    """
    if answer.label_map is not None:
        return decode_mask(base64.b64decode(answer.label_map))
    largest = max((ingredient.id for ingredient in answer.ingredients), default=0)
    ids = np.zeros((answer.image.height, answer.image.width), np.uint8 if largest < 256 else np.uint16)
    for ingredient in answer.ingredients:
        if not isinstance(ingredient.mask, Rle):
            raise ValueError("a label map can be made of format='png' or format='rle', this answer holds polygons")
        ids[from_rle(ingredient.mask)] = ingredient.id
    return ids


def _bytes(image: bytes | str | Path) -> bytes:
    return image if isinstance(image, bytes) else storage.read_bytes(str(image))


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _given(fields: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in fields.items() if value is not None}


def _error(response: httpx.Response) -> ApiError:
    """Returns the error in a response; one that is not in the API's own form came from a proxy in between."""
    seconds = response.headers.get("Retry-After", "")
    retry_after = float(seconds) if seconds.isdecimal() else None
    try:
        error = response.json()["error"]
        return ApiError(response.status_code, error["code"], error["message"], error["hint"], retry_after)
    except (ValueError, KeyError, TypeError):
        status = response.status_code
        return ApiError(
            status, f"http_{status}", f"the answer is HTTP {status}: {response.text[:200]}", "", retry_after
        )
