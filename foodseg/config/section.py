"""The base class of all sections of the configuration: frozen, and unknown keys are refused."""

import unicodedata
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from foodseg import storage


class Section(BaseModel):
    """A frozen group of settings: every key has a default, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    @field_validator("*")
    @classmethod
    def _usable_texts(cls, value: Any, info: ValidationInfo) -> Any:
        given = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else (value,)
        for text in given:
            if isinstance(text, str):
                _require_text(text, empty=cls.model_fields[info.field_name or ""].default == "")
        return value


def _require_text(text: str, *, empty: bool) -> None:
    # s3://key:secret@bucket works elsewhere, but a configuration is stored: in the run, in checkpoints, in MLflow
    if storage.redact(text) != text:
        raise ValueError(
            f"found {storage.redact(text)}: a configuration is stored with its run, so it takes no keys; set "
            "them in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, MLFLOW_TRACKING_PASSWORD)"
        )
    if not text.strip() and not (empty and not text):
        raise ValueError(f"must not be blank, found {text!r}")
    strange = next((char for char in text if unicodedata.category(char) in ("Cc", "Cs")), None)
    if strange is not None:  # it would end a line of the log, or could not be written as UTF-8
        raise ValueError(f"has the control character {strange!a}, which no name may have, found {text!a}")
