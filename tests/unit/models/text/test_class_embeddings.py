"""Tables of text embeddings: written, read, refused; words for odd names; pairs that are close."""

import importlib.resources
import json

import pytest
import safetensors.torch
import torch

from foodseg.classes import ClassTable
from foodseg.config.model import ModelConfig
from foodseg.errors import UserError
from foodseg.models.text.class_embeddings import (
    TextTable,
    class_text,
    closest_pairs,
    parse_table,
    read_table,
    table_bytes,
    with_background,
)
from foodseg.models.text.synonyms import sentences_of
from tests.support.compare import close

CLASSES = ClassTable(("background", "rice", "date", "fried tofu"))
EMBEDDINGS = torch.arange(12.0).view(4, 3)


def model_config(path) -> ModelConfig:
    return ModelConfig.model_validate({"fusion": "cross_attention", "text": {"kind": "table", "table": str(path)}})


def test_a_table_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "t.safetensors"
    path.write_bytes(table_bytes(TextTable(EMBEDDINGS, CLASSES.names, "by hand")))
    found = class_text(model_config(path), CLASSES)
    assert torch.equal(found.embeddings, EMBEDDINGS) and found.names == CLASSES.names and found.made_by == "by hand"
    assert safetensors.torch.load_file(path)["text"].dtype == torch.float32
    assert class_text(ModelConfig(), CLASSES) is None


def test_a_table_of_somebody_else_needs_no_names():
    table = parse_table(safetensors.torch.save({"text": EMBEDDINGS.half()}), "t")
    assert torch.equal(table.embeddings, EMBEDDINGS) and table.names is None and table.made_by == "unknown"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"no table", "is not a table of text embeddings"),
        (b"", "is not a table of text embeddings"),
        (safetensors.torch.save({"vectors": EMBEDDINGS}), r"is not a table of text embeddings.*'text'"),
        (safetensors.torch.save({"text": EMBEDDINGS[0]}), r"must be finite numbers \(ids, width\), found shape \[3\]"),
        (safetensors.torch.save({"text": EMBEDDINGS / 0}), "must be finite numbers"),
        (safetensors.torch.save({"text": EMBEDDINGS[:, :0]}), r"must be finite numbers .*, found shape \[4, 0\]"),
        (safetensors.torch.save({"text": EMBEDDINGS[:0]}), r"must be finite numbers .*, found shape \[0, 3\]"),
        (safetensors.torch.save({"text": EMBEDDINGS}, {"names": "["}), "is not a table of text embeddings"),
        *(
            (safetensors.torch.save({"text": EMBEDDINGS}, {"names": names}), "'names' must be a JSON list of 4 texts")
            for names in ("5", "null", '"rice"', '{"rice": 1}', '["background", "rice", "date"]', "[0, 1, 2, 3]")
        ),
        (safetensors.torch.save({"text": EMBEDDINGS[:3]}), "has 3 rows, but the label space 4 ids"),
        (
            safetensors.torch.save({"text": EMBEDDINGS}, {"names": json.dumps(["background", "rice", "fig", "tofu"])}),
            "was made for other names: id 2 is 'fig' there, but 'date' in the label space",
        ),
    ],
)
def test_refusals(data, words, tmp_path):
    (tmp_path / "t.safetensors").write_bytes(data)
    with pytest.raises(UserError, match=words) as error:
        read_table(str(tmp_path / "t.safetensors"), CLASSES)
    assert "\n" not in str(error.value) and "t.safetensors" in str(error.value)


def test_a_missing_table(tmp_path):
    with pytest.raises(UserError, match=r"none\.safetensors: no such file"):
        class_text(model_config(tmp_path / "none.safetensors"), CLASSES)


def test_odd_names_have_better_words():
    assert sentences_of("rice") == ["rice"]
    assert sentences_of("date") == ["date fruit"]
    assert sentences_of("hamburg") == ["hamburger"]


def test_every_synonym_belongs_to_a_name_of_the_official_lists(shared):
    folder = shared / "datasets"
    files = [folder / "classes" / "foodseg103.tsv", folder / "classes" / "uecfoodpix.tsv"]
    names = {name for path in [*files, folder / "foodmix" / "classes.txt"] for name in path.read_text().split("\n")}
    names = {line.partition("\t")[2] for line in names}
    lines = (
        importlib.resources.files("foodseg.models.text")
        .joinpath("synonyms.tsv")
        .read_text(encoding="utf-8")
        .splitlines()
    )
    odd = [line.split("\t")[0] for line in lines]
    assert odd == sorted(set(odd)) and set(odd) <= names
    assert all(word.strip() == word and word for line in lines for word in line.split("\t"))


def test_row_0_is_there_and_empty():
    assert with_background(EMBEDDINGS)[0].tolist() == [0, 0, 0] and torch.equal(
        with_background(EMBEDDINGS)[1:], EMBEDDINGS
    )


def test_closest_pairs():
    """Four corners about their mean (1, 1): neighbours are at right angles."""
    corner = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    pairs = closest_pairs(torch.cat([torch.full((1, 2), 9.0), corner + 1]), ["bg", "a", "b", "c", "d"], count=5)
    names = [first + second for first, second, _ in pairs]
    assert sorted(names[:4]) == ["ab", "ad", "bc", "cd"] and names[4] in ("ac", "bd")
    assert [cosine for *_, cosine in pairs] == pytest.approx([0, 0, 0, 0, -1], abs=1e-5)
    near = torch.tensor([[2.0, 0.0], [2.0, 0.2], [-4.0, -0.2]])  # their mean is 0
    (first, second, cosine), *_ = closest_pairs(torch.cat([near[:1], near]), ["bg", "a", "b", "c"])
    assert (first, second) == ("a", "b") and cosine == close(1 / 1.01**0.5)
