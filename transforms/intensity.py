"""Brightness on a common scale: float32 in [0, 1], with the background at exactly 0.

Volumes have no fixed units (MRI) and rare extreme values, so they are standardised by the median
and the interquartile range (IQR) of the body; pictures are scaled by their bit depth or their
percentiles. Values with a unit, as in CT, may be cut to a window instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import Transform
from monai.utils.module import optional_import
from monai.utils.type_conversion import convert_to_tensor

from transforms.bias import BiasCorrect
from transforms.errors import InputError
from transforms.readers import all_finite, picture_range
from transforms.windows import CT_WINDOWS, VOI, WINDOW_PREFIX, apply_window, window_method

ScaleMethod = Literal["auto", "zscore", "unit", "percentile"]

Z_RANGE = (-4.0, 8.0)
"""Lowest and highest z kept, in IQRs from the median."""

PERCENTILES = (0.5, 99.5)
"""Between which ``percentile`` scales, in percent."""

# Rare extremes would leave Otsu's histogram with all voxels in one bin.
_OTSU_TOP_PERCENTILE = 99.5


def body_mask(image: torch.Tensor) -> torch.Tensor:
    """Find the body, channel by channel.

    If at least half of the outermost pixels are exactly 0, as after skull-stripping, the body is
    whatever is not 0. Otherwise it is whatever lies above Otsu's threshold, which is computed
    with the values above the 99.5th percentile cut off.

    Args:
        image: (C, H, W) or (C, X, Y, Z), any finite values.

    Returns:
        bool of the same shape.
    """
    return torch.stack([_channel_body(channel) for channel in torch.as_tensor(image)])


def robust_z(
    channel: torch.Tensor, body: torch.Tensor, name: str = "image", *, flat: bool = False
) -> torch.Tensor:
    """Standardise one channel by its body: z = (x - median) / IQR.

    Args:
        channel: finite values of any shape and unit.
        body: bool of the same shape.
        name: of the channel, for messages.
        flat: whether an IQR of 0 is allowed; the standard deviation of the body takes its place
            then, and 1 where that is 0 too.

    Returns:
        float32 of the same shape, unbounded; the background keeps its own, usually low, z.

    Raises:
        InputError: if there is no body, a value that is not finite, or an IQR of 0.
    """
    values = _finite(channel)
    tissue = _inside(values, body)
    low, median, high = _quantiles(tissue, (0.25, 0.5, 0.75), name)
    scale = high - low
    if flat:
        scale = scale or float(tissue.std(correction=0)) or 1.0
    elif scale <= 0:
        raise InputError(
            f"{name}: expected varied intensities inside the body, found an interquartile range of "
            f"0 around {median:g}. Leave this file out, or choose the intensity method "
            "'percentile'."
        )
    return (values - median).div_(scale)


class ScaleBody(Transform):
    """Map an image to float32 in [0, 1].

    - ``zscore``: z = (x - median) / IQR inside the body of each channel (see ``body_mask``),
      clipped to ``Z_RANGE`` and mapped linearly from it to [0, 1]; outside the body exactly 0.
    - ``unit``: value / (2^bits - 1), for pictures, which keeps their differences in exposure.
    - ``percentile``: from ``PERCENTILES`` of the values to [0, 1], clipped. For pictures over
      all pixels and channels; for volumes per channel inside the body, outside exactly 0.
    - ``auto``: ``zscore`` for volumes, ``unit`` for 8-bit and ``percentile`` for 16-bit pictures,
      which rarely use their full range.
    - ``ct:brain`` or just ``brain``, and so on for all of ``CT_WINDOWS``: a CT window in
      Hounsfield units, from its lower end to its upper end, clipped. Refused for other units.
    - ``window:40,80``: any window, by its centre and width in the unit of the file.
    - ``voi``: the window that the DICOM header gives, slice by slice.

    Args:
        method: one of the above.
        n4: whether MR volumes are corrected for uneven brightness before; see ``BiasCorrect``.
    """

    def __init__(self, method: ScaleMethod | str = "auto", n4: bool = False) -> None:
        """Keep the options, once checked; see the class."""
        self.method = _checked_method(method)
        self.n4 = bool(n4)

    def resolve(self, image: torch.Tensor) -> str:
        """The method used for this image: never ``auto``.

        Args:
            image: (C, H, W) or (C, X, Y, Z), as ``read_image`` returns it.

        Raises:
            InputError: if the method is ``auto`` and the bit depth of a picture is not known.
        """
        if self.method != "auto":
            return self.method
        if image.ndim == 4:
            return "zscore"
        return "unit" if picture_range(_meta(image))[1] == 255 else "percentile"

    def __call__(self, image: torch.Tensor) -> MetaTensor:
        """Scale one image.

        Args:
            image: (C, H, W) or (C, X, Y, Z), as ``read_image`` returns it.

        Returns:
            float32 in [0, 1], same shape, affine and meta data; the input is left as it is.

        Raises:
            InputError: if the values do not allow the method; see ``robust_z``.
        """
        if image.ndim not in (3, 4):
            raise InputError(
                f"image: expected (C, H, W) or (C, X, Y, Z), found the shape {tuple(image.shape)}."
            )
        method = self.resolve(image)
        if self.n4:
            image = BiasCorrect(body_mask)(image)
        if method == "zscore":
            scaled = _scale_by_body(
                image,
                lambda channel, body, name: _to_unit(robust_z(channel, body, name), *Z_RANGE),
            )
        elif method == "unit":
            scaled = _scale_by_depth(image)
        elif method == "percentile" and image.ndim == 3:
            values = _finite(image)
            scaled = _to_unit(values, *_limits(values, f"{_name(image)}, channel 0"))
        elif method == "percentile":
            scaled = _scale_by_body(
                image,
                lambda channel, body, name: _to_unit(
                    channel, *_limits(_inside(channel, body), name)
                ),
            )
        else:
            scaled = apply_window(_finite(image), method, _meta(image))
        return MetaTensor(scaled, meta=dict(_meta(image)))


def _limits(values: torch.Tensor, name: str) -> tuple[float, float]:
    low, high = _quantiles(values, [percent / 100 for percent in PERCENTILES], name)
    if high <= low:
        raise InputError(
            f"{name}: expected varied intensities, found {low:g} at both percentiles "
            f"{PERCENTILES}. Leave this file out."
        )
    return low, high


def _checked_method(method: str) -> str:
    """The method in its full spelling."""
    if method in get_args(ScaleMethod):
        return method
    window = window_method(method)
    if window is None:
        raise InputError(
            f"method: expected one of {', '.join(get_args(ScaleMethod))}, {', '.join(CT_WINDOWS)} "
            f"(CT windows), {VOI} or {WINDOW_PREFIX}centre,width, found {method!r}."
        )
    return window


def _scale_by_body(
    image: torch.Tensor, scale: Callable[[torch.Tensor, torch.Tensor, str], torch.Tensor]
) -> torch.Tensor:
    """Scale each channel, given with its body and its name; outside the body exactly 0."""
    values = _finite(image)
    scaled = torch.empty_like(values)
    for index, channel in enumerate(values):
        body = _channel_body(channel)
        scaled[index] = scale(channel, body, f"{_name(image)}, channel {index}").mul_(body)
    return scaled


def _channel_body(channel: torch.Tensor) -> torch.Tensor:
    if _zero_share_of_border(channel) >= 0.5:
        return channel != 0
    values = channel.cpu().numpy().astype(np.float32)
    clipped = np.minimum(values, np.percentile(values, _OTSU_TOP_PERCENTILE))
    sitk, _ = optional_import("SimpleITK")
    otsu = sitk.OtsuThresholdImageFilter()
    otsu.Execute(sitk.GetImageFromArray(clipped))
    threshold: float = otsu.GetThreshold()
    return torch.gt(channel, threshold)


def _zero_share_of_border(channel: torch.Tensor) -> float:
    """The share of exact zeros among the first and last pixels along every axis."""
    faces = [channel.select(axis, end).flatten() for axis in range(channel.ndim) for end in (0, -1)]
    return float((torch.cat(faces) == 0).float().mean())


def _scale_by_depth(image: torch.Tensor) -> torch.Tensor:
    values = _finite(image)
    low, high = picture_range(_meta(image))
    lowest, highest = map(float, torch.aminmax(values))
    if lowest < low or highest > high:
        raise InputError(
            f"{_name(image)}: expected values from {low:g} to {high:g}, found {lowest:g} to "
            f"{highest:g}. Choose the intensity method 'percentile'."
        )
    return values / high


def _to_unit(values: torch.Tensor, low: float, high: float) -> torch.Tensor:
    return (values - low).div_(high - low).clamp_(0.0, 1.0)


def _finite(image: torch.Tensor) -> torch.Tensor:
    values: torch.Tensor = convert_to_tensor(image, dtype=torch.float32)
    if not all_finite(values):
        raise InputError(
            f"{_name(image)}: expected finite values, found NaN or infinite ones. Replace them "
            "(outside the body: by 0) and save the file again."
        )
    return values


def _inside(values: torch.Tensor, body: torch.Tensor) -> torch.Tensor:
    """The values inside the body (N,); NumPy gathers them several times as fast as torch."""
    return torch.from_numpy(values.numpy()[body.numpy()])


def _quantiles(values: torch.Tensor, fractions: Sequence[float], name: str) -> list[float]:
    if values.numel() == 0:
        raise InputError(f"{name}: expected a body, found only background. Leave this file out.")
    # NumPy, since torch.quantile refuses more than 16 million values.
    return [float(value) for value in np.quantile(values.cpu().numpy(), fractions)]


def _meta(image: torch.Tensor) -> dict[str, Any]:
    return image.meta if isinstance(image, MetaTensor) else {}


def _name(image: torch.Tensor) -> str:
    return str(_meta(image).get("filename_or_obj", "image"))
