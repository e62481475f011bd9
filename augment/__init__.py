"""What augbench compares: the same augmentations, by library and by way of running. Start at ``augment.catalog``."""

from augment.catalog import BACKENDS, ROWS, UnsupportedOp, build, lane
from augment.compose import Pipeline
from augment.recipes import RECIPES

__all__ = ["BACKENDS", "RECIPES", "ROWS", "Pipeline", "UnsupportedOp", "build", "lane"]
