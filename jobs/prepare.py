"""Prepares a data set on the cluster that this job was submitted to.

ray job submit --working-dir . -- python jobs/prepare.py s3://bucket/raw/meals s3://bucket/meals
ray job submit --working-dir . -- python jobs/prepare.py hf://datasets/EduardoPacheco/FoodSeg103 s3://bucket/foodseg103
"""

import sys

from foodseg.cli.main import run

if __name__ == "__main__":
    sys.exit(run(["data", "prepare", "--address", "auto", *sys.argv[1:]]))
