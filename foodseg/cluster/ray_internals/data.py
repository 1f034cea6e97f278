"""What foodseg takes from the private parts of Ray Data: the class that its execution callbacks are derived from.

`DataContext.custom_execution_callback_classes` is public, but the base class of what it lists is not. A class of
ours (`PacedScheduling` of `data/ray_stream.py`) is derived from it, so it is imported with this module.
"""

from ray.data._internal.execution.execution_callback import ExecutionCallback

__all__ = ["ExecutionCallback"]
