"""Time the trainer's epochs beside plain PyTorch that does the same work, a step of each in turns: DATA [WIDTH] [compile]."""

import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.nn import functional as F

from training import models
from training.config import TrainConfig
from training.data import load
from training.loop import open_trainer

config = TrainConfig(
    model="resnet8", width=int(next(filter(str.isdigit, sys.argv[2:]), "8")), epochs=40, batch_size=100, optimizer="sgd",
    learning_rate=0.05, device="cpu", augment_on="none", resident=True, compile="compile" in sys.argv,
)  # fmt: skip
dataset = load(sys.argv[1], root=Path("data"), max_train=1000, max_test=100)


def bare_steps() -> Iterator[None]:
    """Yield after each step: pick, normalise, forward, backward, SGD."""
    model = models.create(config.model, 10, config.width).train()
    net = torch.compile(model, dynamic=False) if config.compile else model
    optimizer = torch.optim.SGD(model.parameters(), lr=config.learning_rate, momentum=config.momentum, nesterov=True)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)))
    while True:
        for indices in torch.randperm(len(dataset.train)).split(config.batch_size):
            batch = dataset.train.images[indices].float().div_(255).sub_(mean).div_(std)
            loss = F.cross_entropy(net(batch), dataset.train.labels[indices])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            yield


def clocks() -> torch.Tensor:
    """Return wall time and CPU time of all threads in seconds."""
    return torch.tensor([time.perf_counter(), time.process_time()], dtype=torch.float64)


steps, bare_s, ratios = bare_steps(), torch.zeros(2, dtype=torch.float64), []


def take_bare_step(*count: int) -> None:
    """Take a bare step after one of the trainer."""
    before = clocks()
    next(steps)
    bare_s.add_(clocks() - before)


with open_trainer(config, dataset) as trainer:
    trainer.warm_up()
    take_bare_step()
    for epoch in range(1, config.epochs + 1):
        bare_s.zero_()
        begin = clocks()
        trainer.run_epoch(epoch, take_bare_step, evaluate=False)
        ratios.append((clocks() - begin - bare_s) / bare_s)
for clock, values in zip(("wall", "CPU"), torch.stack(ratios[1:]).T.tolist(), strict=True):
    low, middle, high = statistics.quantiles(values, n=4)
    print(f"{clock} time of the trainer over the bare loop: median {middle:.3f}, quartiles {low:.3f} to {high:.3f} of epochs")
