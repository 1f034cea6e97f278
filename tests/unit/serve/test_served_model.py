"""A checkpoint behind the endpoint: batches, warm-up, release; and the packing of its answers."""

from pathlib import Path

import numpy as np
import pytest

from foodseg.checkpoint.checkpoint import load_checkpoint, load_model
from foodseg.errors import UserError
from foodseg.predict.device import pick_device
from foodseg.predict.ingredients import mean_confidences
from foodseg.predict.predictor import Predictor
from foodseg.serve.packing import pack_labels, pack_regions, unpack_labels, unpack_regions
from foodseg.serve.protocols import Labelled, SamMask
from foodseg.serve.served_model import ServedModel, checkpoint_sha
from tests.support.compare import CLOSE_CALL, assert_same_ids, close, scores_of
from tests.support.tiny_checkpoints import meal, spoil, write_checkpoint


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_checkpoint(tmp_path_factory.mktemp("model") / "a", seed=1)


def test_a_batch_answers_as_each_image_alone_and_as_the_predictor(uri: str) -> None:
    served = ServedModel("meals", uri, checkpoint_sha(uri))
    loaded = load_checkpoint(uri)
    predictor = Predictor(load_model(loaded, "student"), loaded.config.eval, pick_device())
    images = [meal(seed, 120, 160) for seed in range(3)]
    assert served.canvas(120, 160) == (96, 96)  # 120 x 160 is shown as 72 x 96, and 72 is padded
    together = served.label(images, [(120, 160)] * 3, confidence_below=0.5)
    for image, answer in zip(images, together, strict=True):
        (logits,) = predictor.logits([image], [(120, 160)])
        ids, confidence = logits.ids_and_confidence(1.0)
        assert len(np.unique(ids)) > 2
        assert_same_ids(answer.ids, ids, scores_of(logits))
        from_half = confidence / 65535 - 0.5
        decided = np.abs(from_half) > CLOSE_CALL
        np.testing.assert_array_equal(answer.low_confidence[decided], from_half[decided] < 0)
        means = mean_confidences(answer.ids, confidence, len(loaded.classes))
        assert answer.confidences == close({i: means[i] for i in np.unique(answer.ids).tolist()})
        assert (answer.model, answer.sha) == ("meals", checkpoint_sha(uri))
        (alone,) = served.label([image], [(120, 160)])
        assert_same_ids(alone.ids, ids, scores_of(logits))
        assert alone.low_confidence is None


def test_released_weights_are_loaded_again(uri: str) -> None:
    served = ServedModel("meals", uri, checkpoint_sha(uri))
    image = meal(1, 96, 96)
    (before,) = served.label([image], [(96, 96)])
    served.release()
    (after,) = served.label([image], [(96, 96)])
    np.testing.assert_array_equal(before.ids, after.ids)


def test_a_damaged_or_changed_checkpoint_is_refused(uri: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="torn"):
        torn = spoil(write_checkpoint(tmp_path / "b", seed=2))
        ServedModel("meals", torn, checkpoint_sha(torn))
    with pytest.raises(UserError, match="changed"):
        ServedModel("meals", uri, "0" * 64)


def test_packing_is_lossless() -> None:
    random = np.random.default_rng(0)
    masks = [SamMask(random.random((7, 13)) < 0.5, 0.5 + i / 10) for i in range(3)]
    back = unpack_regions(pack_regions(masks))
    assert [mask.score for mask in back] == [0.5, 0.6, 0.7]
    for mask, same in zip(masks, back, strict=True):
        assert same.mask.dtype == bool
        np.testing.assert_array_equal(mask.mask, same.mask)
    assert unpack_regions(pack_regions([])) == []
    labelled = Labelled(random.integers(0, 9, (5, 6), dtype=np.uint8), masks[0].mask[:5, :6], {1: 0.5}, "m", "s")
    packed = unpack_labels(pack_labels(labelled))
    np.testing.assert_array_equal(packed.ids, labelled.ids)
    np.testing.assert_array_equal(packed.low_confidence, labelled.low_confidence)
    wide = np.full((40, 30), 300, np.uint16)
    wide[3:9, 4:] = 7
    packed = pack_labels(Labelled(wide, None, {}, "m", "s"))
    assert packed.ids.ends.tolist()[:3] == [94, 120, 124]  # 3 rows and 4 pixels; a row ends; the next row begins
    assert packed.ids.values.nbytes + packed.ids.ends.nbytes == 13 * 6
    back = unpack_labels(packed)
    assert (back.ids.dtype, back.low_confidence) == (np.uint16, None)
    np.testing.assert_array_equal(back.ids, wide)
