"""What every section of the configuration is: frozen, with unknown keys refused."""

from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from foodseg import storage


class Section(BaseModel):
    """A frozen group of settings; an unknown key is an error, a default stands for every key."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    @field_validator("*")
    @classmethod
    def _no_secrets(cls, value: Any) -> Any:
        # s3://key:secret@bucket works elsewhere, but a configuration is stored: in the run, in checkpoints, in MLflow
        if isinstance(value, str) and storage.redact(value) != value:
            raise ValueError(
                f"found {storage.redact(value)}: a configuration is stored with its run, so it takes no keys; set "
                "them in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, MLFLOW_TRACKING_PASSWORD)"
            )
        return value
