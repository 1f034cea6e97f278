"""The real-time segmenter: a mobile backbone, a light decoder, and class embeddings instead of a classifier.

    network = build_network(config.model, classes=84, text=table.embeddings)     # model.kind: realtime
    network.fold()                                                              # for inference
    network(image).logits

CLIP's text knowledge in a small network, after Lin, Chen and Wu (2024): pixel embeddings are compared with the
embeddings of class names (`pixel_text.py`). In stage one these are fixed; in stage two context tokens in front of the
names are learned (`text/prompts.py`). A linear classifier helps in training and is not used afterwards. Without text it
is the classifier.
"""

import torch
from torch import nn

from foodseg.classes import ClassTable
from foodseg.config.model import ModelConfig
from foodseg.models.backbones.timm_pyramid import Pyramid
from foodseg.models.pixel_text import FoldedHead, PixelTextHead
from foodseg.models.segmenter import SegmenterOutput
from foodseg.models.text.class_embeddings import TextTable
from foodseg.models.text.prompt_tower import build_tower, words_of_rows
from foodseg.models.two_branch_decoder import TwoBranchDecoder


class RealtimeNetwork(nn.Module):
    """Backbone, decoder, and the classifiers; the parts are built in `models/build.py`.

    Attributes:
        stride: image pixels per logit. gives_undropped: as of `SegmenterNetwork`.
    """

    fusion = None
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        backbone: Pyramid,
        decoder: TwoBranchDecoder,
        classifier: nn.Conv2d,
        head: PixelTextHead | None,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        dropout: float,
    ) -> None:
        super().__init__()
        self.backbone, self.decoder = backbone, decoder
        self.dropout = nn.Dropout2d(dropout)
        self.classifier: nn.Conv2d | None = classifier
        self.head: PixelTextHead | FoldedHead | None = head
        self.gives_undropped = False
        self.stride = backbone.strides[0]
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    @property
    def size_multiple(self) -> int:
        """Height and width of an image should be multiples of this many pixels."""
        return self.backbone.size_multiple

    @property
    def trained_head(self) -> PixelTextHead | None:
        """The head with its class embeddings; None without text."""
        assert not isinstance(self.head, FoldedHead), "the text of this network is folded"
        return self.head

    def forward(self, image: torch.Tensor) -> SegmenterOutput:
        """(B, 3, H, W) float in [0, 1], padding holds the channel means -> logits of all classes.

        In training `linear_logits` are those of the linear classifier, where it is not the only one.
        """
        features = self.decoder(self.backbone((image - self.mean) / self.std))
        dropped = self.dropout(features)
        linear = None
        if isinstance(self.head, PixelTextHead):
            embeddings = self.head.class_embeddings()
            logits = self.head(dropped, embeddings)
            undropped = self.head(features, embeddings) if self.gives_undropped else None
            if self.training:
                assert self.classifier is not None
                linear = self.classifier(dropped)
        else:
            last = self.classifier if self.head is None else self.head
            assert last is not None
            logits = last(dropped)
            undropped = last(features) if self.gives_undropped else None
        compared = None if undropped is None else (undropped, features)
        return SegmenterOutput(logits, self.stride, None, dropped, undropped=compared, linear_logits=linear)

    def fold(self) -> None:
        """Folds the class embeddings into the classifier: from then on it labels images and is not trained."""
        if isinstance(self.head, PixelTextHead):
            self.head, self.classifier = FoldedHead(self.head), None


def settle_text(network: nn.Module) -> None:
    """Brings learned class embeddings up to date before a network is validated or saved; others stay as they are."""
    if isinstance(network, RealtimeNetwork) and isinstance(network.head, PixelTextHead):
        network.head.settle()


def attach_tower(network: nn.Module, config: ModelConfig, classes: ClassTable, text: TextTable | None) -> None:
    """Gives a network whose prompts are to be learned the frozen text tower; every other one stays as it is.

    Raises:
        UserError: as `build_tower` and `Prompts.attach`.
    """
    head = network.trained_head if isinstance(network, RealtimeNetwork) else None
    if head is not None and head.prompts is not None:
        assert text is not None
        tower, words = build_tower(config.text, text), words_of_rows(text, classes)
        head.prompts.attach(tower, words, config.realtime.context_phrase)
