"""What a model costs."""

from foodseg.demo.synthetic import SYNTHETIC_CLASSES
from foodseg.models.build import build_segmenter
from foodseg.tune.cost import model_cost
from tests.support.synthetic_set import synthetic_config, write_table


def test_parameters_are_those_that_are_trained(tmp_path):
    table = write_table(tmp_path / "t.safetensors")
    text = ["model.fusion=cross_attention", "model.text.kind=table", f"model.text.table={table}"]
    plain, fused = (synthetic_config("unused", tmp_path / "run", *settings) for settings in ([], text))
    model = build_segmenter(plain.model, len(SYNTHETIC_CLASSES), pretrained=False)
    expected = sum(p.numel() for p in model.parameters())
    assert model_cost(plain, SYNTHETIC_CLASSES, "parameters") == {"parameters": expected}
    assert model_cost(fused, SYNTHETIC_CLASSES, "parameters")["parameters"] > expected


def test_latency_is_a_time_and_nothing_is_nothing(tmp_path):
    config = synthetic_config("unused", tmp_path / "run")
    assert 0 < model_cost(config, SYNTHETIC_CLASSES, "latency")["latency"] < 60_000
    assert model_cost(config, SYNTHETIC_CLASSES, "none") == {}
