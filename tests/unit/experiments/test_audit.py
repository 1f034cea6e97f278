"""What is taken from the answer of `data inspect`."""

import pytest

from experiments.audit.run import twins
from experiments.item_queue import ItemError


def test_twins_by_hand() -> None:
    near = {"finding": "near_duplicate", "image_id": "a", "split": "test", "other_id": "b", "other_split": "train"}
    inspected = {
        "data": "meals@v1-0",
        "audit": [{"finding": "grey", "count": 4}, {"finding": "near_duplicate", "count": 2}],
        "findings": [near, {**near, "other_id": "c"}, {**near, "finding": "grey"}],
        "shared_groups": [
            {"split": "test", "other": "train", "images": 1}, {"split": "train", "other": "test", "images": 2},
        ],
        "images": {"contact_sheet": "/home/me/look/contact_sheet.png"},
    }  # fmt: skip
    assert twins(inspected) == {
        "findings": {"grey": 4, "near_duplicate": 2},
        "near_duplicate_pairs": 2,
        "shared_groups": {"test with one in train": 1, "train with one in test": 2},
        "test_images_with_a_twin_in_train": 1,
        "images": {"contact_sheet": "contact_sheet.png"},
    }
    assert twins({**inspected, "shared_groups": []})["test_images_with_a_twin_in_train"] == 0
    with pytest.raises(ItemError, match="meals@v1-0 was prepared without findings"):
        twins({**inspected, "findings": None})
