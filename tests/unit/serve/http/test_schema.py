"""Fields of requests, errors, log lines."""

import json
import logging
import pickle
import sys

import pytest

from foodseg.serve.http.json_logs import REQUEST_ID, JsonLines
from foodseg.serve.http.schema import ApiError, parse_box, parse_name_list, parse_points


def _refused(text: str, code: str, parse: object, *rest: object) -> None:
    with pytest.raises(ApiError) as caught:
        parse(text, *rest)  # type: ignore[operator]
    assert (caught.value.status, caught.value.code) == (422, code)
    assert caught.value.hint


def test_points() -> None:
    assert parse_points("[[0, 0, 1], [99.5, 49, 0]]", 100, 50) == [(0.0, 0.0, 1), (99.5, 49.0, 0)]
    assert parse_points(" ", 100, 50) == parse_points("[]", 100, 50) == []
    assert parse_points(json.dumps([[1, 1, 1]] * 64), 100, 50) == [(1.0, 1.0, 1)] * 64


@pytest.mark.parametrize(
    "text",
    [
        "{", "7", "null", "{}", "[[1, 2]]", "[[1, 2, 3]]", "[[1, 2, 0.5]]", '[["1", 2, 1]]', "[[true, 1, 1]]",
        "[1, 2, 1]", "[[NaN, 1, 1]]", "[[Infinity, 1, 1]]", "[[1e400, 1, 1]]", f"[[{'9' * 5000}, 1, 1]]",
        "[" * 50_000, json.dumps([[1, 1, 1]] * 65), " " * 70_000 + "x",
    ],
)  # fmt: skip
def test_invalid_points(text: str) -> None:
    _refused(text, "bad_points", parse_points, 100, 50)


@pytest.mark.parametrize("point", [(-1, 0), (100, 0), (0, 50), (0, -0.1)])
def test_points_outside(point: tuple[float, float]) -> None:
    _refused(json.dumps([[*point, 1]]), "point_outside", parse_points, 100, 50)


def test_boxes() -> None:
    assert parse_box("[0, 0, 100, 50]", 100, 50) == (0.0, 0.0, 100.0, 50.0)
    assert parse_box("", 100, 50) is None


@pytest.mark.parametrize(
    "text",
    ["[]", "[0, 0, 1]", "[5, 0, 5, 9]", "[5, 9, 9, 8]", "[0, 0, 101, 5]", "[-1, 0, 5, 5]", "[0, 0, NaN, 5]", "x"],
)
def test_invalid_boxes(text: str) -> None:
    _refused(text, "bad_box", parse_box, 100, 50)


def test_names() -> None:
    assert parse_name_list("rice,  fried   egg ", "ingredients") == ["rice", "fried egg"]
    assert parse_name_list('["soup, clear", "egg"]', "names") == ["soup, clear", "egg"]
    assert parse_name_list("", "names") == parse_name_list("[]", "names") == []
    assert parse_name_list("caf\u00e9", "names") == ["caf\u00e9"]


@pytest.mark.parametrize(
    "text",
    ["a,,b", "a,a", "a, a", ",", '["a", 1]', '["a"', "x" * 201, ",".join(map(str, range(257))), "a\0b", '["\\ud800"]'],
)
def test_invalid_names(text: str) -> None:
    _refused(text, "bad_names", parse_name_list, "names")


def test_an_error_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(ApiError(429, "too_many_requests", "full", "wait", 1.5)))
    assert isinstance(error, ApiError)
    assert (error.status, str(error), error.headers()) == (429, "full", {"Retry-After": "2"})
    assert error.body() == {"error": {"code": "too_many_requests", "message": "full", "hint": "wait"}}
    assert ApiError(404, "x", "y").headers() == {}


def test_a_log_line_is_json() -> None:
    REQUEST_ID.set("r-1")
    try:
        raise ValueError("x" * 500)
    except ValueError:
        record = logging.LogRecord("foodseg.serve", logging.ERROR, "f.py", 1, "a\n%s", ("b",), sys.exc_info())
    vars(record).update(path="/v1\n\ud800", status=500)  # as `extra` does
    line = JsonLines().format(record)
    assert "\n" not in line and line.isascii()
    found = json.loads(line)
    assert (found["message"], found["level"], found["request_id"], found["status"]) == ("a\nb", "ERROR", "r-1", 500)
    assert len(found["exception"]) == 200 and len(found["frames"]) == 1
    assert json.loads(JsonLines(lambda: "r-2").format(record))["request_id"] == "r-2"  # a replica behind the ingress
