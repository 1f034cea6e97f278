"""Frozen text towers that take embeddings of tokens, so that some of the tokens can be learned (`prompts.py`).

    tower = build_tower(config.model.text, table)
    tokens = tower.embedded(tower.token_ids("fried tofu"))     # (3, width)

They are the encoders that class embeddings come from: MiniLM, for a table of `foodseg data embed`, or the text tower of
an open_clip model. Only training needs one.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import normalize

from foodseg import storage
from foodseg.classes import ClassTable
from foodseg.config.text import TextConfig
from foodseg.errors import UserError
from foodseg.models.clip.towers import find_clip, load_clip_towers
from foodseg.models.text.class_embeddings import TextTable
from foodseg.models.text.embed import MINILM, load_minilm, permutation
from foodseg.models.text.synonyms import sentences_of

PERMUTED = re.compile(r"names permuted, seed (\d+)$")


def build_tower(config: TextConfig, table: TextTable) -> "MiniLMTower | ClipTower":
    """Loads the tower that made the class embeddings.

    Raises:
        UserError: they were not made by a tower that is known here; it is missing; it cannot be loaded.
    """
    if config.kind == "open_clip":
        return ClipTower(config)
    if not table.made_by.startswith(MINILM):
        raise UserError(
            f"model.realtime.context_tokens are tokens of the encoder that made model.text.table, which is "
            f"{table.made_by}: make one with `foodseg data embed` without --random, or set model.text.kind=open_clip"
        )
    return MiniLMTower()


def words_of_rows(table: TextTable, classes: ClassTable) -> list[list[str]]:
    """Returns the words that each row 1..K-1 of a table is the embedding of; a permuted table's are permuted."""
    words = [sentences_of(name) for name in classes.names[1:]]
    permuted = PERMUTED.search(table.made_by)
    return [words[index] for index in permutation(len(words), int(permuted[1]))] if permuted else words


class MiniLMTower(nn.Module):
    """The sentence encoder all-MiniLM-L6-v2.

    Attributes:
        width: numbers of a token's embedding. room: most tokens of a text. ending: words behind each name.
        first, last: ids of the special tokens around a text.
    """

    ending = ""

    def __init__(self) -> None:
        super().__init__()
        whole, _ = load_minilm()
        self._tokenizer: Any = whole.tokenizer
        self.encoder = whole[0].auto_model.eval().requires_grad_(False)
        self.width, self.room = int(self.encoder.config.hidden_size), int(whole.max_seq_length)
        self.first, self.last = int(self._tokenizer.cls_token_id), int(self._tokenizer.sep_token_id)

    def token_ids(self, text: str) -> list[int]:
        """Returns the ids of a text, without the special tokens around it."""
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def embedded(self, ids: Sequence[int]) -> torch.Tensor:
        """Ids (n) -> (n, width) float32."""
        return self.encoder.get_input_embeddings()(torch.tensor(ids, dtype=torch.long))

    def forward(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Token embeddings (n, L, width), of which the first `lengths` (n,) are a text -> (n, D) of length 1."""
        real = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        states = self.encoder(inputs_embeds=tokens, attention_mask=real.long()).last_hidden_state
        return normalize((states * real[..., None]).sum(1) / lengths[:, None], dim=1)


class ClipTower(nn.Module):
    """The text tower of an open_clip model, to its projected embedding; attributes and methods as of MiniLMTower."""

    ending = "."  # as in CoOp

    _tokenizer: Any
    positions: torch.Tensor
    mask: torch.Tensor

    def __init__(self, config: TextConfig) -> None:
        """UserError: as `find_clip` and `load_clip_towers`, or it is not CLIP's tower with CLIP's tokenizer."""
        super().__init__()
        assert config.model is not None
        found = find_clip(config.model, config.tag, config.quick_gelu, "model.text")
        model, _, tokenizer = load_clip_towers(found, torch.device("cpu"))
        self._tokenizer = tokenizer
        tower = getattr(model, "text", model)  # open_clip's CustomTextCLIP holds the tower as a part
        plain = hasattr(tower, "ln_final") and getattr(tower, "cls_emb", None) is None and tower.attn_mask is not None
        if not plain or not hasattr(self._tokenizer, "sot_token_id"):
            found_instead = f"{type(tower).__name__} and {type(tokenizer).__name__}"
            raise UserError(
                "model.realtime.context_tokens need a CLIP text tower with CLIP's tokenizer, and model.text.model "
                f"{storage.redact(config.model)} has {found_instead}: choose another model"
            )
        self.token_embedding, self.transformer, self.ln_final = tower.token_embedding, tower.transformer, tower.ln_final
        self.register_buffer("positions", tower.positional_embedding.detach())
        self.register_buffer("mask", tower.attn_mask)
        self.projection = tower.text_projection
        self.requires_grad_(False)
        self.room, self.width = self.positions.shape
        self.first, self.last = self._tokenizer.sot_token_id, self._tokenizer.eot_token_id

    def token_ids(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text))

    def embedded(self, ids: Sequence[int]) -> torch.Tensor:
        return self.token_embedding(torch.tensor(ids, dtype=torch.long)).float()

    def forward(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        length = tokens.shape[1]
        states = self.transformer(tokens + self.positions[:length], attn_mask=self.mask[:length, :length])
        ends = self.ln_final(states[torch.arange(len(tokens), device=tokens.device), lengths - 1])
        if isinstance(self.projection, nn.Linear):
            ends = self.projection(ends)
        elif self.projection is not None:
            ends = ends @ self.projection
        return normalize(ends, dim=1)
