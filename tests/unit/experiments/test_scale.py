"""Many images from a few, and the growth of memory."""

from pathlib import Path

import numpy as np
from PIL import Image

from experiments.scale.run import memory_ratio, write_repeated
from foodseg.demo.synthetic import write_meals
from foodseg.prepare.formats.detect import list_source


def test_repeated_images_are_new_files_with_the_same_masks(tmp_path: Path) -> None:
    meals = tmp_path / "meals"
    write_meals(meals, train=3, test=2, seed=0, longest_side=64)
    write_repeated(meals, tmp_path / "many", 12)  # five images, twice and two more
    copy = list_source(str(tmp_path / "many"))
    splits = [record.split for record in copy.records]
    assert (splits.count("train"), splits.count("test")) == (8, 4)
    files = [(tmp_path / "many" / "images" / f"{record.image_id}.jpg").read_bytes() for record in copy.records]
    assert len(set(files)) == 12
    masks = {record.image_id: record.mask for record in list_source(str(meals)).records}
    for record in copy.records:
        first = masks[record.image_id.rsplit("-", 1)[0]]
        assert record.mask is not None and first is not None
        assert np.array_equal(record.mask.read(), first.read())
    with Image.open(tmp_path / "many" / "images" / "synthetic__0001-002.jpg") as image:
        assert max(image.size) == 64


def test_memory_ratio_by_hand() -> None:
    few = {"largest_process_mib": 100.0, "processes_mib": {"raylet": 100.0, "python": 50.0, "ended": 0.0, "once": 1.0}}
    many = {"largest_process_mib": 150.0, "processes_mib": {"raylet": 110.0, "python": 150.0, "ended": 1.0, "new": 9.0}}
    assert memory_ratio(few, many) == {"largest_process": 1.5, "processes": {"raylet": 1.1, "python": 3.0}}
