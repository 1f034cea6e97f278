"""The curl lines that are tried, and what is read from their output."""

from experiments.endpoint.run import DOCUMENT, curl_blocks, json_objects


def test_the_document_has_lines_to_try() -> None:
    blocks = curl_blocks(DOCUMENT.read_text(encoding="utf-8"))
    lines = "".join(blocks)
    assert lines.count("curl ") >= 12 and "foodseg serve" not in lines and "zero-shot" not in lines
    assert curl_blocks("```json\n{}\n```\n```sh\ncurl x\n```\n```python\ncurl\n```\n") == []


def test_objects_in_what_curl_prints() -> None:
    printed = '{"a": {"b": "}{"}}{"c": 1}\n0.5 rice\n{"d": []}{broken'
    assert json_objects(printed) == [{"a": {"b": "}{"}}, {"c": 1}, {"d": []}]
