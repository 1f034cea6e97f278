"""The model card: metadata as the hub reads them, scores with their conditions, nothing that was not measured."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

import foodseg
from foodseg.checkpoint.checkpoint import load_checkpoint, load_model, save_checkpoint
from foodseg.checkpoint.history import Validation
from foodseg.checkpoint.model_card import card_scores, evaluation_score, model_card, validation_score
from foodseg.config.marks import without_locations
from foodseg.errors import UserError
from tests.support.api_world import write_api_world
from tests.support.hub_server import _yaml_errors

VALIDATION = Validation(step=1, miou=0.4321, aacc=0.8, macc=0.5, miou_student=0.4321)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`runs/a`, and the same with a validation after its last update as `runs/validated`."""
    folder = tmp_path_factory.mktemp("card")
    write_api_world(folder)
    loaded = load_checkpoint(str(folder / "runs" / "a"), with_trainer=True)
    save_checkpoint(str(folder / "runs" / "validated"), replace(loaded, history=[VALIDATION]))
    return folder


@pytest.fixture(autouse=True)
def inside(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)


def card_of(model: foodseg.Segmenter, folder: Path, **arguments: object) -> ModelCard:
    """What the hub makes of the README.md of a saved model."""
    text = Path(model.save_pretrained(folder, **arguments), "README.md").read_text()  # type: ignore[arg-type]
    assert _yaml_errors(text) == []
    return ModelCard(text)


def test_a_model_that_was_never_scored_has_no_scores(tmp_path: Path) -> None:
    card = card_of(foodseg.load("runs/a"), tmp_path / "meals")
    assert card.data.to_dict() == {
        "library_name": "foodseg",
        "pipeline_tag": "image-segmentation",
        "tags": ["foodseg", "food", "semantic-segmentation"],
        "model_name": "meals",
    }
    assert "None: the last update of training was not validated, and no evaluation was given." in card.text
    assert "Not stated: to be filled in by who publishes this model" in card.text
    assert "synthetic@v1-0123456789ab" in card.text and "12 ingredients and background" in card.text
    assert not re.search(r"mIoU|%|accuracy", card.text)


def test_scores_stand_with_their_conditions(tmp_path: Path) -> None:
    model = foodseg.load("runs/validated")
    own = foodseg.evaluate(model, "prepared/meals", "test", test_log=str(tmp_path / "log"))
    larger = foodseg.evaluate(model, "prepared/meals", "val", overrides=["eval.longest_side=96"])
    card = card_of(model, tmp_path / "meals", evaluations=[own, larger], license="cc-by-4.0")
    assert card.data.license == "cc-by-4.0" and "`cc-by-4.0`, as the metadata says." in card.text
    results = card.data.eval_results
    assert results is not None
    assert [(each.dataset_name, each.dataset_split, each.metric_type, each.metric_value) for each in results] == [
        ("synthetic@v1-0123456789ab", "val", "mean_iou", 0.4321),
        (own.data, "test", "mean_iou", round(own.evaluation.scores.miou, 4)),
        (larger.data, "val", "mean_iou", round(larger.evaluation.scores.miou, 4)),
    ]
    assert {each.metric_name for each in results} == {"mIoU (student weights, ingredients vocabulary, restrict none)"}
    rows = [line.split(" | ") for line in card.text.splitlines() if line.startswith("| ")][1:]
    conditions = ["student", "vocabulary", "none"]
    assert [row[1:6] for row in rows] == [
        ["val", "all of the split", *conditions], ["test", "3", *conditions], ["val", "2", *conditions],
    ]  # fmt: skip
    assert rows[0][6:] == ["43.2", "not recorded", "50.0", "80.0", "validation in training |"]
    assert rows[1][6] == f"{100 * own.evaluation.scores.miou:.1f}" and rows[1][-1] == "foodseg evaluate |"
    assert rows[2][-1] == "foodseg evaluate, longest_side 96 |"
    assert "also chooses among the checkpoints" in card.text


def test_an_evaluation_takes_the_row_of_the_validation_that_it_repeats() -> None:
    checkpoint = load_checkpoint("runs/a")
    uri = str(Path.cwd() / "runs" / "a")
    found = foodseg.evaluate(uri, "prepared/meals")
    scores = found.evaluation.scores
    same = Validation(1, scores.miou, scores.aacc, scores.macc, scores.miou)
    validated = replace(checkpoint, history=[same], data=found.data)
    (row,) = card_scores(validated, uri, [found.to_json()])
    assert (row.images, row.by) == (2, "foodseg evaluate")
    other = replace(same, miou=same.miou + 0.25)
    assert len(card_scores(replace(validated, history=[other]), uri, [found.to_json()])) == 2


def test_an_oracle_is_called_one() -> None:
    checkpoint = load_checkpoint("runs/validated")
    found = validation_score(checkpoint)
    assert found is not None and "oracle" not in model_card(checkpoint, "a/b", [found])
    assert "an oracle" in model_card(checkpoint, "a/b", [replace(found, ingredients="provided")])


def test_other_objects_are_no_evaluations(tmp_path: Path) -> None:
    model = foodseg.load("runs/a")
    for evaluations in ([{"miou": 1}], foodseg.evaluate(model, "prepared/meals")):
        with pytest.raises(UserError, match=r"^evaluations is a list of what foodseg\.evaluate returns"):
            model.save_pretrained(tmp_path / "out", evaluations=evaluations)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_scores_of_another_model_are_refused(tmp_path: Path) -> None:
    other = foodseg.evaluate("runs/a", "prepared/meals")
    with pytest.raises(UserError, match=r"one is of .*/runs/a, step 1, and the model is .*/runs/validated, step 1"):
        foodseg.load("runs/validated").save_pretrained(tmp_path / "out", evaluations=[other])
    assert not (tmp_path / "out").exists()
    label_maps = {"predictions": "peer/maps", "scores": {}, "data": "meals", "split": "val", "images": 2}
    with pytest.raises(UserError, match="one is of peer/maps, step None"):
        evaluation_score(label_maps, "runs/a", load_checkpoint("runs/a"))


def test_a_validation_before_the_last_update_is_not_shown() -> None:
    checkpoint = load_checkpoint("runs/validated")
    assert validation_score(replace(checkpoint, step=2)) is None


def test_ids_that_were_never_trained_are_named() -> None:
    checkpoint = load_checkpoint("runs/a")
    text = model_card(replace(checkpoint, trained_ids=(0, 1, 2, 3)), "owner/name", [])
    assert "3 of the\n12 ingredients have pixels in its training splits; the model has never seen " in text
    assert "hf://owner/name" in text and checkpoint.classes.names[4] in text.split("never seen ")[1]


def test_what_is_saved_is_the_model_and_nothing_else(tmp_path: Path) -> None:
    model = foodseg.load("runs/validated", overrides=["eval.longest_side=48"])
    assert model.save_pretrained(str(tmp_path / "out")) == str(tmp_path / "out")
    before, after = load_checkpoint("runs/validated"), load_checkpoint(str(tmp_path / "out"))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert "trainer.pt" not in names and after.trainer is None and "README.md" in names
    assert (after.step, after.data, after.trained_ids, after.history) == (
        before.step, before.data, before.trained_ids, before.history,
    )  # fmt: skip
    assert after.config.eval.longest_side == 48, "saved as it is used"
    for name, tensor in load_model(before, "student").state_dict().items():
        assert torch.equal(load_model(after, "student").state_dict()[name], tensor)
    with pytest.raises(UserError, match="is not empty: name a folder that is new"):
        model.save_pretrained(tmp_path / "out")


def test_no_location_is_published() -> None:
    checkpoint = load_checkpoint("runs/a")
    tree = checkpoint.config.model_dump(mode="json")
    tree["data"] |= {"uri": "s3://bucket/private/meals?region=eu-1"}
    tree["run"] |= {"uri": "/home/somebody/runs/a"}
    private = type(checkpoint.config).model_validate(tree)
    published = without_locations(private)
    assert (published.data.uri, published.run.uri) == ("meals", "a")
    assert published.model == private.model and published.optim == private.optim
    said = json.dumps(published.model_dump(mode="json"))
    assert not re.search("private|somebody|bucket", said)


def test_an_open_vocabulary_model_says_what_it_is(tmp_path: Path) -> None:
    model = foodseg.load("runs/open")
    assert "open vocabulary" in repr(model)
    text = card_of(model.with_names("kimchi, carrot"), tmp_path / "open").text
    assert "Open vocabulary: frozen test_vit, compared with what class embeddings of all-MiniLM-L6-v2" in text
    assert "it is not CLIP" in text and "FPN" not in text
    # what is saved is the whole model, with the classes that it was fitted to
    again = foodseg.load(str(tmp_path / "open"))
    assert again.classes == model.classes and again.with_names("rice").classes == ("background", "rice")
