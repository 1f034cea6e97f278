"""How a trial writes down that its training failed: for good, or to be taken up again."""

from pathlib import Path

import pytest

from foodseg.errors import OutOfMemory, RetryLater, Unavailable, UserError
from foodseg.storage import s3_client
from foodseg.tune.ray_trial import run_trial
from foodseg.tune.trials import Ledger, Trial
from tests.support.synthetic_set import synthetic_config, write_synthetic


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (RetryLater("S3 is away"), "interrupted", "S3 is away"),
        (Unavailable("no room for 2 workers"), "interrupted", "no room for 2 workers"),
        (OutOfMemory("a worker took too much"), "failed", "a worker took too much"),
        (UserError("the loss is NaN"), "failed", "the loss is NaN"),
        (ZeroDivisionError("by 0\nand more"), "failed", "ZeroDivisionError: by 0"),
    ],
)
def test_what_ends_a_trial(
    error: Exception, status: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **settings: object) -> None:
        raise error

    monkeypatch.setattr("foodseg.train.ray_trainer.run_training", fail)
    config = synthetic_config(write_synthetic(tmp_path / "data"), tmp_path / "run", "train.steps=4")
    ledger = Ledger(str(tmp_path / "sweep"))
    ledger.put(Trial("trial-0000", 0, {}, config.model_dump(mode="json")))

    run_trial(str(tmp_path / "sweep"), "trial-0000", "none", None)

    ended = ledger.close("trial-0000")
    assert (ended.status, ended.reason) == (status, reason)


def test_storage_that_is_away_when_a_trial_begins_is_no_wrong_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process is new, and asks for the first time."""
    for name, value in {"ENDPOINT_URL": "http://127.0.0.1:1", "ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": "s"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setattr(s3_client, "_ANSWERED", set())
    monkeypatch.setattr(s3_client, "RETRY_SECONDS", 0.1)
    with pytest.raises(RetryLater, match="cannot read s3://food/sweep/ledger/trial-0000"):
        run_trial("s3://food/sweep", "trial-0000", "none", None)
