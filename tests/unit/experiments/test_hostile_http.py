"""Hostile requests over real connections to plain fakes, and the judgement of their answers."""

from collections import Counter

from experiments.hostile_http import send_requests
from foodseg.demo.synthetic import SYNTHETIC_CLASSES, draw_meal
from tests.support.page_server import meal_server


def test_hostile_requests_over_connections() -> None:
    with meal_server(SYNTHETIC_CLASSES, [draw_meal(1, 120, 160)]) as server:
        outcomes = send_requests.send_hostile(server.url, 5, 60, "a-key")
    assert send_requests.sent(outcomes) == 60 and not send_requests.wrong(outcomes), outcomes
    assert len(outcomes) >= 4


def test_what_an_answer_may_be() -> None:
    assert send_requests.judged(422, b"") == "422"
    assert send_requests.judged(503, b'{"error": {"code": "starting"}}') == "503 starting"
    assert send_requests.judged(503, b"no") == "WRONG 503 without an error response"
    assert send_requests.judged(500, b"oh").startswith("WRONG 500")
    outcomes = Counter({"200": 2, "WRONG 500 b'oh'": 1, "closed: BadStatusLine": 3, "skipped: x": 4, "not sendable": 5})
    assert send_requests.wrong(outcomes) == {"WRONG 500 b'oh'": 1}
    assert send_requests.sent(outcomes) == 6
    assert list(send_requests.batches(1200, 500)) == [500, 500, 200]
