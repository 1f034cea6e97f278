"""The classifier of the real-time segmenter: cosines of pixel embeddings and class embeddings at temperature 0.07.

    head = PixelTextHead(channels=128, text=table, centre=True)
    logits = head(features, head.class_embeddings())
    folded = FoldedHead(head)                          # the same logits, without text: two 1x1 convolutions
    logits = folded(features)

Pixel embeddings are a linear projection of the features to the width of the text, which is not projected: what is alike
there has to look alike. Background has no name, and many looks: it has some learned prototypes, of which the nearest
counts.

Shapes: B images, K ids (0 = background), C channels, D width of the text, h x w grid cells, P prototypes.
"""

import torch
from torch import nn
from torch.linalg import vector_norm
from torch.nn.functional import normalize

from foodseg.models.classifier import TEMPERATURE
from foodseg.models.text.prompts import Prompts

PROTOTYPES = 4  # of background
SMALLEST_NORM = 1e-12  # torch's, of normalize


class PixelTextHead(nn.Module):
    """As it is trained: with the class embeddings, and perhaps with prompts that they are learned through.

    Attributes:
        text: (K - 1, D) class embeddings of the foreground as they came, or as the prompts made them last.
        learns_prompts: in training the embeddings are those of the prompts now (stage two).
    """

    text: torch.Tensor

    def __init__(self, channels: int, text: torch.Tensor, *, centre: bool, prompts: Prompts | None = None) -> None:
        """text: (K, D) float32 raw class embeddings, of which row 0 is not used. centre: as `model.text.centre`."""
        super().__init__()
        self._centre = centre
        self.project = nn.Conv2d(channels, text.shape[1], 1, bias=False)
        self.background = nn.Parameter(torch.randn(PROTOTYPES, text.shape[1]))
        self.register_buffer("text", text[1:].clone())
        self.prompts = prompts
        self.learns_prompts = False

    def class_embeddings(self) -> torch.Tensor:
        """Returns (P + K - 1, D) of length 1, the prototypes first."""
        rows = self.text
        if self.prompts is not None and self.training:
            if self.learns_prompts:
                rows = self.prompts()
                self.text.copy_(rows.detach())
            else:
                rows = rows + 0 * self.prompts.context.sum()  # DDP refuses a parameter that nothing depends on
        return torch.cat([normalize(self.background, dim=1), self._centred(rows)])

    @torch.no_grad()
    def settle(self) -> None:
        """Makes `text` that of the context tokens as they are now; in training it is that of the last forward pass."""
        if self.prompts is not None and self.learns_prompts:
            self.text.copy_(self.prompts())

    def forward(self, features: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w), `class_embeddings` -> (B, K, h, w) float32 logits."""
        with torch.autocast(features.device.type, enabled=False):  # 1 / 0.07 would enlarge rounding errors
            pixels = normalize(self.project(features.float()), dim=1)
            return nearest_background(torch.einsum("bdhw,kd->bkhw", pixels, embeddings)) / TEMPERATURE

    def _centred(self, rows: torch.Tensor) -> torch.Tensor:
        alone = len(rows) == 1  # minus its own mean it would be 0
        return normalize(rows - rows.mean(0) if self._centre and not alone else rows, dim=1)


class FoldedHead(nn.Module):
    """The same for inference: the class embeddings are in the weights of a 1x1 convolution.

    With the projection A = Q R, R upper triangular, a pixel's embedding A f is as long as R f, and its product with a
    class embedding t is (A^T t) f. So nothing has the width of the text any more.
    """

    @torch.no_grad()
    def __init__(self, head: PixelTextHead) -> None:
        super().__init__()
        projection = head.project.weight[:, :, 0, 0].double()
        self.classify = _convolution(head.eval().class_embeddings().double() @ projection / TEMPERATURE)
        self.length = _convolution(torch.linalg.qr(projection, mode="r").R)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) -> (B, K, h, w) float32 logits."""
        with torch.autocast(features.device.type, enabled=False):
            values = features.float()
            length = vector_norm(self.length(values), dim=1, keepdim=True)
            return nearest_background(self.classify(values) / length.clamp_min(SMALLEST_NORM))


def nearest_background(scores: torch.Tensor) -> torch.Tensor:
    """(B, P + K - 1, h, w) -> (B, K, h, w): of the prototypes of background the best one counts."""
    return torch.cat([scores[:, :PROTOTYPES].amax(1, keepdim=True), scores[:, PROTOTYPES:]], 1)


def _convolution(weight: torch.Tensor) -> nn.Conv2d:
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=False, device=weight.device)
    layer.weight.copy_(weight[:, :, None, None])
    return layer.requires_grad_(False)
