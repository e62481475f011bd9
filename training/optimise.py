"""The loss, the optimizer, and the step size as a pure function of the step.

Nothing here keeps a state of its own: a resumed run asks for the step that it has come to.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.config import Schedule, TrainConfig

DECAY_SHARE = 0.3
"""Share of all steps in which a trapezoid falls."""


def loss(logits: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    """Return the mean cross entropy of logits [B, C] against labels [B] or soft targets [B, C].

    Smoothing s makes (1 - s) t + s / C of a target t, with soft (mixed) targets too.
    """
    return F.cross_entropy(logits, targets, label_smoothing=label_smoothing)


def make_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Return Adam (AdamW's decoupled decay), or SGD with Nesterov momentum, over all trained parameters.

    Three groups: weights, with weight decay; without it, parameters of batch norms, with ``bias_rate`` times the step size, and
    biases of other layers. ``rate`` of a group is its largest step size, which ``set_step_size`` scales.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    norm_ids = {id(p) for module in model.modules() if isinstance(module, nn.BatchNorm2d) for p in module.parameters()}
    weights = [parameter for parameter in trained if parameter.ndim >= 2]
    norms = [parameter for parameter in trained if id(parameter) in norm_ids]
    biases = [parameter for parameter in trained if parameter.ndim < 2 and id(parameter) not in norm_ids]
    rate = config.learning_rate
    groups: list[dict[str, Any]] = [
        {"params": parameters, "lr": group_rate, "rate": group_rate, "weight_decay": decay}
        for parameters, group_rate, decay in (
            (weights, rate, config.weight_decay), (norms, rate * config.bias_rate, 0.0), (biases, rate, 0.0)
        )
        if parameters
    ]  # fmt: skip
    fused = any(parameter.is_cuda for parameter in trained)  # one kernel for all parameters
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=config.momentum, nesterov=config.momentum > 0, fused=fused)
    return torch.optim.AdamW(groups, fused=fused)


_AFTER_WARM_UP: Mapping[Schedule, Callable[[float, float], float]] = {
    "constant": lambda progress, share: 1.0,
    "cosine": lambda progress, share: (1 + math.cos(math.pi * progress)) / 2,
    "one_cycle": lambda progress, share: 1 - progress,
    "trapezoid": lambda progress, share: min(1.0, (1 - share) / DECAY_SHARE),
}
"""Factor of the step size by schedule, from the shares done of the steps after warming up and of all steps."""


def step_size(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """Return the step size at ``step`` (counted from 0 over all epochs) as a share of the largest one.

    While warming up (W = warm_up_epochs in steps, rounded) it is (step + 1) / (W + 1), so that no step is wasted on 0; then the
    schedule's, which comes to 0 right after the last step.
    """
    total = config.epochs * steps_per_epoch
    warm_up = round(config.warm_up_epochs * steps_per_epoch)
    if step < warm_up:
        return (step + 1) / (warm_up + 1)
    return _AFTER_WARM_UP[config.schedule]((step - warm_up) / max(1, total - warm_up), step / total)


def set_step_size(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Scale the step size of each group, on the host: nothing is sent to a device or read from it."""
    for group in optimizer.param_groups:
        group["lr"] = group["rate"] * share
