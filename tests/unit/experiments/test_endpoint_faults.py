"""A load on an endpoint: what is counted, and what counts as lost."""

import itertools
from collections.abc import Iterator
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from experiments.endpoint_faults.run import _check_load
from experiments.endpoint_faults.steady_load import SteadyLoad, ask_prompt, ask_segment
from experiments.item_queue import ItemError
from foodseg.demo.synthetic import SYNTHETIC_CLASSES, draw_meal
from foodseg.serve.client import Client
from tests.support.page_server import MealServer, Scripted, meal_server

BUSY = Scripted(429, b'{"error": {"code": "x", "message": "y", "hint": ""}}', headers=((b"retry-after", b"1"),))
BROKEN = Scripted(500, b'{"error": {"code": "internal", "message": "y", "hint": ""}}')
FIRST, SECOND = "a" * 64, "b" * 64


@pytest.fixture(scope="module")
def meals() -> list[tuple[np.ndarray, np.ndarray]]:
    return [draw_meal(seed, 120, 160) for seed in (1, 2)]


@pytest.fixture(scope="module")
def encoded(meals: list[tuple[np.ndarray, np.ndarray]]) -> list[bytes]:
    return [cv2.imencode(".png", image[:, :, ::-1])[1].tobytes() for image, _ in meals]


@pytest.fixture
def server(meals: list[tuple[np.ndarray, np.ndarray]]) -> Iterator[MealServer]:
    with meal_server(SYNTHETIC_CLASSES, meals) as server:
        yield server


def asked(server: MealServer, load: SteadyLoad, answers: int) -> None:
    with load:
        while load.answered < answers:
            httpx.get(f"{server.url}healthz")


def test_a_load_counts_what_came_and_what_the_client_healed(server: MealServer, encoded: list[bytes]) -> None:
    server.scripted["/v1/segment"] = [BUSY, BUSY]
    load = SteadyLoad(server.url, ask_segment(encoded), images=2, threads=2)
    asked(server, load, 6)
    figures = load.figures()
    assert figures["statuses"] == {"200": figures["answered"], "429": 2}
    assert (figures["failed"], figures["differing"], load.lost()) == ({}, 0, 0)
    assert figures["answered_by"] == {server_sha(server): figures["answered"]}
    assert figures["longest_seconds"] >= 1


def test_a_load_counts_what_was_lost_and_what_differs(server: MealServer, encoded: list[bytes]) -> None:
    server.scripted["/v1/segment"] = [BROKEN]
    other = itertools.count()

    def ask(client: Client, number: int) -> tuple[str, object]:
        by, _ = ask_segment(encoded)(client, number)
        return by, next(other)

    load = SteadyLoad(server.url, ask, images=1, threads=1)
    asked(server, load, 3)
    figures = load.figures()
    assert load.lost() == 1 and figures["statuses"]["500"] == 1
    assert list(figures["failed"]) == ["500 ApiError: y"]
    assert figures["differing"] == figures["answered"] - 1


def test_a_load_of_clicks_heals_an_image_that_was_forgotten(server: MealServer, encoded: list[bytes]) -> None:
    load = SteadyLoad(server.url, ask_prompt(encoded), images=1, threads=1)
    with load:
        while load.answered < 2:
            httpx.get(f"{server.url}healthz")
        server.sam.remembered.clear()
        before = load.answered
        while load.answered < before + 3:
            httpx.get(f"{server.url}healthz")
    assert load.lost() == 0 and load.figures()["statuses"]["404"] >= 1


def server_sha(server: MealServer) -> str:
    return str(httpx.get(f"{server.url}v1/models").json()["models"][0]["sha"])[:12]


def scenarios(**changed: Any) -> dict[str, dict[str, Any]]:
    names = ("segmenter killed", "hot swap", "broken checkpoint, then a replica killed",
             "configuration deployed again", "ingress killed")  # fmt: skip
    whole: dict[str, dict[str, Any]] = {}
    for name in names:
        by = {FIRST[:12]: 9, SECOND[:12]: 9} if name == "hot swap" else {SECOND[:12]: 9}
        processes = {
            "Ingress": int("again" in name or "ingress" in name),
            "Segmenter": int("swap" not in name and "ingress" not in name),
        }
        model = {"sha": SECOND, "error": "it is torn" if "broken" in name else None}
        whole[name] = {"differing": 0, "lost": 0, "answered_by": by, "new_processes": processes, "model": model}
        whole[name] |= changed.get(name.split()[0], {})
    return whole


def test_what_a_load_must_show() -> None:
    _check_load(scenarios(ingress={"lost": 4}), FIRST, SECOND)


@pytest.mark.parametrize(
    "changed",
    [
        {"segmenter": {"lost": 1}},
        {"segmenter": {"differing": 1}},
        {"hot": {"answered_by": {FIRST[:12]: 9}}},
        {"hot": {"new_processes": {"Ingress": 0, "Segmenter": 1}}},
        {"broken": {"answered_by": {FIRST[:12]: 1, SECOND[:12]: 9}}},
        {"broken": {"model": {"sha": SECOND, "error": None}}},
        {"broken": {"new_processes": {"Ingress": 0, "Segmenter": 0}}},
        {"ingress": {"new_processes": {"Ingress": 0, "Segmenter": 0}}},
        {"configuration": {"new_processes": {"Ingress": 0, "Segmenter": 1}}},
    ],
)
def test_what_a_load_must_not_show(changed: dict[str, Any]) -> None:
    with pytest.raises(ItemError):
        _check_load(scenarios(**changed), FIRST, SECOND)
