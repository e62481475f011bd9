"""What augmark compares: the same augmentations, by library and by way of running. Start at ``augment.catalog``."""

from augment.catalog import BACKENDS, ROWS, build, lane
from augment.compose import Pipeline
from augment.recipes import RECIPES
from augment.rows.row import UnsupportedOp

__all__ = ["BACKENDS", "RECIPES", "ROWS", "Pipeline", "UnsupportedOp", "build", "lane"]
