"""What the tests of training share."""

import pytest

from tests.support.synthetic_set import write_synthetic


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A synthetic data set for each module."""
    return write_synthetic(tmp_path_factory.mktemp("data"))
