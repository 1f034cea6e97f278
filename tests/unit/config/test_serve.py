"""The endpoint's configuration: defaults, refusals in one sentence."""

from typing import Any

import pytest

from foodseg.config.serve import ServeConfig, parse_serve_config
from foodseg.errors import UserError


def test_defaults() -> None:
    config = parse_serve_config({})
    assert config == ServeConfig()
    assert (config.http.host, config.sam, config.clip, config.segmenter.models) == ("127.0.0.1", None, None, {})
    assert parse_serve_config({"http": None, "sam": None, "regions": None}) == config


def test_json_round_trip() -> None:
    config = parse_serve_config(
        {"http": {"cors_origins": ["*"]}, "segmenter": {"models": {"a": "x"}}, "sam": {"weights": "m.pth"}}
    )
    assert parse_serve_config(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("tree", "sentence"),
    [
        ({"htpp": {}}, "unknown key 'htpp'; did you mean http?"),
        ({"xyz": {}}, "unknown key 'xyz'; sections are http, image, segmenter, sam, clip, refine, regions"),
        ({"http": {"prot": 1}}, "unknown key 'http.prot'; did you mean http.port?"),
        (
            {"http": {"longest_side": 1}},
            "unknown key 'http.longest_side'; did you mean image.longest_side or clip.eval.longest_side?",
        ),
        ({"sam": {"weights": "m", "kin": "vit_t"}}, "unknown key 'sam.kin'; did you mean sam.kind?"),
        ({"sam": {"weights": "m", "kind": "vit_x"}},
         "sam.kind: must be 'vit_t' or 'vit_b' or 'vit_l' or 'vit_h', found 'vit_x'"),
        ({"http": {"port": 0}}, "http.port: must be at least 1, found 0"),
        ({"http": {"port": "x"}}, "http.port: must be a whole number, found 'x'"),
        ({"http": 7}, "http: must be a section with keys such as host, port, keys_file, found 7"),
        ({"http": {"body_seconds": 90}},
         "http.body_seconds (90) must not exceed http.request_seconds (60), which the body is a part of"),
        ({"http": {"cors_origins": ["menu.example"]}}, "http.cors_origins: must be origins such as"),
        ({"segmenter": {"models": {"a/b": "x"}}}, "segmenter.models: a model name is 1 to 64 letters"),
        ({"segmenter": {"models": {"a": 3}}}, "segmenter.models: must be a mapping from names to texts, found {'a'"),
        ({"segmenter": {"models": {"a": "x"}, "default": "b"}}, "segmenter.default must be one of ['a'], found 'b'"),
        ({"segmenter": {"canvases": [[30, 32]]}}, "segmenter.canvases: sides of a canvas must be multiples of 32"),
        ({"segmenter": {"canvases": [512]}}, "segmenter.canvases: must be a list of lists of 2 whole numbers"),
        ({"sam": {}}, "sam.weights: must be given: text"),
        ({"regions": {}}, "regions.model: must be given: text"),
        ({"regions": {"model": "r", "below": 0}}, "regions.below: must be above 0, found 0"),
        ({"regions": {"model": "s3://key:secret@bucket/p"}}, "regions.model: found s3://"),
        ({"segmenter": {"models": {"a": "s3://key:secret@bucket/p"}}}, "segmenter.models: found s3://"),
    ],
)  # fmt: skip
def test_a_refusal_is_one_sentence(tree: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_serve_config(tree, "local.yaml")
    assert str(caught.value).startswith(f"local.yaml: {sentence}")
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)
