"""Brightness on a common scale: float32 in [0, 1], with the background at exactly 0.

Volumes have no fixed units (MRI) and rare extreme values, so they are standardised by the median
and the interquartile range (IQR) of the body; pictures are scaled by their bit depth or their
percentiles. Values with a unit, as in CT, may be cut to a window instead.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import Transform
from monai.utils.module import optional_import

from transforms.bias import BiasCorrect
from transforms.errors import InputError
from transforms.readers import picture_range
from transforms.windows import CT_WINDOWS, VOI, WINDOW_PREFIX, Window, apply_window, window_method

sitk, _ = optional_import("SimpleITK")

ScaleMethod = Literal["auto", "zscore", "unit", "percentile"]

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


def robust_z(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Standardise each channel by its body: z = (x - median) / IQR.

    Args:
        image: (C, H, W) or (C, X, Y, Z), finite values in any unit.

    Returns:
        z, float32 of the same shape, unbounded and 0 outside the body; and the body, bool.

    Raises:
        InputError: if a channel has no body, an IQR of 0, or values that are not finite.
    """
    values = _finite(image)
    body = body_mask(values)
    z = torch.zeros_like(values)
    for index, (channel, inside) in enumerate(zip(values, body, strict=True)):
        low, median, high = _quantiles(channel[inside], (0.25, 0.5, 0.75), image, index)
        if high <= low:
            raise InputError(
                f"{_name(image)}, channel {index}: expected varied intensities inside the body, "
                f"found an interquartile range of 0 around {median:g}. Leave this file out, or "
                "choose the intensity method 'percentile'."
            )
        z[index][inside] = (channel[inside] - median) / (high - low)
    return z, body


class ScaleBody(Transform):
    """Map an image to float32 in [0, 1].

    - ``zscore``: z = (x - median) / IQR inside the body of each channel (see ``body_mask``),
      clipped to ``z_range`` and mapped linearly from it to [0, 1]; outside the body exactly 0.
    - ``unit``: value / (2^bits - 1), for pictures, which keeps their differences in exposure.
    - ``percentile``: from ``percentiles`` of the values to [0, 1], clipped. For pictures over
      all pixels and channels; for volumes per channel inside the body, outside exactly 0.
    - ``auto``: ``zscore`` for volumes, ``unit`` for 8-bit and ``percentile`` for 16-bit pictures,
      which rarely use their full range.
    - ``ct:brain`` or just ``brain``, and so on for all of ``CT_WINDOWS``: a CT window in
      Hounsfield units, from its lower end to its upper end, clipped. Refused for other units.
    - ``window:40,80``: any window, by its centre and width in the unit of the file.
    - ``voi``: the window that the DICOM header gives, slice by slice.

    Args:
        method: one of the above.
        z_range: lowest and highest z kept, in IQRs from the median.
        percentiles: lower and upper percentile, in percent.
        n4: whether MR volumes are corrected for uneven brightness before; see ``BiasCorrect``.
        window: the name of a CT window, (centre, width) or ``voi``, instead of a method.
    """

    def __init__(
        self,
        method: ScaleMethod | str = "auto",
        z_range: tuple[float, float] = (-4.0, 8.0),
        percentiles: tuple[float, float] = (0.5, 99.5),
        n4: bool = False,
        window: Window | None = None,
    ) -> None:
        """Keep the options, once checked; see the class."""
        if not z_range[0] < z_range[1]:
            raise InputError(f"z_range: expected two increasing numbers, found {z_range}.")
        if not 0 <= percentiles[0] < percentiles[1] <= 100:
            raise InputError(
                f"percentiles: expected two increasing numbers in [0, 100], found {percentiles}."
            )
        self.method = _checked_method(method, window)
        self.n4 = bool(n4)
        self.z_range = (float(z_range[0]), float(z_range[1]))
        self.percentiles = (float(percentiles[0]), float(percentiles[1]))

    @property
    def parameters(self) -> dict[str, Any]:
        """Plain values from which ``ScaleBody(**parameters)`` rebuilds this transform."""
        return {
            "method": self.method,
            "z_range": list(self.z_range),
            "percentiles": list(self.percentiles),
            "n4": self.n4,
        }

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
            z, body = robust_z(image)
            scaled = torch.where(body, _to_unit(z, *self.z_range), 0.0)
        elif method == "unit":
            scaled = _scale_by_depth(image)
        elif method == "percentile":
            scaled = self._scale_by_percentiles(image)
        else:
            scaled = apply_window(_finite(image), method, _meta(image))
        return MetaTensor(scaled, meta=dict(_meta(image)))

    def _scale_by_percentiles(self, image: torch.Tensor) -> torch.Tensor:
        values = _finite(image)
        fractions = tuple(percent / 100 for percent in self.percentiles)
        if image.ndim == 3:
            return _to_unit(values, *self._limits(values, fractions, image, 0))
        body = body_mask(values)
        scaled = torch.zeros_like(values)
        for index, (channel, inside) in enumerate(zip(values, body, strict=True)):
            limits = self._limits(channel[inside], fractions, image, index)
            scaled[index][inside] = _to_unit(channel[inside], *limits)
        return scaled

    def _limits(
        self, values: torch.Tensor, fractions: tuple[float, ...], image: torch.Tensor, index: int
    ) -> tuple[float, float]:
        low, high = _quantiles(values, fractions, image, index)
        if high <= low:
            raise InputError(
                f"{_name(image)}, channel {index}: expected varied intensities, found {low:g} at "
                f"both percentiles {self.percentiles}. Leave this file out or widen percentiles."
            )
        return low, high


def _checked_method(method: str, window: Window | None) -> str:
    """The method, that of the window if one is given, in its full spelling."""
    if window is not None:
        if method != "auto":
            raise InputError(
                f"window: expected either a window or an intensity method, found {window!r} and "
                f"{method!r}. Leave one of them out."
            )
        return window_method(window)
    if method in get_args(ScaleMethod):
        return method
    try:
        return window_method(method)
    except InputError as error:
        raise InputError(
            f"method: expected one of {', '.join(get_args(ScaleMethod))}, {', '.join(CT_WINDOWS)} "
            f"(CT windows), {VOI} or {WINDOW_PREFIX}centre,width, found {method!r}."
        ) from error


def _channel_body(channel: torch.Tensor) -> torch.Tensor:
    if _zero_share_of_border(channel) >= 0.5:
        return channel != 0
    values = channel.cpu().numpy().astype(np.float32)
    clipped = np.minimum(values, np.percentile(values, _OTSU_TOP_PERCENTILE))
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
    if values.min() < low or values.max() > high:
        raise InputError(
            f"{_name(image)}: expected values from {low:g} to {high:g}, found "
            f"{float(values.min()):g} to {float(values.max()):g}. Choose the intensity method "
            "'percentile'."
        )
    return values / high


def _to_unit(values: torch.Tensor, low: float, high: float) -> torch.Tensor:
    return ((values - low) / (high - low)).clamp(0.0, 1.0)


def _finite(image: torch.Tensor) -> torch.Tensor:
    values = torch.as_tensor(image.as_tensor() if isinstance(image, MetaTensor) else image)
    values = values.to(torch.float32)
    if not bool(torch.isfinite(values).all()):
        raise InputError(
            f"{_name(image)}: expected finite values, found NaN or infinite ones. Replace them "
            "(outside the body: by 0) and save the file again."
        )
    return values


def _quantiles(
    values: torch.Tensor, fractions: tuple[float, ...], image: torch.Tensor, index: int
) -> list[float]:
    if values.numel() == 0:
        raise InputError(
            f"{_name(image)}, channel {index}: expected a body, found only background. Leave this "
            "file out."
        )
    # NumPy, since torch.quantile refuses more than 16 million values.
    return [float(value) for value in np.quantile(values.cpu().numpy(), fractions)]


def _meta(image: torch.Tensor) -> dict[str, Any]:
    return image.meta if isinstance(image, MetaTensor) else {}


def _name(image: torch.Tensor) -> str:
    return str(_meta(image).get("filename_or_obj", "image"))
