"""The last layer of this project's networks, whose logits tell classes apart whatever the precision of the rest."""

import torch
from torch import Tensor, nn


class Head(nn.Linear):
    """[B, F] -> [B, num_classes] logits, computed in the dtype of its weights: float32 also under autocast.

    A bfloat16 has 8 significant bits (from 8 to 16 its numbers are 1/16 apart), so that the two largest of a row's logits are
    often the same number. ``argmax`` then takes the lower class, whichever was larger, and accuracy leans towards the first
    classes. Features in bfloat16 do no such harm, as each logit is a sum over many of them. The layer is less than a hundredth
    of the operations, and the loss is computed in float32 anyway.
    """

    def forward(self, features_BF: Tensor) -> Tensor:
        with torch.autocast(features_BF.device.type, enabled=False):
            return super().forward(features_BF.to(self.weight.dtype))
