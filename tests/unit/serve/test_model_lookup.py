"""Names in a request to model ids and class ids."""

import asyncio
import subprocess
import sys

import pytest

from foodseg.serve import model_lookup as names_module
from foodseg.serve.http.schema import ApiError
from foodseg.serve.model_lookup import ModelNames, ingredient_ids
from foodseg.serve.protocols import ModelState

CLASSES = ("background", "white rice", "fried tofu", "Egg")


def state(name: str, sha: str | None = "ab" * 32, default: bool = False, conditioned: bool = False) -> ModelState:
    error = None if sha else "the checkpoint is torn"
    return ModelState(name, "runs/a", sha and "runs/a", sha, error, CLASSES, default, conditioned)


class Segmenter:
    """Returns the states that the test sets; counts the calls."""

    def __init__(self, *states: ModelState) -> None:
        self.states = list(states)
        self.asked = 0
        self.failing = False

    async def models(self) -> list[ModelState]:
        self.asked += 1
        await asyncio.sleep(0)
        if self.failing:
            raise ApiError(503, "backend_lost", "lost")
        return list(self.states)


def refusal(names: ModelNames, name: str) -> tuple[int, str]:
    with pytest.raises(ApiError) as caught:
        asyncio.run(names.find(name))
    return caught.value.status, caught.value.code


def test_a_name_means_its_checkpoint_and_no_name_the_default() -> None:
    names = ModelNames(Segmenter(state("a"), state("b", "cd" * 32, default=True)))
    assert asyncio.run(names.find("a"))[1] == "a@" + "ab" * 6
    assert asyncio.run(names.find(""))[1] == "b@" + "cd" * 6


def test_refusals() -> None:
    assert refusal(ModelNames(Segmenter()), "") == (503, "no_model")
    assert refusal(ModelNames(Segmenter(state("a"))), "b") == (422, "unknown_model")
    assert refusal(ModelNames(Segmenter(state("a", None))), "a") == (503, "model_unavailable")


def test_states_are_requested_once_and_requests_do_not_wait_for_a_refresh(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        segmenter = Segmenter(state("a", default=True))
        names = ModelNames(segmenter)
        await asyncio.gather(*(names.find("") for _ in range(5)))
        assert segmenter.asked == 1
        segmenter.states = [state("a", "cd" * 32, default=True)]
        monkeypatch.setattr(names_module, "SECONDS", -1.0)  # whatever is known is out of date
        assert (await names.find(""))[1] == "a@" + "ab" * 6  # the old one, while the new one is on its way
        await asyncio.sleep(0.01)
        assert segmenter.asked == 2
        segmenter.failing = True
        assert (await names.find(""))[1] == "a@" + "cd" * 6
        await asyncio.sleep(0.01)
        assert (await names.find(""))[1] == "a@" + "cd" * 6  # the last known state is kept

    asyncio.run(run())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("white rice, egg", (1, 3)),
        ('["FRIED TOFU"]', (2,)),
        ("rice", "unknown_ingredient"),
        ("background", "unknown_ingredient"),
        ("[1]", "bad_ingredients"),
    ],
)
def test_ingredients(text: str, expected: tuple[int, ...] | str | None) -> None:
    model = state("a", conditioned=True)
    if isinstance(expected, str):
        with pytest.raises(ApiError) as caught:
            ingredient_ids(text, model)
        assert caught.value.code == expected
        assert caught.value.status == 422
    else:
        assert ingredient_ids(text, model) == expected


def test_a_model_without_fusion_refuses_ingredients() -> None:
    with pytest.raises(ApiError, match="is not conditioned on ingredients"):
        ingredient_ids("egg", state("a"))
    with pytest.raises(ApiError) as caught:
        ingredient_ids("egs", state("a", conditioned=True))
    assert caught.value.hint == "did you mean Egg?"


def test_names_and_routes_need_no_torch() -> None:
    """Else the first misspelled name would block the ingress for seconds, and add 500 MB."""
    code = "import sys, foodseg.serve.model_lookup, foodseg.serve.http.api; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
