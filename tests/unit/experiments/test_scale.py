"""Many images from a few, and the growth of memory."""

from pathlib import Path

import numpy as np
from PIL import Image

from experiments.scale.large_prepare import DRIVER, Requests, Sample, by_kind, memory, rates, totals
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


def test_requests_by_kind_and_what_was_asked_for_twice() -> None:
    requests, work = Requests(), "large/prepared/v-1-0/.work"
    for method, key in (
        ("GET", "large/source/images/a-00000.jpg"), ("GET", "large/source/images/a-00000.jpg"),
        ("GET", "large/source/masks/a-00000.png"), ("GET", "large/source/classes.txt"), ("PUT", f"{work}/audit/000000"),
        ("PUT", f"{work}/audit/000001"), ("PUT", f"{work}/content/000000-abc"), ("GET", f"{work}/audit/000000"),
        ("PUT", f"{work}/shards/train-00000-abc"), ("PUT", "large/prepared/v-1-0/train/part-00000.parquet"),
        ("GET", "large"), ("GET", "large"), ("PUT", "large/prepared/dataset.json"),
    ):  # fmt: skip
        requests[method, key] += 1
    assert requests.objects["PUT", "audit"] == 2 and requests.objects["GET", "source images"] == 1
    assert by_kind(requests) == {
        "GET audit": 1, "GET other": 2, "GET source": 1, "GET source images": 2, "GET source masks": 1, "PUT audit": 2,
        "PUT content": 1, "PUT other": 1, "PUT results of shards": 1, "PUT shards": 1,
    }  # fmt: skip
    found = totals(requests, 4)
    assert found["twice"] == {"GET source images": 1} and found["requests_per_image"]["GET source images"] == 0.5


def test_growth_and_rates_by_hand() -> None:
    first, second = [], []
    for at in range(11):  # 160 images a second; the driver takes 50 bytes of each, and a worker ends
        sizes = {DRIVER: 1000 + 8000 * at, **({"ray::a": 500} if at < 3 else {})}
        first.append(Sample(float(at), 10 * at, 0, sizes))
    second += [Sample(50.0, 100, 0, {DRIVER: 5}), Sample(52.0, 100, 1, {DRIVER: 5}), Sample(55.0, 100, 5, {DRIVER: 5})]
    found = memory([first, second], 1600)
    assert found["bytes_per_image_while_auditing"] == {DRIVER: 50}
    assert found["peak_mib"] == {DRIVER: 0.1, "ray::a": 0.0}
    figures = rates([first, second], 1600)
    assert figures["audited_per_second"] == 160 and figures["seconds_of_comparing"] == 3
    hours = {"hours_of_auditing": 17.4, "hours_of_comparing": round(3 * 6250**2 / 3600, 1)}
    assert figures["ten_million"] == hours
