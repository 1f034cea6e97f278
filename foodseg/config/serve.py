"""The configuration of the endpoint: what the Ray Serve application is given as `args`.

Replicas, CPUs and GPUs of each deployment are Serve's own part of the YAML (`deployments`), and so is which checkpoint
a model name means once it was swapped (`user_config` of the segmenter); this file has what the code needs to know.

    config = parse_serve_config({"segmenter": {"models": {"meals": "runs/a"}}}, "serve_configs/local.yaml")
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from foodseg import storage
from foodseg.config.clip import ClipConfig
from foodseg.config.explain import validated
from foodseg.config.marks import Uri
from foodseg.config.section import Section
from foodseg.config.zero_shot import DenseConfig, ZeroShotEvalConfig

MIB = 2**20


class HttpConfig(Section):
    """The address and the limits of a request. Serve's own limits are set above these, so that ours answer."""

    host: str = Field("127.0.0.1", description="address to listen on; any address but loopback needs API keys")
    port: int = Field(8000, ge=1, le=65535, description="port to listen on")
    keys_file: Annotated[str | None, Uri()] = Field(
        None,
        description="file of API keys, a line 'name sha256-of-the-key' each, read again within 5 s; null = the keys in "
        "FOODSEG_API_KEYS ('name:key,name:key'); with neither, requests need no key, which is allowed on loopback only",
    )
    cors_origins: tuple[str, ...] = Field(
        (),
        description="origins whose pages may call the API, e.g. https://menu.example; empty = only the endpoint itself",
    )
    max_body_bytes: int = Field(32 * MIB, ge=1024, description="largest request body; a larger one is refused with 413")
    body_seconds: float = Field(20.0, gt=0, description="time to send a request body, then 408")
    request_seconds: float = Field(60.0, gt=0, description="time for a whole request, body included, then 408")
    max_requests: int = Field(
        32, ge=1, description="requests in flight at once in one ingress replica; more are refused with 429"
    )
    retry_after_seconds: float = Field(1.0, gt=0, description="value of Retry-After with a 429 of the ingress")

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            scheme, _, rest = origin.partition("://")
            if origin != "*" and (scheme not in ("http", "https") or not rest or "/" in rest):
                raise ValueError(f"must be origins such as https://menu.example (no path), or '*', found {origin!r}")
        return value

    @model_validator(mode="after")
    def _body_within_request(self) -> "HttpConfig":
        if self.body_seconds > self.request_seconds:
            raise ValueError(
                f"http.body_seconds ({self.body_seconds:g}) must not exceed http.request_seconds "
                f"({self.request_seconds:g}), which the body is a part of"
            )
        return self


class ImageConfig(Section):
    """What images are accepted, and at which size they are decoded."""

    max_pixels: int = Field(
        50_000_000,
        ge=1024,
        le=100_000_000,
        description="most pixels that the header may declare; an image with more is refused with 422",
    )
    longest_side: int = Field(
        1024, ge=64, le=4096, description="pixels of the longer side after decoding; smaller images keep their size"
    )


class SegmenterConfig(Section):
    """The models of /v1/segment and how their images are batched."""

    models: Annotated[dict[str, str], Uri(schemes=("hf://",))] = Field(
        {},
        description="public name -> run, checkpoint directory or URI, hf:// too; the first is the default",
    )
    default: str | None = Field(None, description="model for requests that name none; null = the first")
    canvases: tuple[tuple[int, int], ...] = Field(
        (),
        description="[height, width] that images of other sizes are padded to, so that they share batches. The padding "
        "changes the label map a little: with none, and for an image that none fits (too small, or mostly padding), "
        "the map is that of `foodseg predict`, and an image is batched with those of its own padded size",
    )
    runtime: Literal["torch", "onnxruntime", "openvino"] | None = Field(
        None,
        description="what computes the models: null = torch for a checkpoint, and for a directory of `foodseg export` "
        "the runtime of its format; openvino runs ONNX, too",
    )
    max_batch: int = Field(8, ge=1, description="most images in one forward pass; a CPU gains nothing from more than 1")

    @field_validator("models")
    @classmethod
    def _public_names(cls, value: dict[str, str]) -> dict[str, str]:
        for name, uri in value.items():
            check_model(name, uri)
        return value

    @field_validator("canvases")
    @classmethod
    def _real_canvases(cls, value: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        if any(side < 32 or side % 32 for canvas in value for side in canvas):
            raise ValueError(f"sides of a canvas must be multiples of 32, found {[list(canvas) for canvas in value]}")
        if len(set(value)) != len(value):
            raise ValueError(f"a canvas occurs twice in {[list(canvas) for canvas in value]}")
        return value

    @model_validator(mode="after")
    def _known_default(self) -> "SegmenterConfig":
        if self.default is not None and self.default not in self.models:
            raise ValueError(f"segmenter.default must be one of {list(self.models)}, found {self.default!r}")
        return self


class SamConfig(Section):
    """Segment Anything: prompts, masks for everything, and the vote that refines label maps."""

    weights: Annotated[str, Uri()] = Field(
        description="checkpoint file of segment-anything or MobileSAM (.pth, .safetensors), or s3://"
    )
    kind: Literal["vit_t", "vit_b", "vit_l", "vit_h"] = Field(
        "vit_t", description="architecture of the image encoder; vit_t = MobileSAM"
    )
    cache_bytes: int = Field(256 * MIB, ge=MIB, description="image embeddings that one replica keeps (4 MiB each)")
    points_per_side: int = Field(16, ge=1, le=64, description="grid of points for the masks of everything")
    points_per_batch: int = Field(4, ge=1, description="points in one pass of the mask decoder")


class ServedClipConfig(ClipConfig):
    """CLIP: scores of any class names for an image and its regions, and label maps of any names."""

    dense: DenseConfig = Field(DenseConfig(), description="how patches are compared with names, for label maps")
    eval: ZeroShotEvalConfig = Field(ZeroShotEvalConfig(), description="how images are shown to CLIP for label maps")

    @model_validator(mode="after")
    def _no_second_sam(self) -> "ServedClipConfig":
        if self.dense.external == "sam":
            raise ValueError("clip.dense.external must be the name of a ViT in the endpoint, found 'sam'")
        return self


class RefineConfig(Section):
    """The SAM vote over a label map (FoodSAM), and CLIP's second opinion where its confidence is low."""

    seconds: float = Field(30.0, gt=0, description="time for the vote; after that the label map is returned unrefined")
    largest_masks: int = Field(80, ge=1, description="number of masks that vote; the largest ones are used")
    majority: float = Field(
        0.5, ge=0, le=1, description="share of a mask's pixels that one label needs for the mask to vote"
    )
    confidence_below: float = Field(
        0.5,
        ge=0,
        le=1,
        description="confidence below which a pixel is uncertain; CLIP is consulted where half of a mask's pixels are; "
        "0 = never",
    )


class RegionsConfig(Section):
    """A model that names given regions (/v1/classify-regions), and looks again at doubtful ones (recheck=true)."""

    model: Annotated[str, Uri(schemes=("hf://",))] = Field(
        description="run, checkpoint directory or URI, hf:// too, of a region classifier (model.kind = roi); a "
        "segmenter names regions by its mean scores, and looks again at none"
    )
    below: float = Field(
        0.6, gt=0, le=1, description="mean confidence of a region below which recheck=true looks at it again"
    )
    seconds: float = Field(
        10.0, gt=0, description="time for the second look; after that the label map is returned without"
    )

    @field_validator("model")
    @classmethod
    def _no_secret(cls, value: str) -> str:
        check_model("regions", value)
        return value


class ServeConfig(Section):
    """Every setting of the endpoint but for scaling; a backend without a section is not started."""

    http: HttpConfig = Field(HttpConfig(), description="address, keys and limits")
    image: ImageConfig = Field(ImageConfig(), description="accepted images")
    segmenter: SegmenterConfig = Field(SegmenterConfig(), description="models of /v1/segment")
    sam: SamConfig | None = Field(None, description="Segment Anything; null = not started")
    clip: ServedClipConfig | None = Field(None, description="CLIP; null = not started")
    refine: RefineConfig = Field(RefineConfig(), description="the vote of SAM's masks")
    regions: RegionsConfig | None = Field(None, description="names of given regions; null = not started")


def check_model(name: str, uri: str) -> None:
    """Raises ValueError for a public name that no request could carry, and for a URI that holds a secret."""
    if storage.redact(uri) != uri:  # /v1/models shows where a model comes from
        raise ValueError(f"found {storage.redact(uri)}: keys belong in the environment (AWS_ACCESS_KEY_ID ...)")
    if not name or len(name) > 64 or not all(c.isascii() and (c.isalnum() or c in "-_.") for c in name):
        raise ValueError(f"a model name is 1 to 64 letters, digits, '-', '_' or '.', found {name!r}")


def parse_serve_config(tree: Mapping[str, Any], where: str = "") -> ServeConfig:
    """Validates a plain nested dict (the `args` of the application); `where` names the file in errors.

    Raises:
        UserError: one sentence naming the key (and the nearest known one), the value and what would be right.
    """
    optional = ("sam", "clip", "regions")
    plain = {key: {} if value is None and key not in optional else value for key, value in tree.items()}
    return validated(plain, ServeConfig, where)
