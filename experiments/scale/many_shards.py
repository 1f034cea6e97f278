"""Seconds and requests from `foodseg train` to its first step, on a data set of many shards in a slow object storage.

A SeaweedFS on this machine holds shards of three small images; a proxy holds back each request of the command.

    python -m experiments.scale.many_shards --shards 1000 --latency 0.03 --columns --workers 1

`--columns`: with repeat-factor sampling and copy-paste, which need the ingredients of every row before the first step.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from foodseg.checkpoint.find import list_checkpoints
from foodseg.config.load import to_yaml
from tests.support.many_shards import write_many
from tests.support.s3_proxy import S3Proxy
from tests.support.s3_server import S3Server
from tests.support.synthetic_set import synthetic_config

BUCKET = "many"
RUN = f"s3://{BUCKET}/run"


def measure(shards: int, latency: float, *, columns: bool, workers: int) -> dict[str, object]:
    """Returns seconds until the checkpoint of the first step is there, and the requests until then by kind.

    Args:
        latency: seconds that each request waits.
        columns: whether the order needs columns of every row.
        workers: of Ray Train; 0 = without Ray.
    """
    with S3Server() as server, S3Proxy(server.endpoint, latency) as proxy, tempfile.TemporaryDirectory() as folder:
        server.make_bucket(BUCKET)
        os.environ.update(server.env())
        manifest = write_many(f"s3://{BUCKET}/data", shards)
        wanted = ["augment.paste=0.5", "data.repeat_threshold=0.2"] if columns else []
        config = Path(folder, "run.yaml")
        settings = ["train.steps=600", "train.checkpoint_every=1", f"scaling.num_workers={workers}", *wanted]
        config.write_text(to_yaml(synthetic_config(f"s3://{BUCKET}/data", RUN, *settings)))
        command = [sys.executable, "-m", "foodseg", "train", "-c", str(config)]
        began = time.monotonic()
        with Path(folder, "log").open("w+") as log:
            environment = {**os.environ, "AWS_ENDPOINT_URL": proxy.endpoint}
            training = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
            try:
                while not list_checkpoints(RUN):  # asks the server itself: not counted
                    if training.poll() is not None:
                        raise RuntimeError(f"foodseg train ended: {Path(log.name).read_text()[-2000:]}")
                    time.sleep(0.1)
                seconds, requests = time.monotonic() - began, _by_kind(proxy.requests)
            finally:
                training.terminate()
                training.wait()
    return {
        "shards": len(manifest.shards), "latency": latency, "columns": columns, "workers": workers,
        "seconds": round(seconds, 1), "requests": sum(requests.values()), "by_kind": requests,
    }  # fmt: skip


def _by_kind(requests: Counter[tuple[str, str]]) -> dict[str, int]:
    kinds: Counter[str] = Counter()
    for (method, path), count in requests.copy().items():
        kinds[f"{method} {'shard' if path.endswith('.parquet') else 'other'}"] += count
    return dict(sorted(kinds.items()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--latency", type=float, default=0.03, help="seconds of each request")
    parser.add_argument("--columns", action="store_true")
    parser.add_argument("--workers", type=int, default=0, help="of Ray Train; 0 = without Ray")
    given = parser.parse_args()
    print(json.dumps(measure(given.shards, given.latency, columns=given.columns, workers=given.workers)))
