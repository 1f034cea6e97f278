"""What a training returns and reports."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from foodseg.checkpoint.history import Validation


@dataclass(frozen=True)
class TrainingResult:
    """How a training ended.

    step: updates done. stopped: before the last one. miou: last score on val, in [0, 1]; None without validation.
    run: URI of the run directory.
    """

    step: int
    stopped: bool
    miou: float | None
    run: str

    def to_json(self) -> dict[str, object]:
        """Returns it as `foodseg train --json` prints it."""
        return asdict(self)


@dataclass(frozen=True)
class Report:
    """A written checkpoint, as the loop announces it.

    step: updates done. share: of all updates, in (0, 1]. validation: None where it was not validated.
    """

    step: int
    share: float
    validation: Validation | None

    def to_json(self) -> dict[str, float]:
        """Returns step, share and the scores by name, as Ray takes them."""
        return {**(self.validation.to_json() if self.validation else {}), "step": self.step, "share": self.share}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Report":
        """Returns what `to_json` gave; other values among them do not count."""
        known = {field.name: values[field.name] for field in fields(Validation) if field.name in values}
        return cls(values["step"], values["share"], Validation(**known) if "miou" in known else None)
