"""Where the fused backend's random numbers come from: one call for all that are uniform, and PyTorch's own for the others."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from augment import draws
from augment.ops import Range


@dataclass(slots=True, kw_only=True)
class Source:
    """Random numbers for a batch of ``batch`` images: ``uniforms``, handed out row after row, and what PyTorch draws by itself.

    ``height`` x ``width`` are the images that reach the op whose turn it is. ``uniforms``: float32 [rows, batch] in [0, 1), on
    whole multiples of 2**-24 on a CPU.
    """

    batch: int
    device: torch.device
    generator: torch.Generator | None = None
    uniforms: Tensor | None = None
    taken: int = 0
    height: int = 0
    width: int = 0

    @property
    def options(self) -> dict[str, Any]:
        """For PyTorch's random functions. Where sizes are symbols, they take no generator, not even None."""
        given = {} if self.generator is None else {"generator": self.generator}
        return {"device": self.device, "dtype": torch.float32, **given}

    def draw(self, rows: int) -> None:
        """Draw all uniform numbers, in one call; none where no row is needed."""
        if rows:
            self.uniforms = torch.rand((rows, self.batch), **self.options)

    def unit(self, *shape: int) -> Tensor:
        """Uniform in [0, 1), float32 [B, *shape]: the next rows, one for each number of an image."""
        assert self.uniforms is not None
        rows = self.uniforms[self.taken : self.taken + math.prod(shape)]
        self.taken += math.prod(shape)
        return rows.t().reshape((self.batch, *shape)).contiguous()

    def uniform(self, bounds: Range, *shape: int) -> Tensor:
        """Uniform between the bounds, float32 [B, *shape]."""
        low, high = bounds
        return self.unit(*shape) * (high - low) + low

    def below(self, count: int, *shape: int) -> Tensor:
        """Uniform in 0 .. count - 1, int64 [B, *shape].

        Each is floor(u * count) of 2**24 equally likely u, so that its probability is off 1 / count by a share of at most
        count * 2**-24: 2e-5 for a side of 300 pixels.
        """
        return (self.unit(*shape) * count).floor_().clamp_(max=count - 1).to(torch.int64)

    def below_each(self, counts: Tensor) -> Tensor:
        """As ``below``, a count for each image; float32 whole numbers [B]."""
        return torch.minimum((self.unit() * counts).floor_(), counts - 1)

    def chance(self, p: float, *shape: int) -> Tensor:
        """True with probability ``p``, bool [B, *shape]."""
        return self.unit(*shape) < p

    def weight(self, alpha: float) -> Tensor:
        """Beta(alpha, alpha), float32 [B]."""
        return self.unit() if draws.is_uniform(alpha) else self.beta(alpha)

    def beta(self, alpha: float) -> Tensor:
        """Beta(alpha, alpha), drawn by PyTorch: float32 [B], every second number in memory."""
        return self.dirichlet(alpha, 2)[:, 0]

    def dirichlet(self, alpha: float, count: int) -> Tensor:
        """Symmetric Dirichlet weights, drawn by PyTorch: float32 [B, count]."""
        concentration = torch.full((self.batch, count), alpha, dtype=torch.float32, device=self.device)
        if torch.compiler.is_compiling():
            return _dirichlet(concentration)
        return torch._sample_dirichlet(concentration, generator=self.generator)

    def noise(self, sigma: float, height: int, width: int) -> Tensor:
        """Normal noise, drawn by PyTorch: float32 [B, 3, height, width]."""
        return torch.normal(0.0, sigma, (self.batch, 3, height, width), **self.options)


@torch.library.custom_op("augment::dirichlet", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,))
def _dirichlet(concentration: Tensor) -> Tensor:
    """PyTorch's own, which cannot be traced; a compiled draw has no generator."""
    return torch._sample_dirichlet(concentration)


@_dirichlet.register_fake
def _(concentration: Tensor) -> Tensor:
    return torch.empty_like(concentration)
