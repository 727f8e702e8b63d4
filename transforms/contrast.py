"""Local contrast: each pixel against its surroundings, which takes the exposure out of a picture.

What remains is structure: a radiograph that is brighter as a whole, or from one side to the other,
looks the same.
"""

from __future__ import annotations

import torch
from monai.config.type_definitions import NdarrayOrTensor
from monai.transforms.transform import Transform
from monai.utils.type_conversion import convert_to_dst_type, convert_to_tensor

from transforms.augment import gaussian_blur
from transforms.errors import InputError


class LocalContrast(Transform):
    """Maps an image to z = (x - mean) / standard deviation, both Gaussian-weighted and local.

    z is clipped to [-limit, limit] and mapped linearly from there to [0, 1], so that a flat image
    becomes 0.5. Beyond the border the image is mirrored. A pixel depends on those within three
    sigma. Each channel stands for itself.

    Args:
        sigma: of the Gaussian, as a share of the image's shorter side.
        limit: largest absolute z kept.
        least_deviation: floor of the standard deviation, in units of the image, so that the noise
            of a flat background does not become structure.

    Raises:
        InputError: if an option is out of range.
    """

    def __init__(
        self, sigma: float = 20 / 224, limit: float = 3.0, least_deviation: float = 0.01
    ) -> None:
        """Keep the options, once checked; see the class."""
        options = {"sigma": sigma, "limit": limit, "least_deviation": least_deviation}
        for name, value in options.items():
            if not 0 < value < float("inf"):
                raise InputError(f"{name}: expected a number above 0, found {value}.")
        self.sigma, self.limit, self.least_deviation = map(float, options.values())

    @property
    def parameters(self) -> dict[str, float]:
        """Plain values from which ``LocalContrast(**parameters)`` rebuilds this transform."""
        return {
            "sigma": self.sigma,
            "limit": self.limit,
            "least_deviation": self.least_deviation,
        }

    def __call__(self, image: NdarrayOrTensor) -> NdarrayOrTensor:
        """Normalise one picture or a stack of slices.

        Args:
            image: (C, H, W) or (N, C, H, W), finite values around [0, 1].

        Returns:
            float32 in [0, 1], same shape, kind and meta data; the input is left as it is.

        Raises:
            InputError: if the shape is another one.
        """
        if image.ndim not in (3, 4):
            raise InputError(
                f"image: expected (C, H, W) or (N, C, H, W), found the shape {tuple(image.shape)}."
            )
        # In double precision, since the variance is a small difference of large numbers.
        values = convert_to_tensor(image, dtype=torch.float64)
        stack = values.reshape(-1, 1, *values.shape[-2:])
        sigma = self.sigma * min(stack.shape[-2:])
        mean = gaussian_blur(stack, sigma)
        variance = gaussian_blur(stack.square(), sigma) - mean.square()
        deviation = variance.clamp(min=self.least_deviation**2).sqrt()
        z = ((stack - mean) / deviation).clamp(-self.limit, self.limit)
        scaled = (z / self.limit + 1) / 2
        return convert_to_dst_type(scaled.reshape(values.shape), image, dtype=torch.float32)[0]
