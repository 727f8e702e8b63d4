"""Volumes of one patient onto one grid, where the user asks for it."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.spatial.array import SpatialResample

from transforms.errors import InputError

AFFINE_TOLERANCE = 1e-3
"""Largest difference (mm) between the affines of files that are taken to share a grid."""


def resample_onto(image: MetaTensor, target: MetaTensor) -> MetaTensor:
    """Resample a volume onto the grid of another one by linear interpolation.

    Nothing is registered: both must be in the same position of the patient, as the scans of one
    session are. What lies outside the image becomes 0. There is no smoothing before, so that a
    much finer image should be downsampled with a tool made for it.

    Args:
        image: (C, X, Y, Z) with an affine in mm.
        target: (D, X', Y', Z') with an affine in mm.

    Returns:
        float32 (C, X', Y', Z') with the affine of ``target`` and the meta data of ``image``; the
        image itself if both share a grid to ``AFFINE_TOLERANCE``.

    Raises:
        InputError: if one of them is a picture, or if the volumes do not overlap.
    """
    if image.shape[1:] == target.shape[1:] and torch.allclose(
        image.affine, target.affine, rtol=0.0, atol=AFFINE_TOLERANCE
    ):
        return image
    name, onto = (str(item.meta.get("filename_or_obj", "image")) for item in (image, target))
    if image.ndim != 4 or target.ndim != 4:
        raise InputError(
            f"{name}: expected a volume to resample onto {onto}, found a picture among them. "
            "Bring pictures to one size yourself."
        )
    frames = [item.meta.get("frame_of_reference") for item in (image, target)]
    if all(frames) and frames[0] != frames[1]:
        warnings.warn(
            f"{name} has another frame of reference than {onto}: the patient may have moved "
            "between them. Register the volumes first.",
            stacklevel=2,
        )
    resample = SpatialResample(
        mode="bilinear", padding_mode="zeros", align_corners=True, dtype=np.float64
    )
    moved = torch.as_tensor(
        resample(
            MetaTensor(image.as_tensor(), affine=image.affine),
            dst_affine=target.affine,
            spatial_size=tuple(target.shape[1:]),
        )
    )
    if not bool((moved != 0).any()):
        raise InputError(
            f"{name}: expected it to overlap {onto}, found nothing of it on that grid. Check that "
            "both show the same patient in the same position."
        )
    meta = {**image.meta, "affine": target.affine.clone(), "spatial_shape": tuple(target.shape[1:])}
    return MetaTensor(moved.to(torch.float32), meta=meta)
