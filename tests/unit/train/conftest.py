"""What the tests of training share."""

from collections.abc import Iterator

import pytest
import torch

from tests.drawn import write_drawn


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Numbers that are compared to the bit come from one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A drawn data set of the module's own."""
    return write_drawn(tmp_path_factory.mktemp("data"))
