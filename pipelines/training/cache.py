"""Features that a stage may compute once per image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from networks import Detector, Inputs


class FeatureCache:
    """What `Detector.encode` gives, computed once per image and kept.

    Without augmentation a frozen encoder gives the same features in every epoch, so that caching
    changes nothing but the time. The features live on the device if they fit into a share of its
    free memory, else in the host's memory; beyond ``max_gigabytes`` nothing is cached.

    Args:
        detector: encodes.
        max_gigabytes: largest size of the cache.
    """

    def __init__(self, detector: Detector, max_gigabytes: float = 8.0) -> None:
        self.detector = detector
        self.max_bytes = max_gigabytes * 2**30
        self.features: list[Tensor] = []
        self.known = torch.zeros(0, dtype=torch.bool)

    def encode(self, inputs: Inputs, index: Tensor, size: int) -> list[Tensor]:
        """Features of a batch, from the cache where they are known.

        Args:
            inputs: the batch.
            index: the images' indices in the data set, ``(B,)``, on the CPU.
            size: length of the data set.
        """
        known = self.known[index] if self.features else torch.zeros_like(index, dtype=torch.bool)
        if not known.any():
            computed = list(self.detector.encode(inputs))
            self._keep(computed, index, size)
            return computed
        device = inputs.image.device
        if not known.all():  # of several processes each sees images that others saw before
            new = (~known).nonzero().flatten()
            chosen = {name: value[new.to(device)] for name, value in inputs.context.items()}
            found = self.detector.encode(Inputs(inputs.image[new.to(device)], chosen))
            self._keep(list(found), index[new], size)
        where = index.to(self.features[0].device)
        return [kept[where].to(device) for kept in self.features]

    def _keep(self, computed: Sequence[Tensor], index: Tensor, size: int) -> None:
        if not self.features:
            per_image = sum(f[0].numel() * f.element_size() for f in computed)
            if per_image * size > self.max_bytes:
                return
            device = _roomy_device(computed[0].device, per_image * size)
            self.features = [
                torch.empty((size, *f.shape[1:]), dtype=f.dtype, device=device) for f in computed
            ]
            self.known = torch.zeros(size, dtype=torch.bool)
        where = index.to(self.features[0].device)
        for kept, new in zip(self.features, computed, strict=True):
            kept[where] = new.to(kept.device)
        self.known[index] = True


def _roomy_device(device: torch.device, wanted: float) -> torch.device:
    if device.type != "cuda":
        return device
    free, _ = torch.cuda.mem_get_info(device)
    return device if wanted < 0.3 * free else torch.device("cpu")
