"""SAM: real weights on real images, a tiny one with random weights against the package's own classes, refusals."""

from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import safetensors.torch
import segment_anything
import torch
from segment_anything import SamAutomaticMaskGenerator, SamPredictor
from segment_anything.build_sam import _build_sam
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from foodseg.data.image_io import decode_image
from foodseg.errors import UserError
from foodseg.models.sam.embedding import SamEmbedding, SamMask
from foodseg.models.sam.mask_grid import MaskGrid
from foodseg.models.sam.mobile_sam import TinyEncoder
from foodseg.models.sam.sam import SamModel, load_sam
from tests.support.compare import assert_close, close

CPU = torch.device("cpu")


# --- real weights ---


@pytest.fixture(scope="module")
def mobile(shared) -> SamModel:
    grid = MaskGrid(points_per_side=3, settled=0)
    return load_sam("vit_t", str(shared / "weights" / "mobile_sam.safetensors"), CPU, grid)


CARROTS = ("foodseg103_sample__00000048", 17)


@pytest.fixture(scope="module", params=[CARROTS, ("indian_dishes__val_images_5_", 19)])
def dish(request, mobile, shared) -> tuple[np.ndarray, SamEmbedding, np.ndarray]:
    """A photograph, its embedding, and where the ingredient in its centre is."""
    name, label = request.param
    folder = shared / "datasets" / "foodmix"
    image = decode_image((folder / "images" / f"{name}.jpg").read_bytes())
    ids = cv2.imread(str(folder / "masks" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
    return image, mobile.embed(image), ids == label


def test_a_click_in_the_centre_finds_the_dish(mobile, dish):
    _, embedding, truth = dish
    height, width = truth.shape
    assert (embedding.features.shape, embedding.nbytes) == ((1, 256, 64, 64), 4 * 2**20)
    masks = mobile.prompt(embedding, [(width / 2, height / 2, 1)])
    assert [mask.mask.shape for mask in masks] == 3 * [(height, width)]
    assert max(_iou(mask.mask, truth) for mask in masks) > 0.8
    rows, columns = np.flatnonzero(truth.any(1)), np.flatnonzero(truth.any(0))
    box = (float(columns[0]), float(rows[0]), float(columns[-1]) + 1, float(rows[-1]) + 1)
    (boxed,) = mobile.prompt(embedding, box=box)
    assert _iou(boxed.mask, truth) > 0.8
    # a click outside takes that part away
    y, x = np.argwhere(boxed.mask & ~truth)[0]
    (less,) = mobile.prompt(embedding, [(float(x), float(y), 0)], box)
    assert boxed.mask[y, x] and not less.mask[y, x]


@pytest.mark.parametrize("dish", [CARROTS], indirect=True)
def test_automatic_masks_of_a_photograph_equal_the_package(mobile, dish):
    image, embedding, _ = dish  # the non-square one
    package = SamAutomaticMaskGenerator(mobile._sam, points_per_side=3)
    package.predictor = mobile._predictor(embedding)
    package.predictor.set_image = package.predictor.reset_image = lambda *image: None  # spares the encoder
    expected = package.generate(image)
    assert len(expected) == 3
    _assert_same(mobile.automatic(embedding), expected)


def _iou(mask: np.ndarray, other: np.ndarray) -> float:
    return np.count_nonzero(mask & other) / np.count_nonzero(mask | other)


# --- a tiny model ---


def tiny_sam(seed: int = 0) -> Sam:
    """A SAM for 64 pixels whose random masks are clear enough for the filters of automatic masks to matter."""
    torch.manual_seed(seed)
    sam = Sam(
        ImageEncoderViT(
            img_size=64, patch_size=16, embed_dim=16, depth=1, num_heads=2, out_chans=32, use_rel_pos=True,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        ),
        PromptEncoder(embed_dim=32, image_embedding_size=(4, 4), input_image_size=(64, 64), mask_in_chans=4),
        MaskDecoder(
            transformer_dim=32, transformer=TwoWayTransformer(depth=2, embedding_dim=32, mlp_dim=32, num_heads=2),
            iou_head_depth=2, iou_head_hidden_dim=32,
        ),
    )  # fmt: skip
    with torch.no_grad():
        for mlp in sam.mask_decoder.output_hypernetworks_mlps:
            mlp.layers[-1].weight.mul_(150)
        sam.mask_decoder.iou_prediction_head.layers[-1].weight.mul_(3)
        sam.mask_decoder.iou_prediction_head.layers[-1].bias.add_(0.9)
    return sam.eval()


def sample_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (37, 90), (201, 120)])
def test_prompts_equal_the_package(height, width):
    sam = tiny_sam()
    model, image = SamModel(sam, CPU), sample_image(height, width)
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    embedding = model.embed(image)
    model.embed(sample_image(64, 80, seed=1))  # another image in between changes nothing
    assert_close(embedding.features, predictor.features)
    for points, box in (
        ([(10.0, 20.0, 1)], None),
        ([(10.0, 20.0, 1), (30.5, 5.0, 0)], None),
        ([], (3.0, 4.0, 40.0, 30.0)),
        ([(10.0, 20.0, 1)], (3.0, 4.0, 40.0, 30.0)),
    ):
        masks, scores, _ = predictor.predict(
            np.array([p[:2] for p in points]) if points else None,
            np.array([p[2] for p in points]) if points else None,
            np.array(box) if box else None,
            multimask_output=len(points) == 1 and box is None,
        )
        found = model.prompt(embedding, points, box)
        assert len(found) == len(masks) == (3 if len(points) == 1 and box is None else 1)
        order = sorted(range(len(masks)), key=lambda index: -scores[index])
        for own, index in zip(found, order, strict=True):
            assert own.mask.dtype == bool and own.mask.shape == (height, width)
            assert (own.mask == masks[index]).mean() > 0.999 and own.score == close(scores[index])
    assert masks.any() and not masks.all()


@pytest.mark.parametrize(
    ("overlap", "height", "width", "batch"),
    [(1.0, 64, 64, 5), (1.0, 37, 90, 1), (1.0, 37, 90, 64), (1.0, 201, 120, 5), (0.7, 37, 90, 5)],
)
def test_automatic_masks_equal_the_package(overlap, height, width, batch):
    sam, image = tiny_sam(), sample_image(height, width)
    model = SamModel(sam, CPU, MaskGrid(6, batch, predicted_iou=0.88, stability=0.6, overlap=overlap, settled=0))
    package = SamAutomaticMaskGenerator(
        sam, 6, pred_iou_thresh=0.88, stability_score_thresh=0.6, box_nms_thresh=overlap
    )  # fmt: skip
    expected = package.generate(image)
    found = model.automatic(model.embed(image))
    assert len(expected) == 1 if overlap < 1 else 3 <= len(expected) < 6 * 6 * 3
    _assert_same(found, expected)


def _assert_same(found: list[SamMask], expected: list[dict[str, Any]]) -> None:
    assert [mask.score for mask in found] == close([mask["predicted_iou"] for mask in expected])
    for own, other in zip(found, expected, strict=True):
        assert own.mask.dtype == bool and own.mask.shape == other["segmentation"].shape
        assert (own.mask == other["segmentation"]).mean() > 0.999


def test_no_automatic_mask_is_an_answer():
    model = SamModel(tiny_sam(), CPU, MaskGrid(points_per_side=2, predicted_iou=9.0))
    assert model.automatic(model.embed(sample_image(40, 60))) == []


@pytest.mark.parametrize(
    ("points", "box", "expected"),
    [
        ([], None, "a prompt needs at least one point or a box"),
        ([(5, 5, 2)], None, r"the label of a point is 1 .* or 0 .*, found 2"),
        ([(5, 5, 1), (61, 5, 1)], None, r"the point \(61, 5\) lies outside the image of 60 x 40 pixels"),
        ([(5, -0.5, 1)], None, r"the point \(5, -0.5\) lies outside"),
        ([(float("nan"), 5, 1)], None, r"the point \(nan, 5\) lies outside"),
        ([], (10, 5, 10, 9), r"the box \(10, 5, 10, 9\) is not x0 < x1, y0 < y1 within 60 x 40 pixels"),
        ([], (10, 5, 61, 9), "is not x0 < x1"),
        ([], (10, 5, 20, float("nan")), "is not x0 < x1"),
    ],
)
def test_prompts_that_are_refused(points, box, expected):
    model = SamModel(tiny_sam(), CPU)
    with pytest.raises(UserError, match=expected):
        model.prompt(model.embed(sample_image(40, 60)), points, box)


def test_an_image_of_one_line_is_refused():
    with pytest.raises(UserError, match="3000 x 1 pixels is too narrow"):
        SamModel(tiny_sam(), CPU).embed(np.zeros((1, 3000, 3), np.uint8))


# --- loading ---


def small_vit() -> Sam:
    """segment-anything's own builder, with the width of ViT-B and next to no depth."""
    torch.manual_seed(0)
    return _build_sam(768, encoder_depth=1, encoder_num_heads=12, encoder_global_attn_indexes=[])


@pytest.mark.parametrize("name", ["sam_vit_b.pth", "sam_vit_b.safetensors"])
def test_official_files_load(name, tmp_path, monkeypatch):
    stored = small_vit()
    _save(stored.state_dict(), tmp_path / name)
    monkeypatch.setitem(segment_anything.sam_model_registry, "vit_b", small_vit)
    with torch.no_grad():
        stored.mask_decoder.iou_token.weight.zero_()
    loaded = load_sam("vit_b", f"file://{tmp_path / name}", CPU)._sam
    changed = [n for n, t in loaded.state_dict().items() if not torch.equal(t, stored.state_dict()[n])]
    assert changed == ["mask_decoder.iou_token.weight"]
    assert not loaded.training


def test_mobile_sam_loads_from_a_pth_as_well(tmp_path, shared):
    state = safetensors.torch.load_file(shared / "weights" / "mobile_sam.safetensors")
    _save(state, tmp_path / "mobile_sam.pt")
    encoder = load_sam("vit_t", str(tmp_path / "mobile_sam.pt"), CPU)._sam.image_encoder
    assert torch.equal(encoder.neck[0].weight, state["image_encoder.neck.0.weight"])


@pytest.mark.parametrize(
    ("kind", "file", "expected"),
    [
        ("vit_b", "missing.pth", "missing.pth: no such file"),
        ("vit_b", "text.pth", "text.pth cannot be read as weights"),
        ("vit_b", "empty.pth", "empty.pth cannot be read as weights"),
        ("vit_b", "torn.safetensors", "torn.safetensors cannot be read as weights"),
        ("vit_b", "code.pth", "code.pth cannot be read as weights"),
        ("vit_b", "other.safetensors", "other.safetensors does not hold weights of Segment Anything"),
        ("vit_b", "list.pth", "list.pth does not hold weights of Segment Anything"),
        ("vit_t", "h.pth", "h.pth holds weights of vit_h, not of vit_t"),
        ("vit_l", "mobile.safetensors", "mobile.safetensors holds weights of vit_t, not of vit_l"),
        ("vit_t", "half.safetensors", r"half.safetensors does not hold all weights of vit_t \(Missing key"),
    ],
)
def test_weights_that_are_refused(kind, file, expected, tmp_path):
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "torn.safetensors").write_bytes(b"\x40\0\0\0\0\0\0\0{" + 9 * b" ")
    torch.save({"run": Path("x")}, tmp_path / "code.pth")  # a class, which weights_only refuses
    torch.save([1, 2], tmp_path / "list.pth")
    _save({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    _save({"image_encoder.patch_embed.proj.weight": torch.zeros(1280, 1)}, tmp_path / "h.pth")
    first = {"image_encoder.patch_embed.seq.0.c.weight": torch.zeros(32, 3, 3, 3)}
    _save(first, tmp_path / "mobile.safetensors")
    _save(first, tmp_path / "half.safetensors")
    with pytest.raises(UserError, match=expected) as error:
        load_sam(kind, str(tmp_path / file), CPU)
    assert "\n" not in str(error.value)


def test_the_encoder_is_shown_the_same_after_new_weights():
    """TinyViT keeps its attention bias for evaluation: it must not outlive the weights that it was made of."""
    torch.manual_seed(0)
    encoder, other = TinyEncoder(), TinyEncoder()
    with torch.no_grad():
        for block in other.stages[1].blocks:
            block.attn.attention_biases.normal_()
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        encoder.eval()(image)
        encoder.load_state_dict(other.state_dict())
        torch.testing.assert_close(encoder.eval()(image), other.eval()(image), atol=0, rtol=0)


def _save(state: dict[str, torch.Tensor], path: Path) -> None:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)


def test_a_check_of_health_is_a_click_and_the_encoder_is_asked_only_where_it_is_doubted(mobile, monkeypatch):
    encoded = []

    def encoder(images: torch.Tensor) -> torch.Tensor:
        encoded.append(tuple(images.shape))
        return torch.zeros(1, 256, 64, 64)

    monkeypatch.setattr(mobile._sam.image_encoder, "forward", encoder)
    mobile.check()
    assert encoded == []
    mobile.check(encoder=True)
    assert encoded == [(1, 3, 1024, 1024)]
    head = mobile._sam.mask_decoder.iou_prediction_head.layers[-1].bias
    before = head.detach().clone()
    with torch.no_grad():
        head.fill_(float("nan"))
    with pytest.raises(RuntimeError, match="not finite"):
        mobile.check()
    with torch.no_grad():
        head.copy_(before)
    mobile.check()
