"""Who works on what: threads are limited, restored, and whole images shared out."""

import threading
import time
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from augment import fused, ops, threads
from augment.ops import Op
from augment.sampling import Params


@pytest.fixture(autouse=True)
def _three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_threads_grow_with_the_batch_and_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "VALUES_A_THREAD", 1000)
    seen: list[int] = []

    def watch(stage_ops: Sequence[Op], images: Tensor, params: Sequence[Params]) -> Tensor:
        seen.append(torch.get_num_threads())
        return images

    planned = fused.Plan((ops.Normalize(),), (fused.Stage((ops.Normalize(),), watch),))
    for side in (1, 20, 64):
        planned.apply(torch.zeros(2, 3, side, side), [{}])
    assert seen == [1, 2, 3]
    assert torch.get_num_threads() == 3


def test_threads_are_restored_after_an_error() -> None:
    with pytest.raises(RuntimeError):
        fused.plan([ops.Rotate()]).apply(torch.zeros(2, 3, 8, 8), [{"angle": torch.zeros(2, 5)}])
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("inference", [False, True])
def test_images_shared_out_between_threads_are_the_same(inference: bool) -> None:
    images = torch.randint(0, 256, (7, 3, 90, 80), dtype=torch.uint8)
    planned = fused.plan([ops.RandomResizedCrop(size=70), ops.HorizontalFlip()])
    params = planned.sample(7, 90, 80, torch.Generator().manual_seed(0))
    results = []
    for count in (1, 3):
        torch.set_num_threads(count)
        with torch.inference_mode(inference):
            results.append(planned.apply(images, params))
    assert torch.equal(*results)


def test_work_is_shared_out_whole_and_errors_come_back() -> None:
    done: list[int] = []
    by: set[int] = set()

    def work(part: range) -> None:
        done.extend(part)
        by.add(threading.get_ident())
        assert torch.get_num_threads() == 1
        if 6 in part:
            raise ValueError("six")

    with threads.enough_for(torch.device("cpu"), 10), pytest.raises(ValueError, match="six"):
        threads.share(work, 7)
    assert sorted(done) == list(range(7))
    assert len(by) > 1


@pytest.mark.parametrize("failing", [0, 1])
def test_nobody_works_on_after_an_error(failing: int) -> None:
    """They write to memory of the caller, who lets go of it."""
    done: list[int] = []

    def work(part: range) -> None:
        if part.start == failing:
            raise KeyboardInterrupt if failing == 0 else ValueError
        time.sleep(0.05)
        done.append(part.start)

    with pytest.raises((KeyboardInterrupt, ValueError)):
        threads.share(work, 3, 3)
    assert len(done) == 2


def test_outside_nobody_is_known_to_be_idle() -> None:
    by: list[int] = []
    threads.share(lambda part: by.append(threading.get_ident()), 7)
    assert by == [threading.get_ident()]
