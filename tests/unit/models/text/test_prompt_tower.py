"""Towers that take embeddings of tokens say what they say of the texts themselves."""

import open_clip
import pytest
import torch
from torch.nn.functional import normalize

from foodseg.classes import ClassTable
from foodseg.config.text import TextConfig
from foodseg.errors import UserError
from foodseg.models.clip.towers import find_clip, load_clip_towers
from foodseg.models.text.class_embeddings import TextTable, read_table
from foodseg.models.text.embed import embed_names, load_minilm
from foodseg.models.text.prompt_tower import ClipTower, MiniLMTower, build_tower, words_of_rows
from tests.support.compare import assert_close
from tests.support.tiny_checkpoints import write_clip

TEXTS = ["rice", "battered fried tempeh", "a photo of a bowl of soup"]


def embedded(tower, texts) -> torch.Tensor:
    """All texts together, padded."""
    rows = [[tower.first, *tower.token_ids(text), tower.last] for text in texts]
    tokens = torch.zeros(len(rows), max(map(len, rows)), tower.width)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = tower.embedded(ids)
    return tower(tokens, torch.tensor([len(ids) for ids in rows]))


def test_minilm():
    found = embedded(MiniLMTower(), TEXTS)
    expected = load_minilm()[0].encode(TEXTS, convert_to_tensor=True, show_progress_bar=False)
    assert_close(found, expected)


def test_clip(tmp_path):
    folder = write_clip(tmp_path / "clip")
    config = TextConfig(kind="open_clip", model=folder)
    found = embedded(ClipTower(config), TEXTS)
    towers = load_clip_towers(find_clip(folder, None, None, "model.text"), torch.device("cpu"))
    assert isinstance(towers.model, open_clip.CLIP)
    with torch.no_grad():
        assert_close(found, normalize(towers.model.encode_text(towers.tokenizer(TEXTS)), dim=1))


def test_a_permuted_table_was_made_as_its_words_say(tmp_path):
    """What stage two starts from is what stage one had, but for the context."""
    (tmp_path / "classes.tsv").write_text("0\tbackground\n1\trice\n2\tcheese butter\n3\tfried tofu\n")
    embed_names(str(tmp_path / "classes.tsv"), str(tmp_path / "t.safetensors"), permute=5)
    table = read_table(str(tmp_path / "t.safetensors"))
    assert table.names is not None
    words = words_of_rows(table, ClassTable(table.names))
    tower = build_tower(TextConfig(kind="table", table="t"), table)
    for row, own in zip(table.embeddings[1:], words, strict=True):
        assert_close(row, normalize(embedded(tower, own).mean(0), dim=0))


def test_a_table_without_an_encoder_is_refused():
    table = TextTable(torch.zeros(3, 4), None, "random unit vectors, seed 0")
    with pytest.raises(UserError, match=r"encoder that made model.text.table, which is random unit vectors, seed 0"):
        build_tower(TextConfig(kind="table", table="t"), table)


def test_permuted_rows_have_the_words_of_other_names():
    classes = ClassTable(("background", "rice", "cheese butter", "fried tofu"))
    plain = TextTable(torch.zeros(4, 2), classes.names, "all-MiniLM-L6-v2 (...), a sentence encoder")
    assert words_of_rows(plain, classes) == [["rice"], ["cheese", "butter"], ["fried tofu"]]
    permuted = TextTable(torch.zeros(4, 2), classes.names, f"{plain.made_by}; names permuted, seed 1")
    found = words_of_rows(permuted, classes)
    assert sorted(found) == sorted(words_of_rows(plain, classes))
    assert all(own != other for own, other in zip(found, words_of_rows(plain, classes), strict=True))
