"""torchvision on PIL images, one by one, as loader workers do it. Its cells are torchvision's."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from augment.backends import StepBackend
from augment.backends.torchvision import TorchvisionRecorder
from augment.pipeline import Runner, Step, run_batched, split_at_mixing, to_dtype


def run_on_pil_images(steps: Sequence[Step]) -> Runner:
    """Return a runner of the ops on one PIL image after the other, and on tensors from the first op that needs float."""
    single, mixing = split_at_mixing(steps)
    first_float = next((i for i, step in enumerate(single) if step.needs_float), len(single))
    on_pil, on_tensor, mix = single[:first_float], run_batched(single[first_float:]), run_batched(mixing)

    def apply(array: np.ndarray) -> Tensor:
        image = Image.fromarray(array)
        for step in on_pil:
            image = step.apply(image)
        # np.array copies: PIL's buffer is read-only, torch's must not be.
        return on_tensor(torch.from_numpy(np.array(image)).permute(2, 0, 1), None)[0]

    def run(images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        arrays = to_dtype(images, torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
        return mix(torch.stack([apply(array) for array in arrays]).to(images.device), labels)

    return run


BACKENDS = (
    StepBackend(
        name="pil", library="pil", lane="per_image", order=10, on_device=False, recorder=TorchvisionRecorder,
        run_steps=run_on_pil_images, about="torchvision on PIL images, one by one, as in loader workers",
    ),
)  # fmt: skip
