"""Several prepared data sets as one: rows, sources, counts, weights."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from foodseg.config.augment import AugmentConfig
from foodseg.config.data import DataConfig, WeightedData
from foodseg.data.batch import read_batches
from foodseg.data.concat import concat_manifests, training_manifest
from foodseg.data.reader import RowReader
from foodseg.data.sampler import rank_blocks
from foodseg.data.shards import Manifest, read_manifest, write_manifest
from foodseg.data.training_rows import training_order
from foodseg.demo.synthetic import SYNTHETIC_CLASSES
from foodseg.errors import UserError
from tests.support.synthetic_set import write_synthetic


def change(uri: str, **values: object) -> str:
    write_manifest(uri, read_manifest(uri).model_copy(update=values))
    return uri


@pytest.fixture(scope="module")
def uris(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """12, 3 and 5 training images; the second set annotates two ids, the third has the first one's name."""
    folder = tmp_path_factory.mktemp("sets")
    sets = [
        write_synthetic(folder / "a", 12, 4, 4),
        write_synthetic(folder / "b", 3, 2, 1),
        write_synthetic(folder / "c", 5, 1, 1),
    ]
    change(sets[1], name="lunches", annotated={"synthetic": (0, 1, 2)}, audit={"jpeg": 2})
    return sets


def config(uris: Sequence[str], weights: Sequence[float] = (1, 1, 1), **values: object) -> DataConfig:
    entries = tuple(WeightedData(uri=uri, weight=weight) for uri, weight in zip(uris, weights, strict=True))
    return DataConfig(uris=entries, **values)  # type: ignore[arg-type]


def test_one_data_set_is_unchanged(uris: list[str]) -> None:
    assert training_manifest(DataConfig(uri=uris[0])) == read_manifest(uris[0])


def test_the_concatenated_manifest(uris: list[str]) -> None:
    parts = [read_manifest(uri) for uri in uris]
    combined = training_manifest(config(uris))
    assert combined.name == "synthetic+lunches+synthetic#3"
    assert combined.annotated == {
        "synthetic/synthetic": None,
        "lunches/synthetic": (0, 1, 2),
        "synthetic#3/synthetic": None,
    }
    assert combined.identity == " + ".join(part.identity for part in parts)
    assert combined.classes == SYNTHETIC_CLASSES.names and combined.audit == {"jpeg": 2}
    for split in ("train", "val", "test"):
        own = [part.counts[split] for part in parts]
        assert combined.counts[split].images == sum(counts.images for counts in own)
        assert combined.counts[split].unlabelled == 3
        assert combined.counts[split].class_pixels == tuple(np.sum([c.class_pixels for c in own], 0).tolist())
        assert combined.counts[split].class_images == tuple(np.sum([c.class_images for c in own], 0).tolist())
    assert Manifest.model_validate(combined.model_dump(mode="json")) == combined, "as it travels to the workers"


def test_rows_are_those_of_each_set_in_turn(uris: list[str]) -> None:
    combined = RowReader("", training_manifest(config(uris)), ["train"])
    parts = [RowReader(uri, read_manifest(uri), ["train"]) for uri in uris]
    assert len(combined) == 20 and combined.shard_rows == [6, 6, 1, 2, 2, 3]
    expected = [row for part in parts for row in part.take(range(len(part))).to_pylist()]
    for row, name in zip(expected, ["synthetic"] * 12 + ["lunches"] * 3 + ["synthetic#3"] * 5, strict=True):
        row["source"] = f"{name}/synthetic"
    assert combined.take(range(20)).to_pylist() == expected
    assert combined.take([19, 0, 13]).to_pylist() == [expected[19], expected[0], expected[13]]
    assert combined.column("source").to_pylist() == [row["source"] for row in expected]
    assert combined.take([13], ["image_id"]).column_names == ["image_id"]


def test_batches_name_the_source_of_their_set(uris: list[str]) -> None:
    data = config(uris)
    manifest = training_manifest(data)
    reader = RowReader("", manifest, ["train"])
    order = training_order(reader, data, seed=0, global_batch=4)
    augment = AugmentConfig(longest_side=32, crop=32)
    batches = list(read_batches(reader, order, augment, manifest, rank_blocks(0, 5, 4, 1), 4))
    sources = [s for batch in batches for s in batch.source.tolist()]
    rows = order.rows(0, 20)[1]
    assert sources == [0 if row < 12 else 1 if row < 15 else 2 for row in rows]
    assert sorted(rows) == list(range(20))


@pytest.mark.parametrize("weights", [(1, 4, 2), (0.5, 2, 1), (0.25, 1, 3.5)])
def test_weights_are_draws_per_epoch(uris: list[str], weights: tuple[float, ...]) -> None:
    data = config(uris, weights)
    order = training_order(RowReader("", training_manifest(data), ["train"]), data, seed=1, global_batch=2)
    length = round(float(np.dot(weights, [12, 3, 5])))
    assert order.epoch_length == length
    epochs = 100
    rows = order.rows(0, epochs * length)[1]
    draws = np.stack([np.bincount(rows[e * length : (e + 1) * length], minlength=20) for e in range(epochs)])
    expected = np.repeat(weights, [12, 3, 5]) * length / np.dot(weights, [12, 3, 5])
    assert (draws >= np.floor(expected - 1e-9)).all() and (draws <= np.ceil(expected + 1e-9)).all()
    np.testing.assert_allclose(draws.mean(0), expected, atol=0.27)  # floor or ceil: 0.5 / sqrt(100), five deviations
    whole = [weight == int(weight) for weight in weights]
    if all(whole):
        assert (draws == np.repeat(weights, [12, 3, 5])).all()


def test_weights_multiply_repeat_factors(uris: list[str]) -> None:
    plain, weighted = (config(uris, weights, repeat_threshold=0.6) for weights in [(1, 1, 1), (1, 3, 2)])
    reader = RowReader("", training_manifest(plain), ["train"])
    factors = training_order(reader, plain, 0, 4)._repeats
    both = training_order(reader, weighted, 0, 4)._repeats
    ratio = both / (factors * np.repeat([1, 3, 2], [12, 3, 5]))
    np.testing.assert_allclose(ratio, ratio[0])  # but for the scale to a whole number of draws
    assert ratio[0] == pytest.approx(1, abs=0.05)


def test_weights_of_one_change_nothing(uris: list[str]) -> None:
    data = config(uris)
    reader = RowReader("", training_manifest(data), ["train"])
    assert training_order(reader, data, 0, 4)._repeats is None


def test_weights_that_leave_less_than_one_image_are_refused(uris: list[str]) -> None:
    data = config(uris, (0.1, 0.1, 0.1))
    reader = RowReader("", training_manifest(data), ["train"])
    assert training_order(reader, data, 0, 4).epoch_length == 2
    data = config(uris, (0.01, 0.01, 0.01))
    with pytest.raises(UserError, match=r"an epoch draws 0\.2 images, less than one: raise the weights"):
        training_order(RowReader("", training_manifest(data), ["train"]), data, 0, 4)


def test_other_label_spaces_are_refused(uris: list[str], tmp_path: Path) -> None:
    names = list(SYNTHETIC_CLASSES.names)
    names[3] = "mystery"
    other = change(write_synthetic(tmp_path / "d", 4, 1, 1), classes=tuple(names))
    with pytest.raises(UserError) as caught:
        training_manifest(config([uris[0], uris[1], other]))
    assert f"id 3 is {SYNTHETIC_CLASSES.names[3]!r} in {uris[0]} and 'mystery' in {other}" in str(caught.value)
    assert "foodseg data map" in str(caught.value)
    longer = read_manifest(uris[0]).model_copy(update={"classes": (*SYNTHETIC_CLASSES.names, "extra")})
    with pytest.raises(UserError, match=rf"id {len(SYNTHETIC_CLASSES)} is nothing in x and 'extra' in y"):
        concat_manifests(["x", "y"], [read_manifest(uris[0]), longer])


def test_a_set_that_has_nothing_to_train_on_is_refused(uris: list[str], tmp_path: Path) -> None:
    empty = read_manifest(uris[1])
    change(write_synthetic(tmp_path / "d", 2, 1, 1), shards=empty.shards[-1:], counts={"test": empty.counts["test"]})
    with pytest.raises(UserError, match=r"d holds no image of data.train_splits \['train'\]; it has test \(1\)"):
        training_manifest(config([uris[0], str(tmp_path / "d")], (1, 1)))
    with pytest.raises(UserError, match=r"no prepared data set at .*nowhere"):
        training_manifest(config([uris[0], str(tmp_path / "nowhere")], (1, 1)))


def test_a_concatenated_manifest_is_never_written(uris: list[str], tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        write_manifest(str(tmp_path), training_manifest(config(uris)))
    assert '"uri"' not in (Path(uris[0]) / "dataset.json").read_text()
