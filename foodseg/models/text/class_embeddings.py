"""One text embedding per class: from a table that `foodseg data embed` made, or from an open_clip text tower.

    table = class_text(config.model, manifest.class_table)      # None where the model has no text fusion
    model = build_segmenter(config.model, len(classes), text=table.embeddings)

This happens once, before a run starts. The run directory and every checkpoint hold the embeddings in
`text.safetensors`, so that neither a worker nor a rebuilt model needs a text tower. No text tower is ever trained.

A table is a .safetensors file with one tensor `text` (K, D) float32: row k belongs to the name of id k. Row 0
(background) exists but is not used: the embedding of background is learned. The metadata say how the table was made,
and for which names.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import safetensors
import safetensors.torch
import torch
from torch.nn.functional import normalize

from foodseg import storage
from foodseg.classes import ClassTable, first_difference
from foodseg.config.model import ModelConfig
from foodseg.errors import UserError
from foodseg.models.text.clip_text import EmbeddingKind, open_clip_embeddings
from foodseg.models.text.synonyms import sentences_of

_IN_WORDS: dict[EmbeddingKind, str] = {
    "projected": "projected",
    "last": "before the projection",
    "penultimate": "before the projection, without the last layer",
}


@dataclass(frozen=True, eq=False)
class TextTable:
    """Text embeddings of class names.

    Attributes:
        embeddings: (K, D) float32, raw; row k belongs to id k.
        names: K names; None for a table that somebody made without them.
        made_by: what made it, in words: "all-MiniLM-L6-v2 ...", "random unit vectors ...".
    """

    embeddings: torch.Tensor
    names: tuple[str, ...] | None
    made_by: str


def class_text(config: ModelConfig, classes: ClassTable) -> TextTable | None:
    """Returns the class embeddings; None where the model has no text fusion.

    CLIP has several. `score_map` compares pixels by cosine with the projected one, which an open-vocabulary and a
    real-time model take, too. The other fusions take the state at the end of the sentence before the projection, as VPD
    (Zhao et al., 2023) does for attention; for Stable Diffusion 2, which was trained so, it is read one layer earlier.

    Raises:
        UserError: no such table, a table for other names, open_clip is missing or lacks the model or its weights.
    """
    text = config.text
    if text.kind == "none":
        return None
    if text.kind == "table":
        assert text.table is not None
        return read_table(text.table, classes)
    kind = embedding_kind_of(config)
    named = open_clip_embeddings(text, [sentences_of(name) for name in classes.names[1:]], kind)
    which = " ".join(storage.redact(part) for part in (text.model, text.tag) if part)
    return TextTable(with_background(named), classes.names, f"open_clip {which}, {_IN_WORDS[kind]}")


def embedding_kind_of(config: ModelConfig) -> EmbeddingKind:
    """Returns which of CLIP's text embeddings a model takes."""
    if config.fusion == "score_map" or config.kind in ("open_vocabulary", "realtime"):
        return "projected"
    return "penultimate" if config.kind == "diffusion" and config.backbone == "sd2" else "last"


def with_background(named: torch.Tensor) -> torch.Tensor:
    """Returns (K, D): class embeddings 1..K-1 behind a row of zeros for background, which no model reads."""
    return torch.cat([torch.zeros_like(named[:1]), named])


def closest_pairs(embeddings: torch.Tensor, names: Sequence[str], count: int = 10) -> list[tuple[str, str, float]]:
    """Returns the pairs of names with the greatest cosine after centring; greatest first.

    Args:
        embeddings: (K, D); row 0 is left out. names: K names.
    """
    rows = normalize(embeddings[1:] - embeddings[1:].mean(0), dim=1)
    first, second = torch.triu_indices(len(rows), len(rows), 1)
    cosines = (rows @ rows.T)[first, second]
    best = cosines.argsort(descending=True, stable=True)[:count].tolist()
    return [(names[int(first[i]) + 1], names[int(second[i]) + 1], float(cosines[i])) for i in best]


def table_bytes(table: TextTable) -> bytes:
    """Returns the content of the table's file."""
    metadata = {"made_by": table.made_by}
    if table.names is not None:
        metadata["names"] = json.dumps(table.names)
    return safetensors.torch.save({"text": table.embeddings.detach().cpu().float().contiguous()}, metadata)


def read_table(uri: str, classes: ClassTable | None = None) -> TextTable:
    """Reads a table.

    Args:
        classes: the table must have K rows, and the same names where it has any.

    Raises:
        UserError: no such file, not a table of text embeddings, or made for other names than those of `classes`.
    """
    table = parse_table(storage.read_bytes(uri), storage.redact(uri))
    if classes is None:
        return table
    if len(table.embeddings) != len(classes):
        raise UserError(
            f"{storage.redact(uri)} has {len(table.embeddings)} rows, but the label space {len(classes)} ids: "
            "make one for these names with `foodseg data embed`"
        )
    difference = None if table.names is None else first_difference(table.names, classes.names)
    if difference is not None:
        index, name, other = difference
        raise UserError(
            f"{storage.redact(uri)} was made for other names: id {index} is {name} there, but {other} in the label "
            "space: make one for these names with `foodseg data embed`"
        )
    return table


def parse_table(data: bytes, where: str) -> TextTable:
    """Reads the content of a table's file; `where` names it in errors. UserError: it is not a table."""
    try:
        embeddings = safetensors.torch.load(data)["text"]
        metadata = _metadata(data)
        names = json.loads(metadata["names"]) if "names" in metadata else None
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise UserError(
            f"{where} is not a table of text embeddings, a .safetensors file with a tensor 'text' ({error})"
        ) from None
    if embeddings.ndim != 2 or not embeddings.numel() or not embeddings.isfinite().all():
        raise UserError(f"{where}: 'text' must be finite numbers (ids, width), found shape {list(embeddings.shape)}")
    if "names" in metadata and not _is_texts(names, len(embeddings)):
        raise UserError(
            f"{where}: the metadata 'names' must be a JSON list of {len(embeddings)} texts, one for each row of 'text'"
        )
    return TextTable(embeddings.float(), None if names is None else tuple(names), metadata.get("made_by", "unknown"))


def _is_texts(value: object, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(isinstance(text, str) for text in value)


def _metadata(data: bytes) -> dict[str, str]:
    """The header of a .safetensors file: 8 bytes of its length, then JSON."""
    length = int.from_bytes(data[:8], "little")
    found: dict[str, str] = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    return found
