"""Runs an ablation on the cluster that this job was submitted to.

ray job submit --working-dir . -- python jobs/ablate.py --config jobs/configs/ablate.yaml --set ablation.uri=s3://bucket/ablations/a
"""

import sys

from foodseg.cli.main import run

if __name__ == "__main__":
    sys.exit(run(["ablate", "--address", "auto", *sys.argv[1:]]))
