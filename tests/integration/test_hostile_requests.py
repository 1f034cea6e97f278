"""Schemathesis against the OpenAPI document of the endpoint, over real connections with plain fakes."""

import pytest

from experiments.hostile_http.send_requests import send_schemathesis, sent, wrong
from foodseg.demo.synthetic import SYNTHETIC_CLASSES, draw_meal
from tests.support.page_server import meal_server

pytestmark = pytest.mark.measurement


def test_schemathesis_finds_no_error() -> None:
    with meal_server(SYNTHETIC_CLASSES, [draw_meal(1, 60, 80)]) as server:
        outcomes = send_schemathesis(server.url, "a-key", examples=2)
    assert sent(outcomes) >= 14 and not wrong(outcomes), outcomes
    assert {"200", "422"} <= outcomes.keys()
