"""`evaluate`, `predict`, the endpoint and Python find the same ids: alone, in batches, whole, in windows, conditioned.

Each is taken as far as it goes without Ray: the labeller that scoring processes build, the function behind the command,
and the model that a replica holds, with the endpoint's own decoding.
"""

from pathlib import Path

import numpy as np
import pytest

import foodseg
from foodseg.checkpoint.checkpoint import load_checkpoint, load_model
from foodseg.config.serve import ImageConfig
from foodseg.data.image_io import decode_mask, image_size
from foodseg.demo.synthetic import SYNTHETIC_CLASSES
from foodseg.errors import UserError
from foodseg.eval.subject import CheckpointLabeller
from foodseg.predict.device import pick_device
from foodseg.predict.label import label_images
from foodseg.predict.predictor import Predictor
from foodseg.serve.http.codec import read_image
from foodseg.serve.served_model import ServedModel, checkpoint_sha
from tests.support.compare import assert_same_ids, scores_of
from tests.support.synthetic_set import write_table
from tests.support.tiny_checkpoints import meal, png, write_checkpoint, write_open_vocabulary

PHOTOGRAPHS = 30
PROVIDED = (1, 3)  # ids
CASES = {
    "whole": (),
    "windows": ("eval.window=48",),
    "predicted": (
        "eval.ingredients=predicted", "eval.restrict=soft", "model.ingredient_head=true", "loss.ingredients=0.1",
    ),
    "scales": ("eval.scales=[0.75,1.25,1]", "eval.flip=true"),
    "adjusted": ("eval.logit_adjustment=0.5",),
    "open vocabulary": (),
    "provided, windows": ("eval.ingredients=provided", "eval.restrict=hard", "eval.window=48"),
}  # fmt: skip


@pytest.fixture(scope="module", params=["meals", pytest.param("photographs", marks=pytest.mark.chaos)])
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    if request.param == "photographs":
        folder: Path = request.getfixturevalue("shared") / "datasets" / "foodmix_small" / "images"
        found = [str(path) for path in sorted(folder.iterdir())[: 2 * PHOTOGRAPHS : 2]]
        assert len(found) == PHOTOGRAPHS
        return found
    folder = tmp_path_factory.mktemp("meals")
    sizes = [(60, 90), (96, 128), (90, 60), (61, 90), (33, 97), (128, 128)]
    for seed, size in enumerate(sizes):
        (folder / f"{seed}.png").write_bytes(png(meal(seed, *size)))
    return [str(path) for path in sorted(folder.iterdir())]


@pytest.mark.parametrize("case", CASES)
def test_every_way_to_label_an_image_finds_the_same_ids(case: str, files: list[str], tmp_path: Path) -> None:
    conditioned = "eval.ingredients=provided" in CASES[case]
    text = f"{{kind: table, table: {write_table(tmp_path / 't.safetensors')}}}"
    fusion = ["model.fusion=cross_attention", f"model.text={text}"] if conditioned or "predicted" in case else []
    if case == "open vocabulary":
        uri = write_open_vocabulary(tmp_path / "c")
    else:
        uri = write_checkpoint(tmp_path / "c", 1, "eval.longest_side=64", *fusion, *CASES[case])
    loaded = load_checkpoint(uri)
    data = [Path(file).read_bytes() for file in files]

    listed = dict.fromkeys(files, PROVIDED) if conditioned else None
    labeller = CheckpointLabeller(uri, loaded.config, listed)("auto")
    evaluated = [labeller(file, image, image_size(image)).ids for file, image in zip(files, data, strict=True)]

    names = ", ".join(SYNTHETIC_CLASSES.names[index] for index in PROVIDED) if conditioned else None
    done = label_images(uri, files, str(tmp_path / "out"), ingredients=names)
    assert not done.refused
    predicted = [decode_mask(Path(result.label_map).read_bytes()) for result in done.images]

    served = ServedModel("meals", uri, checkpoint_sha(uri))
    images = [read_image(image, ImageConfig()).image for image in data]
    sizes = [image.shape[:2] for image in images]
    assert len({served.canvas(*size) for size in sizes}) < len(sizes), "some images share a batch"
    provided = [PROVIDED] * len(images) if conditioned else None
    together = [answer.ids for answer in served.label(images, sizes, provided=provided)]
    alone = [
        served.label([image], [size], provided=None if provided is None else [PROVIDED])[0].ids
        for image, size in zip(images, sizes, strict=True)
    ]

    model = foodseg.load(uri)
    listed_names = None if names is None else names.split(", ")
    in_python = [found.ids for found in model.predict(files, ingredients=listed_names, batch_size=4)]
    from_arrays = [found.ids for found in model.predict(images, ingredients=names)]

    network = load_model(loaded, "student")
    predictor = Predictor(network, loaded.config.eval, pick_device(), class_pixels=loaded.class_pixels)
    for index, image in enumerate(data):
        for found in (predicted, alone, together, in_python, from_arrays):
            if not np.array_equal(found[index], evaluated[index]):  # rounding, if at all
                scores = scores_of(predictor.logits_of_file(image, PROVIDED if conditioned else None))
                assert_same_ids(found[index], evaluated[index], scores)
    assert len(np.unique(np.concatenate([ids.ravel() for ids in evaluated]))) > 2, "more than one answer everywhere"


def test_other_names_are_labelled_as_in_python(files: list[str], tmp_path: Path) -> None:
    uri = write_open_vocabulary(tmp_path / "open")
    names = ["white rice", "kimchi|gimchi"]
    served = ServedModel("open", uri, checkpoint_sha(uri))
    assert served.card.open_vocabulary
    model = foodseg.load(uri).with_names(names)
    for file in files:
        image = read_image(Path(file).read_bytes(), ImageConfig()).image
        found = served.label_names(image, names, [], "none")
        expected = model.predict(image)
        assert np.array_equal(found.ids, expected.ids) and set(found.confidences) == set(np.unique(found.ids))
    # how often the trained classes occur says nothing of other names
    adjusted = foodseg.load(uri, overrides=["eval.logit_adjustment=0.5"]).with_names(names)
    assert np.array_equal(adjusted.predict(image).ids, expected.ids)
    with_classes = write_checkpoint(tmp_path / "c", 1)
    other = ServedModel("meals", with_classes, checkpoint_sha(with_classes))
    assert not other.card.open_vocabulary
    with pytest.raises(UserError, match="knows the 13 classes that it was trained on alone"):
        other.know(names)
