"""Is anything lost when parts of a run are killed, and is bad input refused clearly? `python -m experiments faults`."""

from typing import Any

from experiments.item_queue import Bench, Item


def kills(bench: Bench) -> dict[str, Any]:
    """Killed workers, drivers and servers, torn checkpoints."""
    return bench.run_tests("tests/integration/test_faults.py")


def bad_input(bench: Bench) -> dict[str, Any]:
    """Common mistakes: one sentence and an exit code each."""
    return bench.run_tests("tests/e2e/test_bad_input.py")


ITEMS: list[Item] = [("kills", kills), ("bad_input", bad_input)]
