"""Masks of Segment Anything kept beside a data set: made on Ray, resumed, replaced only on request, used for scores."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch

from foodseg import storage
from foodseg.cli.main import run as cli
from foodseg.data.image_io import decode_image
from foodseg.data.reader import RowReader
from foodseg.data.sam_masks import FILE, FOLDER, read_kept_masks
from foodseg.data.shards import read_manifest
from foodseg.errors import UserError
from foodseg.models.sam.mask_grid import MaskGrid
from foodseg.models.sam.sam import SamModel
from foodseg.prepare import ray_masks
from foodseg.prepare.ray_masks import make_masks
from tests.support.tiny_checkpoints import write_checkpoint
from tests.support.tiny_world import write_meals_and_data
from tests.unit.models.sam.test_sam import CPU, tiny_sam

GRID = MaskGrid(points_per_side=2, points_per_batch=4, predicted_iou=-9.0, stability=-1.0)
