"""The ops: everything about one stands in the file of its theme, as a class. A new class is an op of ours at once."""

# isort: off  (the order of import is the order of ops in tables)
from augment.ops.geometry import *  # noqa: F403
from augment.ops.colour import *  # noqa: F403
from augment.ops.erasing import *  # noqa: F403
from augment.ops.policies import *  # noqa: F403
from augment.ops.mixing import *  # noqa: F403
from augment.ops.defaults import *  # noqa: F403
