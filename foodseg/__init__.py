"""foodseg: which ingredient is where on an image of food.

    import foodseg

    model = foodseg.load("runs/a")
    found = model.predict("lunch.jpg")
    found.ids, found.ingredients, found.overlay()

The names below are loaded when they are first used: `import foodseg` takes neither torch nor Ray.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and completion; at run time `__getattr__` finds the same
    from foodseg.errors import FoodsegError, UserError
    from foodseg.eval.evaluate import evaluate
    from foodseg.eval.regions import evaluate_regions
    from foodseg.predict.prediction import Prediction, to_coco
    from foodseg.predict.region_classifier import RegionClassifier, load_region_classifier
    from foodseg.predict.segmenter import Segmenter, load
    from foodseg.predict.zero_shot import ZeroShotSegmenter, zero_shot
    from foodseg.prepare.ray_prepare import prepare_dataset

__version__ = "0.1.0"

__all__ = [
    "FoodsegError",
    "Prediction",
    "RegionClassifier",
    "Segmenter",
    "UserError",
    "ZeroShotSegmenter",
    "__version__",
    "evaluate",
    "evaluate_regions",
    "load",
    "load_region_classifier",
    "prepare_dataset",
    "to_coco",
    "zero_shot",
]

_MODULES = {
    "FoodsegError": "foodseg.errors",
    "Prediction": "foodseg.predict.prediction",
    "RegionClassifier": "foodseg.predict.region_classifier",
    "Segmenter": "foodseg.predict.segmenter",
    "UserError": "foodseg.errors",
    "ZeroShotSegmenter": "foodseg.predict.zero_shot",
    "evaluate": "foodseg.eval.evaluate",
    "evaluate_regions": "foodseg.eval.regions",
    "load": "foodseg.predict.segmenter",
    "load_region_classifier": "foodseg.predict.region_classifier",
    "prepare_dataset": "foodseg.prepare.ray_prepare",
    "to_coco": "foodseg.predict.prediction",
    "zero_shot": "foodseg.predict.zero_shot",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'foodseg' has no attribute {name!r}")
    import importlib

    found = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = found  # so that this function is not asked again
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
