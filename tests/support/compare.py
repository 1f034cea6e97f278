"""Comparisons that hold on every processor: floats but for rounding, ids where rounding does not decide.

Which kernels compute depends on the processor, the number of threads and the shape of a batch. What one process
computes twice from the same shapes is the same to the bit: compare that with `torch.equal`, and all else with these.

assert_close(found, expected)                # tensors, arrays
assert found == close(expected)              # a number, or a list or dict of them
assert_same_ids(ids, other, scores_of(logits))
"""

from typing import Any

import numpy as np
import pytest
import torch

from foodseg.predict.image_logits import ImageLogits

RELATIVE, ABSOLUTE = 1e-4, 1e-6
# Terms of a sum may cancel out: an element near 0 is as wrong as the large ones are, and those are known to 7 digits.
OF_THE_LARGEST = 1e-5
CLOSE_CALL = 1e-4  # of logits, below which either id is right
MOST_CLOSE_CALLS = 0.05


def close(expected: Any) -> Any:
    """Returns what equals `expected`, numbers, but for rounding."""
    return pytest.approx(expected, rel=RELATIVE, abs=ABSOLUTE)


def assert_close(found: Any, expected: Any, name: str = "") -> None:
    """Two tensors or arrays of one shape and type are the same but for rounding."""
    found, expected = torch.as_tensor(found), torch.as_tensor(expected)
    largest = float(expected.detach().abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(
        found, expected, rtol=RELATIVE, atol=max(ABSOLUTE, OF_THE_LARGEST * largest), msg=lambda said: f"{name} {said}"
    )


def assert_same_ids(found: np.ndarray, expected: np.ndarray, logits: np.ndarray | torch.Tensor) -> None:
    """Two label maps (...) are the same where the two greatest of their logits (K, ...) are no close call.

    Nearly all pixels have to be: else nothing would be compared.
    """
    two = torch.as_tensor(logits).topk(2, dim=0).values
    decided = (two[0] - two[1] > CLOSE_CALL).numpy()
    assert found.shape == expected.shape == decided.shape and found.dtype == expected.dtype
    assert decided.mean() > 1 - MOST_CLOSE_CALLS, f"{1 - decided.mean():.1%} of the pixels are close calls"
    np.testing.assert_array_equal(found[decided], expected[decided])


def scores_of(logits: ImageLogits) -> np.ndarray:
    """Returns (K, height, width) scores at the size of the label map."""
    return logits.at(np.arange(logits.height * logits.width)).reshape(-1, logits.height, logits.width)
