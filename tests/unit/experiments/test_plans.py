"""Variants as settings of a sweep or an ablation."""

from experiments.plans import settings_of


def test_variants_become_settings() -> None:
    words = ("model.fusion_stride=8", "model.text.table={names}", "model.ingredient_head=true")
    made = {"names": "names.safetensors"}
    assert settings_of(words, made) == {
        "model.fusion_stride": 8, "model.text.table": "names.safetensors", "model.ingredient_head": True
    }  # fmt: skip
