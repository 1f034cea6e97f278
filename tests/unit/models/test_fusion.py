"""Each fusion's masking worked out by hand (one ingredient, none, all), and what holds for every model with text."""

import math

import pytest
import safetensors.torch
import torch
from torch import nn

from foodseg.config.model import ModelConfig
from foodseg.config.text import TextConfig
from foodseg.models.build import build_segmenter
from foodseg.models.fusion import (
    WIDTH,
    ClassEmbeddings,
    CrossAttention,
    Film,
    IngredientHead,
    Privileged,
    ScoreMap,
    allowed_classes,
    masked,
)
from foodseg.models.segmenter import SegmenterNetwork
from tests.support.compare import assert_close, close

KINDS = ["score_map", "cross_attention", "film"]
ONE, NONE, ALL = [False, True, False], [False, False, False], [True, True, True]


def conditioning(names: list[bool]) -> torch.Tensor | None:
    return allowed_classes(torch.tensor([names]))


# --- masking by hand: ids 0 (background), 1, 2 ---


@pytest.mark.parametrize(
    ("names", "channels"),
    [(ONE, [0.6, 0.8, -1.0]), (NONE, [0.6, -1.0, -1.0]), (ALL, [0.6, 0.8, -0.6]), (None, [0.6, 0.8, -0.6])],
)
def test_score_map(names, channels):
    """One grid cell with the feature (3, 4), so (0.6, 0.8) at length 1, against (2, 0), (0, 1) and (-1, 0)."""
    fusion = ScoreMap(channels=2, classes=3, width=2, pyramid_channels=3, gamma=0.0)
    with torch.no_grad():
        fusion.project.weight.copy_(torch.eye(2)[..., None, None])
        fusion.project.bias.zero_()
        fusion.extra.weight.copy_(torch.eye(3)[..., None, None])  # shows the channels as they are
    level, embeddings = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1), torch.tensor([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    extra, scores = fusion(level, embeddings, None if names is None else conditioning(names))
    assert_close(extra.flatten(), torch.tensor(channels))
    # the auxiliary cross entropy sees every class: a pixel of one outside the conditioning keeps its loss
    assert_close(scores.flatten(), torch.tensor([0.6, 0.8, -0.6]) / 0.07)


@pytest.mark.parametrize(
    ("names", "found", "attention"),
    [
        (ONE, 4 / 5, [1 / 5, 2 / 5, 0, 2 / 5]),
        (NONE, 2 / 3, [1 / 3, 0, 0, 2 / 3]),
        (ALL, 12 / 9, [1 / 9, 2 / 9, 4 / 9, 2 / 9]),
        (None, 12 / 9, [1 / 9, 2 / 9, 4 / 9, 2 / 9]),
    ],
)
def test_cross_attention(names, found, attention):
    """Every grid cell asks for ln 2 x value, the values are 0, 1, 2 and 1 for the null token: weights 1, 2, 4, 2."""
    fusion = CrossAttention(channels=2, width=WIDTH, gamma=0.0)
    fusion.class_projection = fusion.key = fusion.value = nn.Identity()
    with torch.no_grad():
        fusion.query.weight.zero_()
        fusion.query.bias.fill_(math.log(2) / math.sqrt(32))  # 32 channels a head, scores are divided by sqrt(32)
        fusion.out.weight.zero_()
        fusion.out.weight[1, 5] = 1  # channel 1 shows one channel of what was found
    embeddings = torch.tensor([0.0, 1.0, 2.0, 1.0])[:, None].expand(4, WIDTH)
    level, allowed = torch.ones(1, 2, 1, 2), None if names is None else conditioning(names)
    out = fusion(level, embeddings, allowed)
    assert_close(out[0, :, 0], torch.tensor([[1.0, 1.0], [1 + found, 1 + found]]))
    weights = fusion.weights(level, embeddings, allowed)
    assert_close(weights[0, :, 0, 0], torch.tensor(attention))
    assert weights.shape == (1, 4, 1, 2)


@pytest.mark.parametrize(("names", "pooled"), [(ONE, 12 / 3), (NONE, 4 / 2), (ALL, 12.5 / 3.25), (None, 12.5 / 3.25)])
def test_film(names, pooled):
    """Embeddings 1 (background), 8, 6 and 3 (null); the head predicts 1/2 and 3/4, used for all classes."""
    embeddings = torch.tensor([[1.0], [8.0], [6.0], [3.0]])
    predicted = torch.tensor([[-9.0, 0.0, math.log(3)]])
    found = Film.pooled(embeddings, None if names is None else conditioning(names), predicted)
    assert_close(found, torch.tensor([[pooled]]))


def test_film_scales_and_shifts():
    fusion = Film(channels=2, width=1, gamma=0.0)
    with torch.no_grad():
        fusion.scale_and_shift.bias.copy_(torch.tensor([1.0, 2.0, 10.0, 20.0]))
    out = fusion(torch.ones(1, 2, 1, 1), torch.ones(3, 1), None, torch.zeros(1, 2))
    assert out.flatten().tolist() == close([2 + 10, 3 + 20])


def test_each_image_of_a_batch_has_its_own_conditioning():
    embeddings, predicted = (
        torch.tensor([[1.0], [8.0], [6.0], [3.0]]),
        torch.tensor([[0.0, 0.0, math.log(3)]]).expand(2, 3),
    )
    both = Film.pooled(embeddings, allowed_classes(torch.tensor([ONE, ALL])), predicted)
    assert_close(both, torch.tensor([[4.0], [12.5 / 3.25]]))
    cosines = torch.full((2, 3, 1, 1), 0.5)
    assert masked(cosines, allowed_classes(torch.tensor([ONE, ALL]))).flatten().tolist() == [
        0.5,
        0.5,
        -1,
        0.5,
        0.5,
        0.5,
    ]


def test_class_embeddings():
    table = torch.tensor([[9.0, 9.0], [3.0, 0.0], [1.0, 0.0], [2.0, 3.0]])  # the mean of the names is (2, 1)
    names = ClassEmbeddings(table, centre=True, null=True)
    s = 0.5**0.5
    embeddings = names(table, table)
    assert_close(embeddings[1:4], torch.tensor([[s, -s], [-s, -s], [0.0, 1.0]]))
    assert torch.equal(embeddings[0], names.background) and torch.equal(embeddings[4], names.null)
    # other names are centred by the mean of the table's, so that a single class keeps a direction
    assert_close(names(torch.tensor([[0.0, 0.0], [2.0, 5.0]]), table)[1], torch.tensor([0.0, 1.0]))
    raw = ClassEmbeddings(table, centre=False, null=False)(table, table)
    assert torch.equal(raw[1:], table[1:]) and len(raw) == 4


def test_a_single_class_keeps_its_direction():
    """Less its own mean it would be 0."""
    table = torch.tensor([[9.0, 9.0], [3.0, 4.0]])
    names = ClassEmbeddings(table, centre=True, null=True)
    assert_close(names(table, table)[1], torch.tensor([0.6, 0.8]))
    assert names.background.norm() > 0 and names.null.norm() > 0  # learned embeddings start as long as the others


def test_ingredient_head():
    head = IngredientHead(channels=1, classes=2)
    with torch.no_grad():
        head.linear.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        head.linear.bias.zero_()
    assert head(torch.tensor([1.0, 2.0, 6.0, 3.0]).view(1, 1, 2, 2)).tolist() == [close([3, 6])]  # mean, maximum


# --- every model with text ---


def build(fusion: str = "none", head: bool = False, table: torch.Tensor | None = None, **settings) -> SegmenterNetwork:
    torch.manual_seed(0)
    texts = fusion != "none" or settings.get("privileged_head", False)
    text = TextConfig() if not texts else TextConfig(kind="table", table="t", **settings.pop("text", {}))
    config = ModelConfig(
        backbone="test_efficientnet", weights="none", pyramid_channels=16, decoder_channels=16, dropout=0.0,
        fusion=fusion,
        ingredient_head=head or fusion == "film", text=text, **settings,
    )  # fmt: skip
    return build_segmenter(config, 5, text=None if not texts else table if table is not None else text_table())


def text_table() -> torch.Tensor:
    return torch.randn(5, 12, generator=torch.Generator().manual_seed(3))


def awake(model: SegmenterNetwork) -> SegmenterNetwork:
    """What starts at 0 gets numbers, so that the text has an effect."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith(("backbone", "decoder", "classifier")):
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)) * 0.1)
    return model.eval()


def image(count: int = 1, height: int = 64, width: int = 96) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("fusion", KINDS)
def test_it_starts_as_the_image_only_model(fusion):
    plain = build()
    after = torch.rand(1)  # dropout and all that follows draws the same numbers too
    model = build(fusion, head=True)
    assert torch.equal(torch.rand(1), after)
    own, parameters = model.state_dict(), dict(model.named_parameters())
    assert all(torch.equal(own[name], tensor) for name, tensor in plain.state_dict().items())
    assert list(parameters)[: len(dict(plain.named_parameters()))] == [name for name, _ in plain.named_parameters()]
    assert torch.equal(model.eval()(image()).logits, plain.eval()(image()).logits)


def test_a_head_changes_nothing_else():
    plain, model = build().eval(), build(head=True).eval()
    expected, found = plain(image(2)), model(image(2))
    assert torch.equal(found.logits, expected.logits) and found.ingredient_logits.shape == (2, 5)
    assert expected.ingredient_logits is None and expected.score_map is None
    predicted = model.predict_ingredients(image(2))
    assert_close(predicted[:, 1:], found.ingredient_logits[:, 1:].sigmoid())
    assert predicted[:, 0].tolist() == [1, 1]
    assert "text_table" not in model.state_dict()


def test_the_heads_of_all_variants_start_equal():
    heads = [build(fusion, head=True).ingredient_head.linear.weight for fusion in ["none", *KINDS]]
    assert all(torch.equal(heads[0], head) for head in heads)


@pytest.mark.parametrize("fusion", KINDS)
@pytest.mark.parametrize("stride", [None, 8])
def test_shapes(fusion, stride):
    model = build(fusion, fusion_stride=None if fusion == "film" else stride)
    output = model.eval()(image(2), ingredients=torch.zeros(2, 5, dtype=torch.bool))
    assert output.logits.shape == (2, 5, 16, 24) and output.features.shape == (2, 16, 16, 24)
    grid = (2, 3) if stride is None else (8, 12)
    if fusion == "score_map":
        assert output.score_map.shape == (2, 5, *grid)
    else:
        assert output.score_map is None
    if fusion != "film":
        assert model.class_maps(image(2)).shape == (2, 5 + (fusion == "cross_attention"), *grid)


@pytest.mark.parametrize("fusion", KINDS)
def test_conditioning_matters_and_other_classes_do_not(fusion):
    table = text_table()
    other = table.clone()
    other[3] = -table[3]  # of the same length, so that the learned embeddings start equal
    # without centring: with it the mean of all names moves too
    model = awake(build(fusion, table=table, text={"centre": False, "gamma": 0.5}))
    changed = awake(build(fusion, table=other, text={"centre": False, "gamma": 0.5}))
    without = torch.tensor([[False, True, True, False, True]])
    with_it = torch.tensor([[False, True, False, True, True]])
    assert torch.equal(model(image(), ingredients=without).logits, changed(image(), ingredients=without).logits)
    assert not torch.equal(model(image(), ingredients=with_it).logits, changed(image(), ingredients=with_it).logits)
    assert not torch.equal(model(image(), ingredients=without).logits, model(image(), ingredients=with_it).logits)
    # the same through the argument as through the buffer
    assert torch.equal(model(image(), text=other).logits, changed(image()).logits)


@pytest.mark.parametrize("fusion", KINDS)
def test_a_class_outside_the_conditioning_is_a_hundred_times_less_probable_at_first(fusion):
    """The fusion itself starts without an effect, so only the logits are lowered; background is always allowed."""
    model = build(fusion, head=True).eval()
    conditioned = model(image(), ingredients=torch.tensor([[False, True, False, True, False]])).logits
    lowered = (model(image()).logits - conditioned)[0].amax((1, 2))
    assert_close(lowered, torch.tensor([0, 0, 4.60517, 0, 4.60517]))


@pytest.mark.parametrize("fusion", KINDS)
def test_conditioning_on_all_classes_is_unconditioned(fusion):
    model = awake(build(fusion))
    everything = torch.ones(1, 5, dtype=torch.bool)
    assert_close(model(image(), ingredients=everything).logits, model(image()).logits)
    everything[:, 0] = False  # background is always allowed
    assert_close(model(image(), ingredients=everything).logits, model(image()).logits)


@pytest.mark.parametrize("fusion", KINDS)
@pytest.mark.parametrize("names", [0, 1, 4])
def test_every_parameter_gets_a_finite_gradient(fusion, names):
    """Also with empty conditioning; DDP refuses parameters without a gradient."""
    model = build(fusion, head=True).train()
    ingredients = torch.zeros(2, 5, dtype=torch.bool)
    ingredients[:, 1 : 1 + names] = True
    output = model(image(2), ingredients=ingredients)
    total = output.logits.square().sum() + output.ingredient_logits.square().sum()
    if output.score_map is not None:
        total = total + output.score_map.square().sum()
    total.backward()
    assert torch.isfinite(total)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())


@pytest.mark.parametrize("fusion", KINDS)
def test_save_and_load_with_the_table(fusion):
    model = awake(build(fusion))
    state = safetensors.torch.load(safetensors.torch.save(model.state_dict()))
    fresh = build(fusion, table=torch.zeros(5, 12)).eval()
    fresh.load_state_dict(state)
    assert torch.equal(fresh.text_table, text_table())
    assert torch.equal(fresh(image()).logits, model(image()).logits)


def test_class_maps():
    ingredients = torch.tensor([[False, True, False, False, False]])
    cosines = awake(build("score_map")).class_maps(image(), ingredients)
    assert (cosines[:, 2:] == -1).all() and (cosines[:, :2] > -1).all() and (cosines.abs() <= 1 + 1e-6).all()
    attention = awake(build("cross_attention")).class_maps(image(), ingredients)
    assert (attention[:, 2:5] == 0).all() and (attention[:, [0, 1, 5]] > 0).all()
    assert_close(attention.sum(1), torch.ones(1, 2, 3))


def test_the_image_only_model_takes_no_conditioning():
    with pytest.raises(AssertionError, match="no text fusion"):
        build().eval()(image(), ingredients=torch.ones(1, 5, dtype=torch.bool))


# --- heads that only a training has ---


def test_a_privileged_head_starts_as_the_plain_one_and_changes_nothing_else():
    plain, model = build().eval(), build(privileged_head=True).eval()
    expected = plain(image(2)).logits
    present = torch.tensor([[True, True, False, False, False], [True, False, False, True, True]])
    found = model(image(2), present=present)
    assert torch.equal(found.logits, expected) and torch.equal(found.privileged, expected)
    assert model(image(2)).privileged is None and "text_table" not in model.state_dict()


def test_the_classes_on_an_image_move_its_privileged_logits_alone():
    model = awake(build(privileged_head=True))
    one = torch.tensor([[True, True, False, False, False]] * 2)
    other = one.clone()
    other[1, 2] = True
    first, second = (model(image(2), present=present) for present in (one, other))
    assert torch.equal(first.logits, second.logits)
    assert torch.equal(first.privileged[0], second.privileged[0])
    assert not torch.allclose(first.privileged[1], second.privileged[1], atol=1e-3)


def test_privileged_features_by_hand():
    """Two classes on the image: the mean of their projected embeddings scales and shifts the channels."""
    part = Privileged(text_table(), 3, centre=False)
    with torch.no_grad():
        part.scale_and_shift.weight.normal_(generator=torch.Generator().manual_seed(0))
    features, present = torch.rand(1, 3, 2, 2), torch.tensor([[True, False, True, False, False]])
    rows = torch.stack([part.class_embeddings.background, text_table()[2]])
    scale, shift = part.scale_and_shift(part.project(rows).mean(0)).chunk(2)
    expected = features * (1 + scale.view(1, 3, 1, 1)) + shift.view(1, 3, 1, 1)
    assert_close(part(features, present), expected)


def test_stage_heads_are_there_in_training_alone():
    plain, model = build().eval(), build(stage_heads=True)
    assert [each.shape for each in model.train()(image(2)).stage_logits] == [(2, 5, 8, 12), (2, 5, 4, 6), (2, 5, 2, 3)]
    found = build(stage_heads=True).eval()(image(2))
    assert found.stage_logits == [] and torch.equal(found.logits, plain(image(2)).logits)


def test_logits_without_dropout():
    model = build().train()
    model.dropout.p, model.gives_undropped = 0.5, True
    for layer in model.modules():
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
            layer.eval()
    found = model(image(2))
    logits, features = found.undropped
    assert torch.equal(logits, model.classifier(features)) and not torch.equal(found.logits, logits)
    assert_close(logits, model.eval()(image(2)).logits)
