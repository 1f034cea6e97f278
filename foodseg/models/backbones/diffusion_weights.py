"""The parts of Stable Diffusion: its architectures, with random weights or with published ones.

    backbone = build_diffusion(config.model, width=768, pretrained=True)

Weights are a folder in the layout of diffusers, with `unet/` and `vae/` in it: local, in object storage, or
`hf://owner/name` on the Hugging Face hub, which needs `pip install 'foodseg[diffusion]'`.
"""

import tempfile
from pathlib import Path
from typing import Any

import httpx
import torch

from foodseg import storage
from foodseg.config.model import ModelConfig
from foodseg.errors import FoodsegError, RetryLater, UserError
from foodseg.models.backbones.diffusion import Diffusion

HUB = "hf://"
_VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
}
# all other settings are the defaults of diffusers' classes, which are those of Stable Diffusion 1
_UNET = {
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "use_linear_projection": False,
}
_UNETS: dict[str, dict[str, Any]] = {
    "sd1": {**_UNET, "cross_attention_dim": 768, "attention_head_dim": 8},
    "sd2": {**_UNET, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True},
    "tiny": {**_UNET, "block_out_channels": (24, 48, 96, 96), "norm_num_groups": 8, "attention_head_dim": 4},
}
_TINY_VAE = {**_VAE, "block_out_channels": (16, 32, 32, 32), "layers_per_block": 1, "norm_num_groups": 8}
_TINY_WIDTH = 64  # of the token of an unconditioned tiny model


def build_diffusion(config: ModelConfig, width: int | None, *, pretrained: bool) -> Diffusion:
    """Builds the backbone of `model.kind = diffusion`.

    Args:
        width: D of the class embeddings; None = unconditioned.
        pretrained: load `config.weights`; False where a checkpoint follows, which then needs no download.

    Raises:
        UserError: as `require_diffusion`, or the weights cannot be loaded.
    """
    require_diffusion(config, width, pretrained=False)
    if pretrained and config.weights != "none":
        vae, unet = _loaded(config, width)
    else:
        diffusers = _diffusers()
        vae = diffusers.AutoencoderKL(**_vae(config.backbone))
        unet = diffusers.UNet2DConditionModel(**unet_architecture(config.backbone, width))
    return Diffusion(vae, unet, config.strides, config.diffusion, conditioned=width is not None, maps=config.has_maps)


def unet_architecture(backbone: str, width: int | None = None) -> dict[str, Any]:
    """Returns the settings of `UNet2DConditionModel` for sd1, sd2, or tiny, whose tokens are `width` numbers."""
    own = _UNETS[backbone]
    return own if "cross_attention_dim" in own else {**own, "cross_attention_dim": width or _TINY_WIDTH}


def require_diffusion(config: ModelConfig, width: int | None, *, pretrained: bool) -> None:
    """Checks what can be checked without building the model, which is large.

    Args:
        width: as for `build_diffusion`. pretrained: also look whether `config.weights` are there and fit.

    Raises:
        UserError: diffusers or peft is missing, class embeddings of another width than the UNet's tokens, no such
            weights, or weights of another architecture.
    """
    _diffusers()
    if config.diffusion.unet == "lora":
        _require_peft()
    wanted = unet_architecture(config.backbone, width)["cross_attention_dim"]
    if width not in (None, wanted):
        hint = {"sd1": "ViT-L-14", "sd2": "ViT-H-14"}[config.backbone]
        raise UserError(
            f"model.text gives embeddings of {width} numbers, but the UNet of model.backbone = {config.backbone} takes "
            f"tokens of {wanted}: set model.text.kind=open_clip with model.text.model={hint}"
        )
    if not pretrained or config.weights == "none":
        return
    with tempfile.TemporaryDirectory() as folder:
        source = _source(config.weights, Path(folder), configs_only=True)
        for part, own in _parts(config.backbone, width).items():
            _require_fit(config, part, own, _load_config(config.weights, source, part))


def _parts(backbone: str, width: int | None) -> dict[str, dict[str, Any]]:
    return {"vae": _vae(backbone), "unet": unet_architecture(backbone, width)}


def _vae(backbone: str) -> dict[str, Any]:
    return _TINY_VAE if backbone == "tiny" else _VAE


def _require_fit(config: ModelConfig, part: str, wanted: dict[str, Any], found: dict[str, Any]) -> None:
    for key, value in wanted.items():
        # published configurations leave out settings that did not exist when they were written: those are off
        there = found.get(key, False)
        if (tuple(there) if isinstance(there, list) else there) != value:
            raise UserError(
                f"model.weights: {storage.redact(config.weights)} is another {part} than that of model.backbone "
                f"= {config.backbone}: {key} is {there} there, {value} here"
            )


def _class_of(part: str) -> Any:
    diffusers = _diffusers()
    return diffusers.UNet2DConditionModel if part == "unet" else diffusers.AutoencoderKL


def _load_config(weights: str, source: str, part: str) -> dict[str, Any]:
    kind = _class_of(part)
    try:
        found = kind.load_config(source, subfolder=part)
    except Exception as error:  # the hub client raises what its network stack raises
        raise _not_there(weights, f"{part}/config.json", error) from None
    if not isinstance(found, dict):
        raise _not_there(weights, f"{part}/config.json", TypeError("it is not a JSON object"))
    return found


def _loaded(config: ModelConfig, width: int | None) -> tuple[Any, Any]:
    with tempfile.TemporaryDirectory() as folder:
        source = _source(config.weights, Path(folder), configs_only=False)
        loaded = []
        for part, own in _parts(config.backbone, width).items():
            _require_fit(config, part, own, _load_config(config.weights, source, part))
            kind = _class_of(part)
            try:
                # no weight may stay random; diffusers would only warn
                model, report = kind.from_pretrained(
                    source, subfolder=part, torch_dtype=torch.float32, output_loading_info=True
                )
            except MemoryError:
                raise  # not a fault of the weights
            except Exception as error:  # the hub client, torch and safetensors raise a dozen kinds
                raise _not_there(config.weights, part, error) from None
            if report["missing_keys"]:
                raise _not_there(config.weights, part, KeyError(next(iter(report["missing_keys"]))))
            loaded.append(model)
    return loaded[0], loaded[1]


def _not_there(weights: str, part: str, error: Exception) -> FoodsegError:
    detail = (str(error).split("\n")[0] or type(error).__name__)[:160]
    if weights.startswith(HUB) and _is_network(error):
        return RetryLater(f"model.weights: the hub does not answer about {weights} ({detail})")
    return UserError(
        f"model.weights: {storage.redact(weights)} does not give the {part} of Stable Diffusion in diffusers' layout "
        f"({type(error).__name__}: {detail})"
    )


def _is_network(error: BaseException | None) -> bool:
    """Whether an error goes back to the network: diffusers raises OSError for what the hub client has raised."""
    while error is not None:
        if isinstance(error, ConnectionError | TimeoutError | httpx.TransportError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _source(weights: str, folder: Path, *, configs_only: bool) -> str:
    """Returns what diffusers loads from: a name on the hub, or a local folder; `folder` takes what is not local."""
    if weights.startswith(HUB):
        return weights.removeprefix(HUB)
    missing = [part for part in ("vae", "unet") if not storage.exists(storage.join(weights, part, "config.json"))]
    if missing:  # diffusers would look for it on the hub
        raise UserError(
            f"model.weights: there is no {missing[0]}/config.json in {storage.redact(weights)}: it must be a folder in "
            f"diffusers' layout, or a name on the hub, {HUB}owner/name"
        )
    if storage.is_local(weights):
        return storage.absolute(weights)
    for part in ("unet", "vae"):
        (folder / part).mkdir()
        for name in storage.list_names(storage.join(weights, part)):
            if name == "config.json" or (not configs_only and _is_weights(name)):
                storage.download(storage.join(weights, part, name), folder / part / name)
    return str(folder)


def _is_weights(name: str) -> bool:
    """Whether diffusers would load it by default: not the variants for half precision, nor those with EMA weights."""
    whole = name == "diffusion_pytorch_model.safetensors" or name == "diffusion_pytorch_model.safetensors.index.json"
    return whole or (name.startswith("diffusion_pytorch_model-") and name.endswith(".safetensors"))


def _diffusers() -> Any:
    try:
        import diffusers
    except ImportError:
        raise UserError(
            "model.kind = diffusion needs the package diffusers: pip install 'foodseg[diffusion]'"
        ) from None
    return diffusers


def _require_peft() -> None:
    try:
        import peft  # noqa: F401
    except ImportError:
        raise UserError(
            "model.diffusion.unet = lora needs the package peft: pip install 'foodseg[diffusion]'"
        ) from None
