"""The fused backend through ``torch.compile``: one graph, whatever the batch; and without a compiler."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from augment import fused, ops
from augment.catalog import resolve

TOLERANCE = 2e-4
"""Float32 sums in another order, divided by standard deviations."""


def noise(count: int, side: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("recipe", ["d2l", "randaugment", "imagenet", "cutmix"])
def test_compiles_whole_and_once_for_all_batch_sizes_and_contents(recipe: str) -> None:
    """Graph capture only: what a compiler makes of it is its own affair, and takes minutes."""
    torch._dynamo.reset()
    counter = CompileCounter()
    planned = fused.plan(resolve(recipe, 32))
    apply = fused.compile_whole(planned.apply, backend=counter)
    for seed, count in enumerate((6, 9, 6, 17)):
        images = noise(count, 48, seed)
        params = planned.sample(count, 48, 48, torch.Generator().manual_seed(seed))
        wrong = (apply(images, params).float() - planned.apply(images, params).float()).abs() > TOLERANCE
        # Behind a threshold (posterize, solarize, equalize) a difference in the last bit is a whole step.
        assert wrong.float().mean() <= (2e-3 if recipe == "randaugment" else 0)
    assert counter.frame_count == 1


def test_without_a_compiler_one_warning_and_the_same_pixels() -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise FileNotFoundError("no compiler")

    torch._dynamo.reset()
    images = noise(4, 16)
    planned = fused.plan([ops.Invert(), ops.Normalize()])
    params = planned.sample(4, 16, 16)
    apply = fused.compile_whole(planned.apply, backend=broken)
    with pytest.warns(RuntimeWarning, match=r"torch\.compile failed.*without it") as caught:
        results = [apply(images, params) for _ in range(3)]
    assert len(caught) == 1
    assert all(torch.equal(result, planned.apply(images, params)) for result in results)
