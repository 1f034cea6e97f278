"""Learned context tokens: they begin as the phrase, get the only gradients, and travel in a state without the tower."""

import copy

import pytest
import torch
from torch.nn.functional import normalize

from foodseg.config.text import TextConfig
from foodseg.errors import UserError
from foodseg.models.text.prompt_tower import ClipTower
from foodseg.models.text.prompts import Prompts
from tests.support.compare import assert_close
from tests.support.tiny_checkpoints import write_clip

WORDS = [["rice"], ["cheese", "butter"], ["fried tofu"]]


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> ClipTower:
    folder = write_clip(tmp_path_factory.mktemp("clip") / "tiny")
    return ClipTower(TextConfig(kind="open_clip", model=folder))


def attached(tower: ClipTower, tokens: int = 4, phrase: str | None = "a photo of a", *, per_class: bool = False):
    prompts = Prompts(tokens, 3, per_class=per_class)
    prompts.attach(tower, WORDS, phrase)
    return prompts


def of_a_text(tower: ClipTower, text: str) -> torch.Tensor:
    ids = [tower.first, *tower.token_ids(text), tower.last]
    return tower(tower.embedded(ids)[None], torch.tensor([len(ids)]))[0]


@pytest.mark.parametrize("per_class", [False, True])
def test_they_begin_as_the_phrase(tower, per_class):
    found = attached(tower, per_class=per_class)()
    each = {word: of_a_text(tower, f"a photo of a {word}.") for own in WORDS for word in own}
    butter = normalize(each["cheese"] + each["butter"], dim=0)
    assert_close(found, torch.stack([each["rice"], butter, each["fried tofu"]]))
    assert_close(found.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("per_class", [False, True])
def test_only_the_context_gets_a_gradient(tower, per_class):
    prompts = attached(tower, per_class=per_class)
    prompts()[:, 0].sum().backward()
    assert [name for name, _ in prompts.named_parameters()] == ["context"]
    assert prompts.context.grad is not None and prompts.context.grad.abs().sum() > 0
    assert all(p.grad is None and not p.requires_grad for p in tower.parameters())


def test_own_context_of_one_class_changes_that_class_alone(tower):
    prompts = attached(tower, per_class=True)
    before = prompts()
    with torch.no_grad():
        prompts.context[1] += torch.randn(4, tower.width, generator=torch.Generator().manual_seed(0))
    changed = (prompts() - before).abs().amax(1)
    assert changed[1] > 1e-3 and changed[[0, 2]].max() < 1e-6


def test_more_tokens_than_the_phrase_begin_at_random_in_front_of_it(tower):
    torch.manual_seed(1)
    prompts = attached(tower, 8)
    assert_close(prompts.context[4:].detach(), tower.embedded(tower.token_ids("a photo of a")))
    assert 0.01 < prompts.context[:4].std() < 0.03
    assert torch.equal(attached(tower, 8).context, prompts.context), "numbers are of torch's seed"
    assert 0.015 < attached(tower, 4, None, per_class=True).context.std() < 0.025


def test_a_copy_shares_the_tower_and_has_its_own_context(tower):
    prompts = attached(tower)
    other = copy.deepcopy(prompts)
    with torch.no_grad():
        other.context += torch.arange(tower.width)
    assert other._attached is prompts._attached and not torch.equal(other(), prompts())


def test_a_state_has_no_tower_and_needs_none(tower):
    prompts = attached(tower)
    state = prompts.state_dict()
    assert set(state) == {"context"}
    other = Prompts(4, 3, per_class=False)
    assert not other.is_attached
    other.load_state_dict(state)
    assert torch.equal(other.context, prompts.context)
    with pytest.raises(AssertionError, match="tower must be attached"):
        other()


@pytest.mark.parametrize(
    ("tokens", "phrase", "message"),
    [
        (2, "a photo of a", r"context_phrase 'a photo of a' has 4 tokens, and context_tokens is 2"),
        (13, None, r"context_tokens = 13 and a class name of 4 tokens are more than the 16 of the text tower"),
    ],
)
def test_what_does_not_fit_is_refused(tower, tokens, phrase, message):
    with pytest.raises(UserError, match=message):
        attached(tower, tokens, phrase)
