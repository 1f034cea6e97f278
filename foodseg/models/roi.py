"""A region classifier: one encoder for each view of a region, and a small network that integrates them.

    network = RegionNetwork(config.model, config.roi, side=224, classes=84)
    logits = network(views).logits          # (B, V, 3, S, S) in [0, 1] -> (B, K)

After RveRNet (Jin, 2024, arXiv 2407.08257): an encoder for the region, another one for what is around it. There the
1,000 ImageNet logits of both are concatenated; here their features, where `roi.integrate` does not say otherwise. A
DeiT with a distillation token (Touvron et al., 2021) has a second head of that token, whose logits are averaged with
those of the first at inference.

Shape letters: B regions; V views of S x S pixels; F features of all views; K classes.
"""

import functools
from typing import Any, NamedTuple

import timm
import torch
from timm.data import resolve_data_config
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from foodseg.config.model import ModelConfig
from foodseg.config.roi import RoiConfig
from foodseg.errors import UserError
from foodseg.models.backbones.timm_weights import require_timm_model, with_weights
from foodseg.models.backbones.vit import plain_bicubic

IMAGENET_CLASSES = 1000


class RegionOutput(NamedTuple):
    """Logits (B, K), and those (B, K) of the distillation head; None without one."""

    logits: torch.Tensor
    distilled: torch.Tensor | None

    @property
    def averaged(self) -> torch.Tensor:
        """(B, K), what is used at inference: the mean of both heads."""
        return self.logits if self.distilled is None else (self.logits + self.distilled) / 2


class RegionNetwork(nn.Module):
    """Encoders, and one or two heads.

    Attributes:
        backbone: the encoders, one or two.
        distilled: whether the first has a distillation token.
    """

    def __init__(self, model: ModelConfig, roi: RoiConfig, *, side: int, classes: int, pretrained: bool = True) -> None:
        """Builds it for `classes` ids and views of `side` pixels.

        Args:
            pretrained: load the weights that the configuration names; False where a checkpoint follows.

        Raises:
            UserError: an unknown model, weights that do not fit, views of a size that an encoder does not take, a
                distillation that needs a distillation token.
        """
        super().__init__()
        keys = [("model.backbone", model.backbone, "model.weights", model.weights)]
        if roi.view_count == 2 and not roi.shared:
            other = ("roi.context_backbone", roi.context_backbone, "roi.context_weights", roi.context_weights)
            keys.append(keys[0] if roi.context_backbone is None else other)  # type: ignore[arg-type]
        self.backbone = nn.ModuleList(
            Encoder(
                name, weights if pretrained and weights != "none" else None, side, logits=roi.integrate == "logits",
                keys=(key, weights_key),
            )
            for key, name, weights_key, weights in keys
        )  # fmt: skip
        self.views = roi.view_count
        widths = [self._encoder(view).width for view in range(self.views)]
        self.distilled = self._encoder(0).distilled
        if roi.distill != "none" and not self.distilled:
            raise UserError(
                f"roi.distill = {roi.distill} needs a model.backbone with a distillation token, as "
                f"deit_tiny_distilled_patch16_224; {model.backbone!r} has none"
            )
        self.head = _head(sum(widths), roi.hidden, classes, model.dropout)
        self.distilled_head = _head(sum(widths), roi.hidden, classes, model.dropout) if self.distilled else None

    def forward(self, views: torch.Tensor) -> RegionOutput:
        """Classifies regions.

        Args:
            views: (B, V, 3, S, S) float in [0, 1].
        """
        own, distilled = [], []
        for view in range(self.views):
            features, token = self._encoder(view)(views[:, view])
            own.append(features)
            distilled.append(features if token is None else token)
        logits = self.head(torch.cat(own, 1))
        if self.distilled_head is None:
            return RegionOutput(logits, None)
        return RegionOutput(logits, self.distilled_head(torch.cat(distilled, 1)))

    def _encoder(self, view: int) -> "Encoder":
        encoder = self.backbone[min(view, len(self.backbone) - 1)]
        assert isinstance(encoder, Encoder)
        return encoder


class Encoder(nn.Module):
    """A model of timm that gives one vector for an image, normalised as timm says that it was trained.

    Attributes:
        width: of the vector. distilled: whether there is a second one, of a distillation token.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, name: str, weights: str | None, side: int, *, logits: bool, keys: tuple[str, str]) -> None:
        """Builds it.

        Args:
            logits: the vector is that of the 1,000 ImageNet logits, not of features.
            keys: of the configuration, which name the model and its weights, for messages.

        Raises:
            UserError: as `RegionNetwork`.
        """
        super().__init__()
        require_timm_model(name, keys[0])
        create = functools.partial(_create, name, IMAGENET_CLASSES if logits else 0)
        net: Any = with_weights(name, weights, create, keys[1])
        self.net, self._logits = net, logits
        self.distilled = isinstance(net, VisionTransformerDistilled)
        taken = resolve_data_config({}, model=net)
        for part in ("mean", "std"):
            self.register_buffer(part, torch.tensor(taken[part]).view(1, 3, 1, 1), persistent=False)
        self.width = self._probe(side, keys[0], name)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(B, 3, S, S) float in [0, 1] -> (B, width), and the same of the distillation token."""
        features = self.net.forward_features((image - self.mean) / self.std)
        if not self.distilled:
            return self.net.forward_head(features, pre_logits=not self._logits), None
        own, token = features[:, 0], features[:, 1]
        return (self.net.head(own), self.net.head_dist(token)) if self._logits else (own, token)

    @torch.no_grad()
    def _probe(self, side: int, key: str, name: str) -> int:
        was = self.training
        try:
            features, _ = self.eval()(torch.zeros(1, 3, side, side))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise UserError(
                f"{key} {name!r} does not take views of augment.crop = {side} pixels ({str(error).strip()[:200]}): "
                "choose another crop or another encoder"
            ) from None
        finally:
            self.train(was)
        return int(features.shape[1])


def _create(name: str, classes: int, **settings: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        kind = type(timm.create_model(name))
    # else a ViT takes images of the one size that it was trained with
    sizes: dict[str, Any] = (
        {"dynamic_img_size": True, "dynamic_img_pad": True} if issubclass(kind, VisionTransformer | Eva) else {}
    )
    return plain_bicubic(name, timm.create_model(name, num_classes=classes, **sizes, **settings))


def _head(width: int, hidden: int, classes: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, classes))
