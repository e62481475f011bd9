"""The fused backend: torchvision's ops with a draw for each image, a recipe planned as a whole, over the batch at once.

One plan (``passes``, ``plans``) is read by each executor: C on a CPU (``cpu``), Triton on CUDA (``cuda``), tensor operations
anywhere (``kinds``, ``tensors``, ``geometry``). Nothing here knows an op: each says by a kind how it is done (``kinds``).
"""

from augment.fused.plans import Implementation, Plan, plan
from augment.fused.runner import Runner, compose, prepare_run
from augment.op import OPS

__all__ = ["SUPPORTED", "Implementation", "Plan", "Runner", "compose", "plan", "prepare_run"]


def __getattr__(name: str) -> frozenset[str]:
    if name == "SUPPORTED":  # computed when asked for: ops are registered later than this module is imported
        return frozenset(op.__name__ for op in OPS.values() if op.fused is not None)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
