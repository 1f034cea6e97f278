"""The versions that matter when somebody asks for help."""

from importlib.metadata import version

from foodseg import __version__


def versions() -> dict[str, str]:
    """Returns the versions of the code, its file formats, Ray and torch."""
    from foodseg.checkpoint.manifest import FORMAT_VERSION as CHECKPOINT_FORMAT
    from foodseg.data.shards import FORMAT_VERSION as DATA_FORMAT

    return {
        "foodseg": __version__,
        "data format": str(DATA_FORMAT),
        "checkpoint format": str(CHECKPOINT_FORMAT),
        "ray": version("ray"),
        "torch": version("torch"),
    }
