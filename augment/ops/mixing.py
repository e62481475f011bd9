"""Ops that mix images and their labels."""

from collections.abc import Sequence

import kornia.augmentation as K
import torch
from torch import Tensor
from torchvision.transforms import v2

from augment.backends.kornia import KorniaMix, kornia, window_reads
from augment.backends.torchvision import CVCUDA_MIXES_NOTHING, torchvision
from augment.distributions import Beta, Box
from augment.fused import kinds
from augment.op import Drawn, Op, box_reads, op
from augment.ops.geometry import window


class MixingOp(Op):
    """An op that mixes each image with a partner of the same batch; parameters as ``drawn``, and ``partner``, its index."""

    mixes_labels = True
    needs_float = ("pil", "torchvision")
    lanes = {"pil": "per_batch", "torchvision": "per_batch"}

    def mix(self, image: Tensor, partner: Tensor, drawn: Drawn) -> tuple[Tensor, float]:
        """Return two images [3, H, W] mixed by the definition, and the weight of the first one's label."""
        raise NotImplementedError

    def mix_oracle(self, images: Tensor, labels: Tensor, drawn: Sequence[Drawn], num_classes: int) -> tuple[Tensor, Tensor]:
        """Apply the definition to each image: images [B, 3, H, W], int64 labels -> images, targets [B, num_classes]."""
        one_hot = torch.nn.functional.one_hot(labels, num_classes).to(images.dtype)
        mixed, targets = images.clone(), one_hot.clone()
        for i, row in enumerate(drawn):
            partner = int(row["partner"])
            mixed[i], weight = self.mix(images[i], images[partner], row)
            targets[i] = weight * one_hot[i] + (1 - weight) * one_hot[partner]
        return mixed, targets


@op
class MixUp(MixingOp):
    """Replace each image by lam * image + (1 - lam) * partner, the one-hot labels likewise (Zhang et al. 2018).

    lam is drawn from Beta(alpha, alpha): once a batch in a per-batch backend, for each image in a per-image one. Partners
    come from the same batch.
    """

    alpha: float = 1.0

    draws = (Beta(),)
    cells = torchvision(lambda op, classes: v2.MixUp(alpha=op.alpha, num_classes=classes), *CVCUDA_MIXES_NOTHING) | kornia(
        lambda op, classes: KorniaMix(
            K.RandomMixUpV2(lambda_val=(0.0, 1.0), data_keys=["input", "class"]), classes, weight_of_partner=True
        ),
        # Kornia draws lam uniformly, which is Beta(1, 1) and no other Beta.
        lambda op: None if op.alpha == 1.0 else f"its lam is uniform, so alpha must be 1, got {op.alpha}",
        lam=lambda params: 1 - params["mixup_lambdas"],
        partner="mixup_pairs",
    )
    fused = kinds.MIXUP

    def mix(self, image: Tensor, partner: Tensor, drawn: Drawn) -> tuple[Tensor, float]:
        lam = float(drawn["lam"])
        return lam * image + (1 - lam) * partner, lam


@op
class CutMix(MixingOp):
    """Paste a rectangle of a partner image; the label's weight is the share of area that is left (Yun et al. 2019).

    The rectangle has sqrt(1 - lam) times the image's sides with lam from Beta(alpha, alpha), a uniform centre, and is cut
    at the image's border; the weights are those of the visible rectangle.
    """

    alpha: float = 1.0

    draws = (Box(),)
    cells = torchvision(
        lambda op, classes: v2.CutMix(alpha=op.alpha, num_classes=classes),
        *CVCUDA_MIXES_NOTHING,
        **box_reads(lambda params: params["box"]),
    ) | kornia(
        lambda op, classes: KorniaMix(
            K.RandomCutMixV2(beta=op.alpha, use_correct_lambda=True, data_keys=["input", "class"]), classes,
            weight_of_partner=False,
        ),
        **window_reads(lambda params: params["crop_src"][0]),
        partner=lambda params: params["mix_pairs"][0],
    )  # fmt: skip
    fused = kinds.CUTMIX
    differs = {"kornia": "the box lies wholly inside the image, not centred anywhere and cut off at the border"}

    def mix(self, image: Tensor, partner: Tensor, drawn: Drawn) -> tuple[Tensor, float]:
        top, left, height, width = window(drawn)
        mixed = image.clone()
        mixed[:, top : top + height, left : left + width] = partner[:, top : top + height, left : left + width]
        return mixed, 1 - max(height, 0) * max(width, 0) / (image.shape[-1] * image.shape[-2])
