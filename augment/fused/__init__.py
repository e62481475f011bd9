"""The fused backend: torchvision's ops with a draw for each image, a recipe planned as a whole, over the batch at once.

One plan (``passes``, ``plans``) is read by each executor: C on a CPU (``cpu``), Triton on CUDA (``cuda``), tensor operations
anywhere (``kinds``, ``tensors``, ``geometry``). Nothing here knows an op: each says by a kind how it is done (``kinds``).
"""

from augment.fused.plans import Implementation, Plan, plan
from augment.fused.runner import Runner, compose, prepare_run

__all__ = ["Implementation", "Plan", "Runner", "compose", "plan", "prepare_run"]
