"""Trains on the cluster that this job was submitted to.

ray job submit --working-dir . -- python jobs/train.py --config jobs/configs/foodmix.yaml --set run.uri=s3://bucket/runs/a
"""

import sys

from foodseg.cli.main import run

if __name__ == "__main__":
    sys.exit(run(["train", "--address", "auto", *sys.argv[1:]]))
