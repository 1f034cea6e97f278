"""`run`: where a training run is stored."""

from typing import Annotated

from pydantic import Field

from foodseg.config.marks import Uri
from foodseg.config.section import Section


class RunConfig(Section):
    """A run is one directory, local or in object storage."""

    uri: Annotated[str, Uri(written=True)] = Field(
        "runs/default", description="run directory (a folder or s3://bucket/prefix): checkpoints, logs, config"
    )
