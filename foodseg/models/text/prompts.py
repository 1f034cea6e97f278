"""Learned context tokens in front of class names (CoOp: Zhou et al., Learning to Prompt, 2022).

    prompts = Prompts(tokens=4, classes=83, per_class=False)
    prompts.attach(build_tower(config.text, table), words_of_rows(table, classes), "a photo of a")
    embeddings = prompts()                                   # (83, D), with gradients to prompts.context

The text tower is frozen, and belongs to a training alone: it is not in the state of the module, whose copies share it.

Shapes: n words of all classes, M context tokens, L tokens of a text, D width of a class embedding.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import normalize

from foodseg.errors import UserError
from foodseg.models.text.prompt_tower import ClipTower, MiniLMTower

DEVIATION = 0.02  # of random context tokens, as in CoOp


class Prompts(nn.Module):
    """The context tokens of all foreground classes.

    Attributes:
        context: (M, width), or with own tokens (classes, M, width); width is 0 until a tower is attached or a state is
            loaded, since the tower alone decides it.
    """

    def __init__(self, tokens: int, classes: int, *, per_class: bool) -> None:
        super().__init__()
        self._classes = classes
        self.context = nn.Parameter(torch.empty(*([classes] if per_class else []), tokens, 0))
        self._attached: _Attached | None = None
        self.register_load_state_dict_pre_hook(_take_width)

    def attach(self, tower: MiniLMTower | ClipTower, words: Sequence[Sequence[str]], phrase: str | None) -> None:
        """Takes the tower, and begins the context tokens.

        Args:
            words: of each class the words for it, whose embeddings are averaged.
            phrase: what the tokens begin as, the last of them where it has fewer; the others, and all without a
                phrase, are random numbers of the seed that torch has.

        Raises:
            UserError: the phrase has more tokens than the context, or a name does not fit behind it.
        """
        *shape, tokens, _ = self.context.shape
        generator = torch.Generator().manual_seed(torch.initial_seed() + 2)  # the head's numbers are from + 1
        context = DEVIATION * torch.randn(*shape, tokens, tower.width, generator=generator)
        if phrase is not None:
            ids = tower.token_ids(phrase)
            if len(ids) > tokens:
                raise UserError(
                    f"model.realtime.context_phrase {phrase!r} has {len(ids)} tokens, and context_tokens is {tokens}: "
                    "give a shorter phrase or more tokens"
                )
            context[..., tokens - len(ids) :, :] = tower.embedded(ids)
        self.context = nn.Parameter(context)
        texts = [[*tower.token_ids(word + tower.ending), tower.last] for own in words for word in own]
        longest = max(map(len, texts))
        if 1 + tokens + longest > tower.room:
            raise UserError(
                f"model.realtime.context_tokens = {tokens} and a class name of {longest} tokens are more than the "
                f"{tower.room} of the text tower: take fewer context tokens, or shorter names"
            )
        behind = torch.zeros(len(texts), longest, tower.width)
        for row, ids in zip(behind, texts, strict=True):
            row[: len(ids)] = tower.embedded(ids)
        lengths = torch.tensor([1 + tokens + len(ids) for ids in texts])
        owners = torch.tensor([index for index, own in enumerate(words) for _ in own])
        mean = torch.zeros(self._classes, len(texts))
        mean[owners, torch.arange(len(texts))] = 1.0
        self._attached = _Attached(tower, tower.embedded([tower.first]), behind, lengths, owners, mean)

    @property
    def is_attached(self) -> bool:
        """Whether there is a tower to learn with."""
        return self._attached is not None

    def forward(self) -> torch.Tensor:
        """Returns (classes, D) float32 of length 1, with gradients to the context alone."""
        assert self._attached is not None, "a text tower must be attached before prompts are learned"
        tower, first, behind, lengths, owners, mean = self._attached.on(self.context.device)
        with torch.autocast(self.context.device.type, enabled=False):
            own = self.context[owners] if self.context.ndim == 3 else self.context.expand(len(owners), -1, -1)
            texts = torch.cat([first.expand(len(owners), 1, -1), own, behind], 1)
            return normalize(mean @ tower(texts, lengths), dim=1)


class _Attached:
    """What only training has: the tower, and its tokens of the names. Copies of the prompts share it."""

    def __init__(self, tower: MiniLMTower | ClipTower, *tensors: torch.Tensor) -> None:
        self._tower, self._tensors = tower, tensors

    def on(self, device: torch.device) -> tuple[Any, ...]:
        """Returns the tower and the tensors on a device."""
        self._tensors = tuple(tensor.to(device) for tensor in self._tensors)
        return (self._tower.to(device), *self._tensors)

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Attached":
        return self


def _take_width(module: Prompts, state: Mapping[str, torch.Tensor], prefix: str, *_: Any) -> None:
    """Without a tower the width of a token is that of the state."""
    found = state.get(f"{prefix}context")
    if found is not None and not module.is_attached:
        module.context = nn.Parameter(torch.empty_like(found))
