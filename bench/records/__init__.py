"""Records: what was measured, as typed structs, and the folders that hold them. No torch here, and nothing of ``bench``."""

from bench.records.audits import *  # noqa: F403
from bench.records.base import *  # noqa: F403
from bench.records.cases import *  # noqa: F403
from bench.records.folder import *  # noqa: F403
from bench.records.machines import *  # noqa: F403
from bench.records.merge import *  # noqa: F403
from bench.records.structs import *  # noqa: F403
from bench.records.words import *  # noqa: F403
