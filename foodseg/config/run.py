"""`run`: where a training run lives."""

from pydantic import Field

from foodseg.config.section import Section


class RunConfig(Section):
    """A run is one directory, local or in object storage."""

    uri: str = Field(
        "runs/default", description="run directory (a folder or s3://bucket/prefix): checkpoints, logs, config"
    )
