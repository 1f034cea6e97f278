"""Pydantic models of the answers of the HTTP API (`/v1`), errors included; the OpenAPI document is made from them.

Sizes, coordinates and masks are in pixels of the image as the client sent it, after EXIF orientation; x goes right,
y goes down. Masks are COCO RLE, polygons, or one PNG label map; never arrays of pixels.
"""

import json
import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from foodseg.errors import FoodsegError
from foodseg.models.clip.names import LONGEST

MaskFormat = Literal["rle", "polygons", "png"]  # png: of /v1/segment only, as masks of prompts overlap
RegionFormat = Literal["rle", "polygons"]
RefineBy = Literal["none", "vote", "soft", "sam"]  # sam: the old name of vote
MAX_POINTS, MAX_NAMES, MAX_NAME = 64, 256, LONGEST
MAX_FIELD = 64 * 1024  # bytes of a text field of a form


class ApiError(FoodsegError):
    """An error response. It has positional arguments only, so that it can be pickled.

    status: of HTTP. code: a word for programs. message: one sentence for people. hint: how to do it right, or empty.
    retry_after: seconds after which the same request may succeed (429 and 503), or None.
    """

    def __init__(self, status: int, code: str, message: str, hint: str = "", retry_after: float | None = None) -> None:
        super().__init__(status, code, message, hint, retry_after)
        self.status = status
        self.code = code
        self.message = message
        self.hint = hint
        self.retry_after = retry_after

    def __str__(self) -> str:
        return self.message

    def headers(self) -> dict[str, str]:
        """Returns the headers of the error response; Retry-After in whole seconds, at least 1."""
        if self.retry_after is None:
            return {}
        return {"Retry-After": str(max(1, math.ceil(self.retry_after)))}

    def body(self) -> dict[str, Any]:
        """Returns the error response, `{"error": {"code", "message", "hint"}}`."""
        return {"error": {"code": self.code, "message": self.message, "hint": self.hint}}


class Answer(BaseModel):
    """Frozen. A client ignores keys that it does not know, which a newer server may send."""

    model_config = ConfigDict(frozen=True)


class ErrorDetail(Answer):
    code: str = Field(description="a word for programs, such as body_too_large")
    message: str = Field(description="one sentence for people")
    hint: str = Field(description="how to do it right; may be empty")


class ErrorAnswer(Answer):
    """Every answer with a status of 400 or above."""

    error: ErrorDetail


class Rle(Answer):
    """COCO's run-length code; `pycocotools.mask.decode` reads it."""

    size: tuple[int, int] = Field(description="height, width")
    counts: str


# a region's outer rings, each x0, y0, x1, y1, ... as in COCO
Polygons = list[Annotated[list[float], Field(min_length=6)]]
MaskCode = Rle | Polygons


class ImageInfo(Answer):
    width: int
    height: int
    id: str | None = Field(description="for /v1/prompt, instead of the image; null where SAM is not configured")


class ModelInfo(Answer):
    name: str
    sha: str = Field(description="sha256 of the checkpoint")


class Ingredient(Answer):
    id: int
    name: str
    colour: str = Field(description="#rrggbb", pattern="^#[0-9a-f]{6}$")
    pixels: int
    share_of_food: float = Field(description="of all pixels that are not background, 0 to 1")
    share_of_image: float = Field(description="0 to 1")
    cm2: float | None = Field(description="area, where the request gave pixels_per_cm")
    confidence: float = Field(description="calibrated mean over the ingredient's pixels, 0 to 1")
    mask: MaskCode | None = Field(description="null with format=png")


class RecheckedRegion(Answer):
    """A region of low confidence that the region classifier looked at again; `before_id` was its id."""

    id: int
    name: str
    before_id: int
    before: str
    confidence: float = Field(description="mean of the region's pixels before, 0 to 1")
    score: float = Field(description="of the class now: mean probability of both models, 0 to 1")
    pixels: int
    share_of_image: float
    box: tuple[int, int, int, int] = Field(description="x, y, width, height, as in COCO")


class SegmentAnswer(Answer):
    """Largest ingredient first; background is not listed."""

    request_id: str
    image: ImageInfo
    model: ModelInfo
    ingredients: list[Ingredient]
    label_map: str | None = Field(description="base64 of a PNG of ids (8 or 16 bit grey, 0 = background): format=png")
    refined: bool = Field(description="whether the borders were refined by SAM's masks")
    rechecked: list[RecheckedRegion] | None = Field(
        None,
        description="the regions that were looked at again, largest first; null where recheck was not requested, or "
        "the region classifier did not answer in time: the label map is that of the segmenter then",
    )


class Region(Answer):
    """One SAM mask."""

    score: float = Field(description="SAM's own estimate of the IoU")
    pixels: int
    share_of_image: float
    box: tuple[int, int, int, int] = Field(description="x, y, width, height, as in COCO")
    mask: MaskCode


class PromptAnswer(Answer):
    """Best mask first."""

    request_id: str
    image: ImageInfo
    masks: list[Region]


class NameScore(Answer):
    name: str
    score: float = Field(description="softmax over the names of the request, 0 to 1")


class NamedRegion(Region):
    scores: list[NameScore] = Field(description="best first")


class ZeroShotAnswer(Answer):
    request_id: str
    image: ImageInfo
    scores: list[NameScore] = Field(description="of the whole image, best first; empty without CLIP")
    masks: list[NamedRegion] | None = Field(description="null where masks were not requested")
    ingredients: list[Ingredient] | None = Field(
        None,
        description="the label map, one name or background for each pixel, the largest area first; id is the number of "
        "the name in the request, from 1 on, and confidence is not calibrated; null with dense=false, and where the "
        "CLIP model has no patches",
    )
    label_map: str | None = Field(
        None, description="base64 of a PNG of ids (8 or 16 bit grey, 0 = none of the names): format=png"
    )
    refined: bool = Field(False, description="whether the borders were refined by SAM's masks")


class RegionClass(Answer):
    """What one region was named; sizes are of its mask as it was sent."""

    number: int = Field(description="of the mask in the list, from 0; of a PNG its value")
    id: int
    name: str
    score: float = Field(description="softmax probability, 0 to 1, not calibrated")
    second: str = Field(description="name of the class that comes next")
    second_score: float
    pixels: int
    share_of_image: float
    box: tuple[int, int, int, int] = Field(description="x, y, width, height, as in COCO")


class RegionsAnswer(Answer):
    """Regions in the order of their masks; those of a PNG by their values."""

    request_id: str
    image: ImageInfo
    model: ModelInfo
    regions: list[RegionClass]


class ClassInfo(Answer):
    id: int
    name: str
    colour: str


class ClassesAnswer(Answer):
    request_id: str
    model: ModelInfo
    classes: list[ClassInfo] = Field(description="id 0 is the background")


class ModelStateInfo(Answer):
    name: str
    default: bool = Field(description="answers where a request names no model")
    conditioned: bool = Field(description="the model can be conditioned on `ingredients`")
    open_vocabulary: bool = Field(description="/v1/zero-shot takes it as `model`, for other names than its classes")
    classes: int
    wanted: str = Field(description="the checkpoint that is configured")
    serving: str | None = Field(description="the checkpoint that answers; null: not loaded yet")
    sha: str | None
    error: str | None = Field(description="why `wanted` does not serve")


class RegionsInfo(Answer):
    """The model of /v1/classify-regions."""

    serving: str = Field(description="the checkpoint that answers")
    sha: str
    classes: int
    recheck: bool = Field(description="/v1/segment takes recheck=true, for models of the same classes")


class ModelsAnswer(Answer):
    request_id: str
    models: list[ModelStateInfo]
    sam: bool = Field(description="/v1/prompt, refine=vote and refine=soft are available")
    clip: bool = Field(description="/v1/zero-shot is available")
    clip_model: str | None = Field(None, description="the CLIP model and its weights")
    regions: RegionsInfo | None = Field(None, description="null: /v1/classify-regions and recheck are not available")


class Health(Answer):
    status: Literal["ok", "starting"]


def parse_points(text: str, width: int, height: int) -> list[tuple[float, float, int]]:
    """Reads the form field `points`, JSON `[[x, y, label], ...]` with label 1 = in, 0 = out; '' = none.

    Raises:
        ApiError: 422, not such a list, more than MAX_POINTS, or a point outside of the image.
    """
    wrong = ApiError(
        422, "bad_points", f"points must be JSON such as [[320, 240, 1]]: at most {MAX_POINTS} of x, y and label",
        "label 1 is on what you want, label 0 on what you do not want",
    )  # fmt: skip
    points = [] if not text.strip() else _json(text, wrong)
    if not isinstance(points, list) or len(points) > MAX_POINTS:
        raise wrong
    found = []
    for point in points:
        if not isinstance(point, list) or len(point) != 3 or not all(map(_is_number, point)):
            raise wrong
        x, y, label = point
        if label not in (0, 1):
            raise wrong
        if not (0 <= x < width and 0 <= y < height):
            raise ApiError(
                422, "point_outside", f"the point ({x:g}, {y:g}) lies outside of the image of {width} x {height}",
                "coordinates are pixels of the image as it was sent, upright: 0, 0 is its upper left corner",
            )  # fmt: skip
        found.append((float(x), float(y), int(label)))
    return found


def parse_box(text: str, width: int, height: int) -> tuple[float, float, float, float] | None:
    """Reads the form field `box`, JSON `[x0, y0, x1, y1]`; '' = None.

    Raises:
        ApiError: 422, not four numbers with x0 < x1 and y0 < y1 within the image.
    """
    if not text.strip():
        return None
    wrong = ApiError(
        422, "bad_box", f"box must be JSON such as [10, 20, 200, 180]: x0 < x1 <= {width} and y0 < y1 <= {height}",
        "coordinates are pixels of the image as it was sent, upright: 0, 0 is its upper left corner",
    )  # fmt: skip
    box = _json(text, wrong)
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise wrong
    x0, y0, x1, y1 = map(float, box)
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise wrong
    return x0, y0, x1, y1


def parse_name_list(text: str, field: str) -> list[str]:
    """Reads a form field of names, a JSON list of texts or names between commas; '' = none. Order is kept.

    Raises:
        ApiError: 422, not texts, a name that occurs twice or is longer than MAX_NAME, more than MAX_NAMES.
    """
    wrong = ApiError(
        422, f"bad_{field}", f'{field} must be names between commas, or JSON such as ["rice", "egg"]',
        f"at most {MAX_NAMES} different names of at most {MAX_NAME} characters",
    )  # fmt: skip
    stripped = text.strip()
    names = _json(stripped, wrong) if stripped.startswith("[") else stripped.split(",") if stripped else []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise wrong
    # control characters and lone surrogates are refused below: they break what prints or tokenises a name
    found = [" ".join(name.split()) for name in names]
    if len(found) > MAX_NAMES or len(set(found)) != len(found):
        raise wrong
    if not all(0 < len(name) <= MAX_NAME and name.isprintable() for name in found):
        raise wrong
    return found


def _json(text: str, wrong: ApiError) -> Any:
    if len(text) > MAX_FIELD:
        raise wrong
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise wrong from None


def _is_number(value: Any) -> bool:
    # a JSON integer may have more digits than a float can hold
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9
