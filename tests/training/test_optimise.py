"""Loss, groups and step sizes against hand calculations and closed forms."""

import math
from dataclasses import replace
from typing import get_args

import pytest
import torch

from tests.conftest import present
from training import loop, models
from training.config import Schedule, TrainConfig
from training.data import Dataset
from training.optimise import SlowWeights, loss, make_optimizer, set_step_size, step_size
from training.presets import PRESETS

LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0], [0.0, 0.0, 3.0, 0.0]])
SCHEDULES = get_args(Schedule)


def by_hand(targets: list[list[float]], smoothing: float) -> float:
    """Return the mean of -sum q log p with q = (1 - s) t + s / C, in plain Python."""
    total = 0.0
    for row, target in zip(LOGITS.tolist(), targets, strict=True):
        log_sum = math.log(sum(math.exp(value) for value in row))
        smooth = ((1 - smoothing) * t + smoothing / len(row) for t in target)
        total -= sum(q * (value - log_sum) for q, value in zip(smooth, row, strict=True))
    return total / len(targets)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.2])
def test_label_smoothing_is_its_definition_for_labels_and_for_mixed_targets(smoothing: float) -> None:
    hard = loss(LOGITS, torch.tensor([0, 2]), smoothing)
    assert hard.item() == pytest.approx(by_hand([[1, 0, 0, 0], [0, 0, 1, 0]], smoothing), rel=1e-6)  # float32
    mixed = [[0.7, 0.3, 0.0, 0.0], [0.0, 0.5, 0.5, 0.0]]
    assert loss(LOGITS, torch.tensor(mixed), smoothing).item() == pytest.approx(by_hand(mixed, smoothing), rel=1e-6)


@pytest.mark.parametrize(
    ("schedule", "step", "share"),
    [
        # 2 of 10 epochs of 10 steps warm up
        *((name, step, share) for name in SCHEDULES for step, share in ((0, 1 / 21), (19, 20 / 21), (20, 1.0))),
        ("constant", 99, 1.0),
        ("cosine", 40, (1 + math.sqrt(0.5)) / 2),  # a quarter of the way: cos 45 degrees
        ("cosine", 60, 0.5),
        ("cosine", 99, (1 + math.cos(math.pi * 79 / 80)) / 2),
        ("one_cycle", 60, 0.5),
        ("one_cycle", 99, 1 / 80),  # the next step would be 0
        ("trapezoid", 70, 1.0),
        ("trapezoid", 85, 0.5),
        ("trapezoid", 99, 1 / 30),
    ],
)
def test_step_sizes_follow_the_closed_forms(schedule: Schedule, step: int, share: float) -> None:
    config = TrainConfig(schedule=schedule, epochs=10, warm_up_epochs=2)
    assert step_size(config, step, steps_per_epoch=10) == pytest.approx(share)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_no_step_is_wasted_and_none_is_above_the_largest(schedule: Schedule) -> None:
    for warm_up in (0, 0.5, 3, 4):
        config = TrainConfig(schedule=schedule, epochs=4, warm_up_epochs=warm_up)
        shares = [step_size(config, step, steps_per_epoch=7) for step in range(28)]
        assert all(0 < share <= 1 for share in shares)
        top = shares.index(max(shares))
        assert (shares[: top + 1], shares[top:]) == (sorted(shares[: top + 1]), sorted(shares[top:], reverse=True))


def test_first_and_last_rates_are_where_the_step_size_starts_and_ends() -> None:
    config = TrainConfig(schedule="one_cycle", epochs=10, warm_up_epochs=2, first_rate=0.2, last_rate=0.07)
    shares = [step_size(config, step, steps_per_epoch=10) for step in (0, 19, 20, 60, 99)]
    assert shares == pytest.approx([0.2 + 0.8 / 21, 0.2 + 0.8 * 20 / 21, 1.0, 0.07 + 0.93 / 2, 0.07 + 0.93 / 80])


def test_slow_weights_by_hand() -> None:
    """A weight that grows by 1 a step, averaged every 2 of 5 steps; integers (counts of batches) stay as they are."""
    model = torch.nn.BatchNorm1d(1)
    slow, count = SlowWeights(model, every=2, steps=5), present(model.num_batches_tracked)
    expected_slow = expected = 1.0
    for done in range(1, 6):
        with torch.no_grad():
            model.weight.add_(1)
        count.add_(1)
        expected += 1
        slow.update(done)
        if done % 2 == 0:
            kept = 0.95**2 * (done / 5) ** 3
            expected_slow = kept * expected_slow + (1 - kept) * expected
        if done in (2, 4, 5):
            expected = expected_slow
        assert model.weight.item() == pytest.approx(expected, rel=1e-6)
    assert count.item() == 5


def test_the_whitening_bias_is_trained_for_its_epochs(tiny: TrainConfig, shapes: Dataset) -> None:
    config = replace(tiny, model="speednet", epochs=3, whiten_bias_epochs=1, optimizer="sgd", learning_rate=0.1)
    with loop.open_trainer(config, shapes) as current:
        biases = []
        for epoch in (1, 2, 3):
            current.run_epoch(epoch, evaluate=False)
            assert (current.model.first.bias.grad is None) == (epoch > 1), "no backward pass for it"  # type: ignore[union-attr]
            biases.append(current.model.first.bias.detach().clone())  # type: ignore[union-attr, operator]
        assert biases[0].abs().max() > 0
        assert [bias.equal(biases[0]) for bias in biases] == [True] * 3


def test_weights_decay_and_norms_and_biases_do_not() -> None:
    model = models.create("resnet8", 10, 4)
    config = TrainConfig(optimizer="sgd", learning_rate=0.5, momentum=0.0, weight_decay=0.01, bias_rate=3.0)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = make_optimizer(config, model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    set_step_size(optimizer, 0.1)
    optimizer.step()
    for name, parameter in model.named_parameters():
        rate, decay = (0.05, 0.01) if parameter.ndim >= 2 else (0.05 if name == "head.bias" else 0.15, 0.0)
        torch.testing.assert_close(parameter.detach(), before[name] - rate * (1 + decay * before[name]), msg=name)


def test_the_fast_preset_takes_the_steps_that_airbench_publishes() -> None:
    """Three steps of cifar10-airbench 0.1.8 (``airbench94``) as its comments define them: decoupled, per sum of the losses.

    For a loss summed over B examples the step size is 11.5 / (1024 (1 + 1 / (1 - 0.85))), for biases of norms 64 times that;
    a step decays all parameters alike, by 0.0153 B / (1024 (1 + 1 / (1 - 0.85))) of themselves before momentum.
    """
    model, size, momentum = models.create("speednet", 10, 4).double(), 1024, 0.85
    expected = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
    speed = {name: torch.zeros_like(value) for name, value in expected.items()}
    optimizer = make_optimizer(PRESETS["fast"], model)
    kilostep = 1024 * (1 + 1 / (1 - momentum))
    for share in (0.2, 1.0, 0.07):
        set_step_size(optimizer, share)
        for name, parameter in model.named_parameters():
            if name in expected:
                gradient = torch.randn_like(parameter)  # of the sum
                parameter.grad = gradient / size
                rate = 11.5 / kilostep * (64 if "norm" in name else 1)
                gradient = gradient + 0.0153 * size / kilostep / rate * expected[name]
                speed[name] = momentum * speed[name] + gradient
                expected[name] = expected[name] - share * rate * (gradient + momentum * speed[name])  # Nesterov
        optimizer.step()
    # The preset rounds the decay, 0.0153 / 11.5, to three digits: 3e-4 of what decays, a percent a step.
    for name, value in expected.items():
        torch.testing.assert_close(model.get_parameter(name).detach(), value, atol=1e-5, rtol=1e-5, msg=name)


def test_adam_without_decay_is_plain_adam() -> None:
    nets = [models.create("resnet8", 10, 4) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    optimizers = [make_optimizer(TrainConfig(), nets[0]), torch.optim.Adam(nets[1].parameters(), lr=1e-3)]
    images = torch.randn(8, 3, 16, 16)
    for net, optimizer in zip(nets, optimizers, strict=True):
        for _ in range(3):
            optimizer.zero_grad()
            net(images).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(list(nets[0].parameters()), list(nets[1].parameters()))


def test_each_step_has_its_step_size(tiny: TrainConfig, shapes: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """160 images in batches of 48 are 4 steps an epoch: the step sizes of both epochs, as the optimizer meets them."""
    met: list[float] = []
    original = torch.optim.SGD.step

    def spy(self: torch.optim.SGD, closure: None = None) -> None:
        met.append(self.param_groups[0]["lr"])
        original(self, closure)

    monkeypatch.setattr(torch.optim.SGD, "step", spy)
    loop.train(replace(tiny, optimizer="sgd", learning_rate=0.08, schedule="one_cycle", warm_up_epochs=0.75), shapes)
    assert met == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.064, 0.048, 0.032, 0.016])


def test_training_smooths_labels(tiny: TrainConfig, shapes: Dataset) -> None:
    """With a step size that moves nothing, the losses of one net with and without smoothing have a known relation."""
    still = replace(tiny, optimizer="sgd", learning_rate=1e-12, recipe="none", epochs=1)
    plain, smooth, uniform = (
        loop.train(replace(still, label_smoothing=share), shapes).last.train_loss for share in (0.0, 0.5, 0.999999)
    )
    assert smooth == pytest.approx((plain + uniform) / 2, rel=1e-4)
    assert uniform > math.log(10) * 0.999  # no prediction beats the uniform one against uniform targets
