"""Evaluates on the cluster that this job was submitted to.

ray job submit --working-dir . -- python jobs/evaluate.py s3://bucket/runs/a --data s3://bucket/meals --split val --out s3://bucket/runs/a/val
"""

import sys

from foodseg.cli.main import run

if __name__ == "__main__":
    sys.exit(run(["evaluate", "--address", "auto", *sys.argv[1:]]))
