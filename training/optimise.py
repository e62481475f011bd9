"""The loss, the optimizer, and the step size as a pure function of the step.

Nothing here keeps a state of its own: a resumed run asks for the step that it has come to.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.config import Schedule, TrainConfig
from training.models import SpeedNet

DECAY_SHARE = 0.3
"""Share of all steps in which a trapezoid falls."""


def loss(logits: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    """Return the mean cross entropy of logits [B, C] against labels [B] or soft targets [B, C].

    Smoothing s makes (1 - s) t + s / C of a target t, with soft (mixed) targets too.
    """
    return F.cross_entropy(logits, targets, label_smoothing=label_smoothing)


def make_optimizer(config: TrainConfig, model: nn.Module, *, capturable: bool = False) -> torch.optim.Optimizer:
    """Return Adam (AdamW's decoupled decay), or SGD with Nesterov momentum, over all trained parameters.

    Groups: weights; parameters of batch norms, with ``bias_rate`` times the step size; biases of other layers; with
    ``whiten_bias_epochs`` SpeedNet's first bias. Weights decay, with ``decay_biases`` all parameters by the same share a step.
    ``rate`` of a group is its largest step size, which ``set_step_size`` scales; it is trained for ``epochs``.
    ``capturable``: for a CUDA graph.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    whitening = [model.first.bias] if config.whiten_bias_epochs and isinstance(model, SpeedNet) else []
    norm_ids = {id(p) for module in model.modules() if isinstance(module, nn.BatchNorm2d) for p in module.parameters()}
    weights = [parameter for parameter in trained if parameter.ndim >= 2]
    norms = [parameter for parameter in trained if id(parameter) in norm_ids]
    decided = norm_ids | {id(parameter) for parameter in whitening}
    biases = [parameter for parameter in trained if parameter.ndim < 2 and id(parameter) not in decided]
    rate, bias_decay = config.learning_rate, config.weight_decay if config.decay_biases else 0.0
    groups: list[dict[str, Any]] = [
        {"params": parameters, "lr": group_rate, "rate": group_rate, "weight_decay": decay, "epochs": epochs}
        for parameters, group_rate, decay, epochs in (
            (weights, rate, config.weight_decay, math.inf), (biases, rate, bias_decay, math.inf),
            (norms, rate * config.bias_rate, bias_decay / config.bias_rate, math.inf),
            (whitening, rate, bias_decay, config.whiten_bias_epochs),
        )
        if parameters
    ]  # fmt: skip
    fused = any(parameter.is_cuda for parameter in trained)  # one kernel for all parameters
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=config.momentum, nesterov=config.momentum > 0, fused=fused)
    return torch.optim.AdamW(groups, fused=fused, capturable=capturable)


_AFTER_WARM_UP: Mapping[Schedule, Callable[[float, float], float]] = {
    "constant": lambda progress, share: 1.0,
    "cosine": lambda progress, share: (1 + math.cos(math.pi * progress)) / 2,
    "one_cycle": lambda progress, share: 1 - progress,
    "trapezoid": lambda progress, share: min(1.0, (1 - share) / DECAY_SHARE),
}
"""Factor of the step size by schedule, from the shares done of the steps after warming up and of all steps."""


def step_size(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """Return the step size at ``step`` (counted from 0 over all epochs) as a share of the largest one.

    While warming up (W = warm_up_epochs in steps, rounded) it goes (step + 1) / (W + 1) of the way from ``first_rate`` to 1, so
    that no step is wasted on 0; then the schedule's, which comes to ``last_rate`` right after the last step.
    """
    total = config.epochs * steps_per_epoch
    warm_up = round(config.warm_up_epochs * steps_per_epoch)
    if step < warm_up:
        return config.first_rate + (1 - config.first_rate) * (step + 1) / (warm_up + 1)
    factor = _AFTER_WARM_UP[config.schedule]((step - warm_up) / max(1, total - warm_up), step / total)
    return config.last_rate + (1 - config.last_rate) * factor


def set_step_size(optimizer: torch.optim.Optimizer, share: float, epoch: int = 1) -> None:
    """Scale the step size of each group: a number on the host, or a tensor that is written in place; no device is read."""
    for group in optimizer.param_groups:
        size = group["rate"] * share if epoch <= group["epochs"] else 0.0
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(size)
        else:
            group["lr"] = size


def phases(optimizer: torch.optim.Optimizer, epochs: int) -> list[int]:
    """Return the epochs from which on fewer parameters are trained, after the first one."""
    starts = {1, *(group["epochs"] + 1 for group in optimizer.param_groups)}
    return sorted(epoch for epoch in starts if epoch <= epochs)


def start_phase(optimizer: torch.optim.Optimizer, epoch: int) -> int:
    """Leave parameters whose epochs are over out of the backward pass; return the first epoch of this phase."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.requires_grad_(epoch <= group["epochs"])
    return phases(optimizer, epoch)[-1]


def keep_step_size_on(device: torch.device, optimizer: torch.optim.Optimizer) -> None:
    """Make the step size of each group a tensor on the device, which a captured step reads; a tensor is kept."""
    dtype = torch.float32 if device.type == "cuda" else torch.float64  # float32 is what the fused kernels take
    for group in optimizer.param_groups:
        group["lr"] = torch.as_tensor(group["lr"], dtype=dtype, device=device)


def moments(optimizer: torch.optim.Optimizer) -> list[tuple[Tensor, Tensor]]:
    """Return the tensors of an optimizer's state, each behind its parameter."""
    return [(p, value) for p, state in optimizer.state.items() for value in state.values() if isinstance(value, Tensor)]


class SlowWeights:
    """Slow weights (lookahead, Zhang et al. 2019) that a model is averaged with in place, all of its float state.

    The share d that the slow weights keep grows with the cube of the progress, as in cifar10-airbench: at first they follow.
    """

    def __init__(self, model: nn.Module, every: int, steps: int) -> None:
        self._every, self._steps = every, steps
        self._fast = [value for value in model.state_dict().values() if value.is_floating_point()]
        self._slow = [value.clone() for value in self._fast]

    @torch.no_grad()
    def update(self, done: int) -> None:
        """Average after so many steps, if it is time; after the last one the model gets the slow weights."""
        is_last = done == self._steps
        if done % self._every and not is_last:
            return
        if not is_last or done % self._every == 0:
            kept = 0.95**self._every * (done / self._steps) ** 3
            torch._foreach_lerp_(self._slow, self._fast, 1 - kept)
        torch._foreach_copy_(self._fast, self._slow)

    def state(self) -> list[Tensor]:
        """Return the slow weights, for a checkpoint."""
        return self._slow

    def load(self, state: Sequence[Tensor]) -> None:
        """Take the slow weights of a checkpoint. Raises ValueError or RuntimeError if they do not fit."""
        for value, saved in zip(self._slow, state, strict=True):
            value.copy_(saved)
