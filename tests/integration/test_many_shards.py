"""Requests to an object storage until the first batch of a data set of many shards, counted between it and us."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from foodseg.data.reader import RowReader
from foodseg.prepare.verify_shards import verify_shards
from foodseg.train.context import LocalContext
from foodseg.train.run import plan_run
from tests.conftest import BUCKET
from tests.support.many_shards import ROWS, write_many
from tests.support.s3_proxy import S3Proxy
from tests.support.s3_server import S3Server
from tests.support.synthetic_set import synthetic_config

SHARDS = 200
MOST = SHARDS + 20  # requests to read all once: so small a file comes with its footer, and a few may be tried again


@pytest.fixture(scope="module")
def data(s3: S3Server) -> str:
    uri = f"s3://{BUCKET}/many"
    write_many(uri, SHARDS)
    return uri


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Proxy]:
    with S3Proxy(s3.endpoint, seconds=0.003) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.endpoint)
        yield running


def shard_requests(proxy: S3Proxy) -> Counter[str]:
    return Counter({path: n for (_, path), n in proxy.requests.items() if path.endswith(".parquet")})


def test_a_plan_opens_no_shard_that_it_does_not_need(data: str, proxy: S3Proxy, tmp_path: Path) -> None:
    run = plan_run(synthetic_config(data, tmp_path / "run", "train.steps=1000"))
    assert len(run.order.rows(0, 2048)[1]) == 2048 and not shard_requests(proxy)
    with LocalContext(run.config, run.manifest, run.reader, run.order) as context:
        next(context.batches(0, 1000)).position.tolist()
    assert proxy.requests.total() < 30 + 3 * 64, "three blocks of 64 rows at most, each in its own shard"


def test_columns_of_all_shards_are_read_in_one_go(data: str, proxy: S3Proxy, tmp_path: Path) -> None:
    config = synthetic_config(data, tmp_path / "run", "augment.paste=0.5", "data.repeat_threshold=0.2")
    run = plan_run(config)
    opened = shard_requests(proxy)
    assert len(opened) == SHARDS and opened.total() <= MOST
    assert run.reader.take(range(SHARDS * ROWS)).num_rows == SHARDS * ROWS
    again = shard_requests(proxy) - opened
    assert len(again) == SHARDS and again.total() <= MOST


def test_every_shard_is_verified(data: str, proxy: S3Proxy) -> None:
    manifest = plan_run(synthetic_config(data, "run")).manifest
    assert verify_shards(data, manifest) == sum(shard.size for shard in manifest.shards)
    assert shard_requests(proxy).total() <= MOST
    assert len(RowReader(data, manifest, ["train"])) == SHARDS * ROWS
