"""A batch through tensor kernels in parts, so that what they allocate on the way is small beside the batch itself.

Kernels hold up to seven float copies of what they work on. In eight parts of a batch that is less than one copy of the whole.
Small batches are done whole: it would take longer to call kernels for their parts than to work on them.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from augment import threads
from augment.compose import to_dtype
from augment.sampling import Params

PARTS = 8
"""Parts of a batch at most."""

SMALL = 1024 * 1024
"""Values of a batch up to which it is done whole: 4 MiB as floats."""

VALUES_A_PART = 128 * 1024
"""Values of a part at least, for each thread of a CPU."""
VALUES_A_LAUNCH = 1024 * 1024
"""The same on other devices, where small parts would leave most of the device idle."""

Work = Callable[[Tensor, Sequence[Params]], Tensor]


def size_of_part(images: Tensor) -> int:
    """How many images go through kernels at once."""
    least = VALUES_A_PART * threads.at_hand() if images.device.type == "cpu" else VALUES_A_LAUNCH
    return min(max(-(-len(images) // PARTS), -(-least // images[0].numel())), len(images))


def are_wanted(images: Tensor, params: Sequence[Params]) -> bool:
    """Not in a graph of ``torch.compile``, whose sizes are symbols, and not where gradients are wanted, which keep it all."""
    if torch.compiler.is_compiling() or images.numel() <= SMALL:
        return False
    given = (images, *(value for drawn in params for value in drawn.values()))
    return not (torch.is_grad_enabled() and any(each.requires_grad for each in given))


def in_parts(
    work: Work, images: Tensor, params: Sequence[Params], dtype: torch.dtype | None, *, may_overwrite: bool = False
) -> Tensor:
    """``work(images, params)`` in memory of its own, as ``dtype`` where one is given; each image by itself.

    ``may_overwrite``: the memory may be that of the images, where the result has their size and type.
    """
    size, result = size_of_part(images), None
    for start in range(0, len(images), size):
        some = slice(start, start + size)
        done = work(images[some], [{key: value[some] for key, value in drawn.items()} for drawn in params])
        if result is None:
            kind = dtype or done.dtype
            fits = may_overwrite and (done.shape[1:], kind) == (images.shape[1:], images.dtype)
            result = images if fits else done.new_empty((len(images), *done.shape[1:]), dtype=kind)
        _put(done, result[some])
    assert result is not None
    return result


def _put(done: Tensor, part: Tensor) -> None:
    """Write it there, values kept on their scale."""
    if done.is_floating_point() and part.is_floating_point():
        part.copy_(done)
    elif part.dtype == torch.float32:
        part.copy_(done).div_(255)
    else:
        part.copy_(to_dtype(done, part.dtype))


def with_partners(mix: Callable[[Tensor, Tensor, slice], Tensor], images: Tensor) -> Tensor:
    """Overwrite each image by ``mix(images, partners, which)``; its partner is the image before it, as it was."""
    size, last = size_of_part(images), images[-1:].clone()
    for start in reversed(range(0, len(images), size)):  # from the end: partners of what is left are as they were
        end = min(start + size, len(images))
        partners = images[start - 1 : end - 1] if start else torch.cat([last, images[: end - 1]])
        images[start:end] = mix(images[start:end], partners, slice(start, end))
    return images
