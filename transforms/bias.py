"""Uneven brightness of MR coils: N4 bias field correction by SimpleITK."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import Transform
from monai.utils.module import optional_import
from monai.utils.type_conversion import convert_to_tensor

from transforms.errors import InputError

# Rare extremes would leave N4's histogram with nearly all voxels in one bin.
_TOP_PERCENTILE = 99.5
_SHRINK = 4  # times that the copy is smaller along each axis, less along short ones
_ITERATIONS = [50, 50, 50, 50]  # at most, for each level of resolution, from coarse to fine
_LEAST_VOXELS = 8  # along an axis, for the field to be fitted to


class BiasCorrect(Transform):
    """Divide each channel of an MR volume by its smooth multiplicative bias field.

    N4ITK (Tustison et al., IEEE TMI 2010). The field is fitted inside the body to a smaller copy,
    and evaluated on the full grid, which stays as it is; outside the body nothing changes.

    Args:
        body: finds the body (bool) of an image (C, X, Y, Z).
    """

    def __init__(self, body: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Keep what finds the body."""
        self.body = body

    def __call__(self, image: torch.Tensor) -> MetaTensor:
        """Correct one volume.

        Args:
            image: (C, X, Y, Z), values in any unit of MR, at least 0 inside the body.

        Returns:
            float32 of the same shape, affine and meta data; the input is left as it is.

        Raises:
            InputError: if the image is a picture, CT, has no body or negative values in it.
        """
        meta = dict(image.meta) if isinstance(image, MetaTensor) else {}
        name = str(meta.get("filename_or_obj", "image"))
        if image.ndim != 4 or meta.get("modality") == "CT":
            raise InputError(
                f"{name}: expected an MR volume for bias field correction, found "
                f"{'CT' if image.ndim == 4 else 'a picture'}. Leave n4 out."
            )
        values = convert_to_tensor(image, dtype=torch.float32)
        inside = self.body(values)
        corrected = [
            self._correct(f"{name}, channel {index}", channel.cpu().numpy(), body.cpu().numpy())
            for index, (channel, body) in enumerate(zip(values, inside, strict=True))
        ]
        return MetaTensor(torch.from_numpy(np.stack(corrected)).to(values.device), meta=meta)

    def _correct(
        self,
        name: str,
        values: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
        body: np.ndarray[tuple[int, ...], np.dtype[np.bool_]],
    ) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        if not body.any() or values[body].min() < 0:
            found = f"values from {values[body].min():g}" if body.any() else "only background"
            raise InputError(
                f"{name}: expected a body with values from 0, as MR scanners give them, for bias "
                f"field correction, found {found}. Leave n4 out."
            )
        sitk, _ = optional_import("SimpleITK")
        clipped = np.minimum(values, np.percentile(values[body], _TOP_PERCENTILE))
        full = sitk.GetImageFromArray(clipped)
        mask = sitk.GetImageFromArray(body.astype(np.uint8))
        factors = [max(1, min(_SHRINK, size // _LEAST_VOXELS)) for size in full.GetSize()]
        n4 = sitk.N4BiasFieldCorrectionImageFilter()
        n4.SetMaximumNumberOfIterations(_ITERATIONS)
        n4.Execute(sitk.Shrink(full, factors), sitk.Shrink(mask, factors))
        field = np.exp(sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(full)))
        corrected = values.copy()
        corrected[body] /= field[body]
        return corrected
