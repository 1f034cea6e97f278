"""Runs a sweep on the cluster that this job was submitted to.

ray job submit --working-dir . -- python jobs/tune.py --config jobs/configs/sweep.yaml --set sweep.uri=s3://bucket/sweeps/a
"""

import sys

from foodseg.cli.main import run

if __name__ == "__main__":
    sys.exit(run(["tune", "--address", "auto", *sys.argv[1:]]))
