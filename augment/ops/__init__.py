"""The ops: everything about one stands in the file of its theme, as a class. A new class is an op of ours at once."""

# ruff: noqa: F403, I001  the order of import is the order of ops in tables
from augment.ops.geometry import *
from augment.ops.colour import *
from augment.ops.erasing import *
from augment.ops.policies import *
from augment.ops.mixing import *
from augment.ops.defaults import *
