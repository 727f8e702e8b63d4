"""How usual an image is as a whole: a Gaussian of its pooled features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

NUISANCE_WEIGHT = 3.0
"""Weight of changes that do not matter in the covariance; results hardly depend on it."""

RIDGE = 1e-6
"""Share of the mean variance that is added to every variance, against rounding."""


class GaussianDensity(nn.Module):
    """The Mahalanobis distance from normal images.

    The covariance is shrunk (Ledoit and Wolf, 2004), since there may be fewer images than features.
    Directions in which features move when an image changes in a way that does not matter are taken
    for variance as well, so that such a change does not look strange.

    Args:
        size: number of features.
    """

    mean: Tensor
    whitening: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("whitening", torch.eye(size))

    def fit(self, features: Tensor, changes: Tensor) -> None:
        """Takes the features of normal images.

        Args:
            features: ``(N, size)``.
            changes: how they change with what does not matter, ``(M, size)``.
        """
        from sklearn.covariance import ledoit_wolf  # slow to import, and only a training needs it

        shrunk, _ = ledoit_wolf(features.double().cpu().numpy())
        moved = changes.double().cpu()
        covariance = torch.from_numpy(shrunk) + NUISANCE_WEIGHT * moved.mT @ moved / len(moved)
        covariance.diagonal().add_(RIDGE * covariance.diagonal().mean().clamp_min(RIDGE))
        identity = torch.eye(len(covariance), dtype=covariance.dtype)
        lower = torch.linalg.cholesky(covariance)
        self.mean.copy_(features.double().mean(dim=0))
        self.whitening.copy_(torch.linalg.solve_triangular(lower, identity, upper=False))

    def forward(self, features: Tensor) -> Tensor:
        """The distance ``(B,)`` of features ``(B, size)``, in standard deviations."""
        distance: Tensor = torch.linalg.vector_norm(
            (features - self.mean) @ self.whitening.mT, dim=1
        )
        return distance
