"""Folders of results in S3: files of others and inputs are kept, files of the same command are replaced."""

import io
import uuid

import numpy as np
import pytest
from PIL import Image

from foodseg import storage
from foodseg.classes import ClassTable
from foodseg.errors import UserError
from foodseg.eval.predictions import find_predictions
from foodseg.predict.image_list import list_images
from foodseg.storage.outputs import claim_outputs, written_names
from tests.conftest import BUCKET


@pytest.fixture
def prefix(s3) -> str:
    return f"s3://{BUCKET}/outputs-{uuid.uuid4().hex}"


def test_results_in_s3_replace_only_results(prefix):
    out, name = f"{prefix}/out", "lunch #1 50%.png"
    for content in (b"1", b"2"):
        with claim_outputs(out, [name, "other.png"], by="predict", inputs=[f"{prefix}/photos/{name}"]) as outputs:
            outputs.write_bytes(name, content)
    assert storage.read_bytes(storage.join(out, name)) == b"2" and written_names(out) == {name}
    with pytest.raises(UserError, match="which is read here and would be replaced"):
        claim_outputs(f"{out}/", [name], by="predict", inputs=[storage.join(out, name)])
    with pytest.raises(UserError, match="is there already, and `foodseg evaluate` did not write it"):
        claim_outputs(out, [name], by="evaluate")
    for there in ("lunch.png", "Dinner.PNG"):
        storage.write_bytes(storage.join(out, there), b"mine")
        with pytest.raises(UserError, match=f"{there} is there already"):
            claim_outputs(out, [there.lower()], by="predict")
    storage.write_bytes(storage.join(out, name), b"edited")
    with pytest.raises(UserError, match="is there already"):
        claim_outputs(out, [name], by="predict")
    # a name with the same prefix is another one
    claim_outputs(prefix, ["out.png", "ou"], by="predict")


def test_images_and_label_maps_below_a_prefix(prefix):
    sink = io.BytesIO()
    Image.fromarray(np.zeros((2, 3), np.uint8)).save(sink, "PNG")
    for name in ("a.png", "b.PNG", "c_mask.png", "notes.txt", "deep/d.png"):
        storage.write_bytes(storage.join(prefix, name), sink.getvalue())
    expected = [storage.join(prefix, name) for name in ("a.png", "b.PNG", "c_mask.png")]
    assert list_images([prefix]) == list_images([f"{prefix}/"]) == expected
    assert list_images([f"{prefix}/a.png", f"{prefix}/nowhere.png"]) == [f"{prefix}/a.png", f"{prefix}/nowhere.png"]
    labels = find_predictions(prefix, ClassTable(("background", "rice")), ["a", "b", "c", "d"])
    assert labels.files == {"a": "a.png", "b": "b.PNG", "c": "c_mask.png"}
    assert labels("b", b"", (2, 3)).ids.tolist() == [[0, 0, 0], [0, 0, 0]]
    with pytest.raises(UserError, match=r"d\.png is missing"):
        labels("d", b"", (2, 3))
