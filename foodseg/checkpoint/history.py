"""The validations of a run, as `history.jsonl` has them: one line of JSON each, the oldest first."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Validation:
    """Scores on the split `data.val_split` after `step` updates, each in [0, 1].

    miou, aacc, macc: of the weights that `eval.weights` names.
    miou_student, miou_ema: of both kinds of weights; None where no average is kept.
    macro_f1: of a region classifier, whose other scores are counted in regions instead of pixels; None of a segmenter,
        and where no class has regions enough.
    """

    step: int
    miou: float
    aacc: float
    macc: float
    miou_student: float
    miou_ema: float | None = None
    macro_f1: float | None = None

    @property
    def decides(self) -> float:
        """What the best checkpoint has most of: macro F1 of a region classifier, mean IoU of any other model."""
        return self.miou if self.macro_f1 is None else self.macro_f1

    def to_json(self) -> dict[str, float]:
        """Returns it by name, without what is None."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def history_text(history: Iterable[Validation]) -> str:
    """Returns the content of `history.jsonl`."""
    return "".join(json.dumps(validation.to_json()) + "\n" for validation in history)


def parse_history(text: str) -> list[Validation]:
    """Returns what `history_text` was given. ValueError, TypeError: it is something else."""
    return [Validation(**json.loads(line)) for line in text.splitlines()]
