"""Loads CLIP models: open_clip's name, folder, published tag or file of weights -> the two towers.

    found = find_clip("ViT-L-14", "openai", None, "model.text")
    towers = load_clip_towers(found, torch.device("cpu"))

`find_clip` refuses what cannot work before anything is loaded. open_clip_torch is imported only where it is used.
"""

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from foodseg import storage
from foodseg.errors import UserError
from foodseg.storage.hub_cache import NotReachable, hub_file

_CONFIG = "open_clip_config.json"
_PUBLISHED = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")  # the first that is there is loaded
_ENDINGS = (".json", ".safetensors", ".bin", ".pt", ".txt", ".model")


@dataclass(frozen=True)
class FoundClip:
    """A model that is there.

    model: open_clip's name, or a folder or URI with open_clip_config.json and weights.
    weights: with a name, a published tag, or a file or URI; None with a folder. published: `weights` is a tag.
    quick_gelu: whether the towers compute with QuickGELU, as OpenAI's do; None = as the folder says.
    section: of the configuration, which errors name.
    """

    model: str
    weights: str | None
    published: bool
    quick_gelu: bool | None
    section: str

    @property
    def identity(self) -> str:
        """Names the weights, files by their content: (model, identity, quick_gelu) determines the embeddings."""
        if self.published:
            return str(self.weights)
        if self.weights is not None:
            return hashlib.sha256(storage.read_bytes(self.weights)).hexdigest()
        digest = hashlib.sha256()
        for name in sorted(_files(self.model)):
            digest.update(name.encode() + b"\0" + storage.read_bytes(storage.join(self.model, name)))
        return digest.hexdigest()


class ClipTowers(NamedTuple):
    """An open_clip model in evaluation mode, its transform for images, and its tokenizer."""

    model: Any
    preprocess: Callable[[Image.Image], torch.Tensor]
    tokenizer: Callable[[list[str]], torch.Tensor]


def find_clip(model: str, weights: str | None, quick_gelu: bool | None, section: str) -> FoundClip:
    """Looks for a model.

    Args:
        model: a name of `open_clip.list_models()`, such as ViT-B-16, or a folder or URI with open_clip_config.json,
            weights and, where it needs one, tokenizer.
        weights: of a name: one of its published tags, or a file or URI. Of a folder: None.
        quick_gelu: None = as the tag, the folder or the name says.
        section: of the configuration, to name in errors.

    Raises:
        UserError: open_clip is missing, or lacks the model or its weights; a file of weights does not determine its
            GELU.
    """
    open_clip = open_clip_module()
    shown = storage.redact(model)
    if model not in open_clip.list_models():
        if not storage.exists(storage.join(model, _CONFIG)):
            raise UserError(
                f"{section}: open_clip has no model {shown!r}, and it is not a folder with {_CONFIG}; "
                "open_clip.list_models() names those it has"
            )
        if weights is not None:
            raise UserError(f"{section}: the folder {shown} holds its own weights: leave out {storage.redact(weights)}")
        return FoundClip(model, None, False, quick_gelu, section)
    tags = open_clip.list_pretrained_tags_by_model(model)
    # OpenAI's towers were trained with another GELU; open_clip only warns where the model's name does not say so
    published = {tag: bool(open_clip.get_pretrained_cfg(model, tag).get("quick_gelu")) for tag in tags}
    known = ", ".join(tags) or "(none)"
    if weights is None:
        raise UserError(f"{section}: {model} needs weights: a file or URI, or one of the published {known}")
    if weights in tags:
        return FoundClip(model, weights, True, published[weights] if quick_gelu is None else quick_gelu, section)
    if not storage.exists(weights):
        raise UserError(
            f"{section}: {storage.redact(weights)} is neither a file of weights nor a tag of {model} ({known})"
        )
    known_with = {bool(open_clip.get_model_config(model).get("quick_gelu")), *published.values()}
    if quick_gelu is None and len(known_with) > 1:
        raise UserError(
            f"{section}.quick_gelu: a file of weights does not say its GELU, and {model} is known with both: "
            "set true for weights from OpenAI's, false for those of open_clip's default"
        )
    return FoundClip(model, weights, False, known_with.pop() if quick_gelu is None else quick_gelu, section)


def load_clip_towers(found: FoundClip, device: torch.device) -> ClipTowers:
    """Loads both towers.

    Raises:
        UserError: the weights are not those of the model, or the hub does not give them.
    """
    open_clip = open_clip_module()
    if found.published:
        _fetch(found)
    with tempfile.TemporaryDirectory() as folder:
        name, weights = _local(found, Path(folder))
        # force_quick_gelu keeps open_clip from warning of the published tag's; alone it could not be switched off
        gelu = {} if found.quick_gelu is None else {"quick_gelu": found.quick_gelu}
        try:
            model, preprocess = open_clip.create_model_from_pretrained(
                name, weights, force_quick_gelu=bool(found.quick_gelu), device=device, **gelu
            )
            tokenizer = open_clip.get_tokenizer(name)
        except Exception as error:  # the hub client, torch and safetensors raise a dozen kinds
            detail = str(error).split("\n")[0][:160]
            shown = storage.redact(found.model if found.weights is None else f"{found.model} with {found.weights}")
            raise UserError(
                f"{found.section}: open_clip cannot load {shown} ({type(error).__name__}: {detail})"
            ) from None
    return ClipTowers(model.eval(), preprocess, tokenizer)


def _fetch(found: FoundClip) -> None:
    """Puts published weights into the cache of the hub, where open_clip finds them.

    open_clip alone would try for a minute and a half, and log each try.
    """
    assert found.weights is not None
    published = open_clip_module().get_pretrained_cfg(found.model, found.weights)
    repository = (published.get("hf_hub") or "").rstrip("/")
    try:
        if repository and not any(hub_file(repository, name) for name in _PUBLISHED):
            return  # under a name of its own, which open_clip knows
    except NotReachable as reason:
        raise UserError(
            f"{found.section}: the weights of {found.model} ({found.weights}) are not in the cache of this machine, "
            f"and {reason}: download them once, and name the file instead of the tag"
        ) from None


def open_clip_module() -> Any:
    """Returns the package open_clip. UserError: it is missing."""
    try:
        import open_clip
    except ImportError:
        raise UserError("CLIP needs the package open_clip_torch: pip install open_clip_torch") from None
    return open_clip


def _files(folder: str) -> list[str]:
    """Returns the names of what open_clip may read in a folder of its own: configuration, weights, tokenizer."""
    return [name for name in storage.list_names(folder) if name.endswith(_ENDINGS)]


def _local(found: FoundClip, folder: Path) -> tuple[str, str | None]:
    """Returns open_clip's name of the model and what it takes as `pretrained`; `folder` takes the copies of files."""
    if found.weights is None:
        for name in _files(found.model):
            storage.download(storage.join(found.model, name), folder / name)
        return f"local-dir:{folder}", None
    if found.published:
        return found.model, found.weights
    local = folder / ("weights.safetensors" if ".safetensors" in found.weights else "weights.pt")
    storage.download(found.weights, local)
    return found.model, str(local)
