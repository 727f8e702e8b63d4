"""What every method is: a module that turns images into raw evidence of an anomaly.

A method is one file in this folder: a subclass of `Detector`, registered by its name. What its raw
evidence means, a `networks.Calibration` learns on held-out normal images; how its parts become one
score and one map, a fusion says. Neither knows the method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ..choices import choose
from ..contrast import CONTRASTS, local_contrast, surroundings
from ..errors import ArgumentError
from ..spatial import check_spatial_dims

LEAST_STD = 1e-6


def part_column(part: str) -> str:
    """The column of a part's scores.

    Example:
        >>> part_column("density")
        'density_score'
    """
    return f"{part}_score"


class Inputs(NamedTuple):
    """A batch as a detector sees it.

    Attributes:
        image: `(B, C, *s)` in [0, 1]; the detector normalises it.
        context: what the detector's `needs` name: `body` `(B, 1, *s)` bool.
    """

    image: Tensor
    context: Mapping[str, Tensor] = {}


def seen_samples(inputs: Inputs) -> Tensor:
    """Which samples of windows ``(B, C, L)`` are there, ``(B, 1, L)`` bool: all, unless told."""
    body = inputs.context.get("body")
    return torch.ones_like(inputs.image[:, :1], dtype=torch.bool) if body is None else body.bool()


class Evidence(NamedTuple):
    """The raw evidence about a batch, before any calibration; higher is stranger.

    Attributes:
        maps: `(B, 1, *s)` each, of any size; brought to the image's by the scorer.
        values: image-level evidence `(B,)` that is no pooled map.
        reconstruction: in the units of the input, `(B, C, *s)`; None without one.
    """

    maps: dict[str, Tensor]
    values: dict[str, Tensor]
    reconstruction: Tensor | None = None


class Part(NamedTuple):
    """A column of the scores.

    Attributes:
        name: of the column, `<name>_score`.
        maps: the maps whose mean, once standardised, is the part's map; none for a part that has
            none of its own.
        pool: share of the highest positions of that map, or of the fused map for a part without
            one, whose mean is the image's evidence, in (0, 1]; None where the evidence is the value
            of the part's name.
        baseline: name of the trivial score that the part alone is, beside which evaluations put the
            fused one; None for a part that is none.
        weight: in the fused score, unless a user gives weights.
        map_weight: likewise in the fused map.
    """

    name: str
    maps: tuple[str, ...] = ()
    pool: float | None = None
    baseline: str | None = None
    weight: float = 1.0
    map_weight: float = 1.0


class Stage(NamedTuple):
    """A phase of training.

    Attributes:
        name: of the phase, for its trainer, its random numbers and its figures.
        groups: per term of the loss the parameters that minimise it, each with an optimiser.
        terms: all terms of the loss that are told, those of `groups` first.
        synthetic: whether it sees synthetic anomalies and their masks.
        cached: whether features of an image may be computed once, see `Detector.encode`.
        labelled: whether it learns from labelled anomalies, as a synthetic one always does.
    """

    name: str
    groups: Mapping[str, Sequence[nn.Parameter]]
    terms: tuple[str, ...]
    synthetic: bool = False
    cached: bool = False
    labelled: bool = False

    @property
    def uses_mask(self) -> bool:
        """Whether its loss tells anomalies from normal images."""
        return self.synthetic or self.labelled


class Batches(Protocol):
    """All normal images of the training, on the detector's device."""

    def __iter__(self) -> Iterator[Inputs]:
        """Batches in the order of the data set."""
        ...

    def spread(self, count: int) -> Inputs:
        """At most ``count`` evenly spaced images, as one batch."""
        ...


class Detector(nn.Module):
    """The base of all methods: normalises the input; a method does the rest.

    `forward` is pure and returns a named tuple; a wrapper for several devices wraps it alone.

    Args:
        in_channels: channels of the image.
        contrast: ``none``, or ``local`` to see each pixel against its surroundings, see
            `networks.contrast`.
        spatial_dims: axes of the image: 1 for signals, 2 for pictures, 3 for volumes.
        **config: the further arguments that rebuild the method, plain values; buffers whose size
            the data decide are recorded here too.

    Attributes:
        name: under which the method is registered.
        dims: the numbers of axes that its images may have.
        exportable: whether its evidence can be traced or recorded, which a search cannot.
        members: per member of an ensemble, how the names of the maps and values end that it alone
            gives; none for a single method.
        config: ``DETECTORS[name](**config)`` builds the same module.
    """

    name: ClassVar[str] = ""
    dims: ClassVar[tuple[int, ...]] = (2,)
    exportable: bool = True
    members: tuple[str, ...] = ()
    input_mean: Tensor
    input_std: Tensor

    def __init__(
        self, in_channels: int, contrast: str = "none", spatial_dims: int = 2, **config: Any
    ) -> None:
        super().__init__()
        choose("contrast", contrast, dict.fromkeys(CONTRASTS))
        self.contrast = contrast
        self.config: MutableMapping[str, Any] = {"in_channels": int(in_channels), **config}
        if contrast != "none":  # a method without the argument can still be rebuilt
            self.config["contrast"] = contrast
        if check_spatial_dims(spatial_dims) != 2:  # likewise
            self.config["spatial_dims"] = int(spatial_dims)
        shape = (1, in_channels, *([1] * spatial_dims))
        self.register_buffer("input_mean", torch.zeros(shape))
        self.register_buffer("input_std", torch.ones(shape))

    @property
    def in_channels(self) -> int:
        """Channels of the image."""
        return int(self.input_mean.shape[1])

    @property
    def spatial_dims(self) -> int:
        """Axes of the image: 1, 2 or 3."""
        return self.input_mean.ndim - 2

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the context that it wants in `Inputs`, but for `prepare`, which gets all."""
        return ()

    @property
    def parts(self) -> tuple[Part, ...]:
        """The columns of the scores; `prepare` may still change them."""
        raise NotImplementedError

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The phases of training, in their order; none for a method that is only fitted."""
        return ()

    def normalize(self, image: Tensor) -> Tensor:
        """Brings an image ``(B, C, *s)`` in [0, 1] to zero mean and unit variance."""
        return (self._contrasted(image) - self.input_mean) / self.input_std

    def restore(self, normalized: Tensor, image: Tensor) -> Tensor:
        """Brings what is on the scale of `normalize` back to the units of the input.

        Args:
            normalized: ``(B, C, *s)``, such as a reconstruction.
            image: the input that it belongs to; its local contrast is given back.
        """
        values = normalized * self.input_std + self.input_mean
        if self.contrast == "none":
            return values
        around = surroundings(image)
        return values * around.scale + around.mean

    def _contrasted(self, image: Tensor) -> Tensor:
        return image if self.contrast == "none" else local_contrast(image)

    def load_encoder(self, state_dict: Mapping[str, Tensor]) -> None:
        """Loads torchvision's weights into the encoder.

        Raises:
            ArgumentError: when they do not fit, or the method has no encoder.
        """
        raise ArgumentError(f"detector {self.name!r} has no encoder to load weights into.")

    def companion(self) -> dict[str, Any]:
        """The `config` of a further member of an ensemble, whose first this is.

        It leaves out what the data decide and no weights: the first gives that for all.
        """
        return dict(self.config)

    def encode(self, inputs: Inputs) -> Any:
        """What a stage that is ``cached`` may keep of an image: tensors ``(B, ...)``."""
        return None

    def forward(self, inputs: Inputs, features: Any = None, stage: str | None = None) -> Any:
        """Runs the method.

        Args:
            inputs: the batch.
            features: what `encode` gave for it, perhaps in an earlier epoch.
            stage: the stage whose loss is wanted; None for all that `evidence` needs.
        """
        raise NotImplementedError

    def loss(
        self, output: Any, inputs: Inputs, stage: str, mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The terms of a stage's loss, each a scalar.

        Args:
            output: of `forward`.
            inputs: the batch.
            stage: name of the stage.
            mask: of synthetic and labelled anomalies, ``(B, 1, *s)`` in [0, 1]; NaN where it is
                only known that the image holds one. None where all images are normal.
        """
        raise NotImplementedError

    def prepare(self, batches: Batches, stage: str | None) -> None:
        """Fits what is not trained: called before each stage, and at the end with None.

        The base fits the input normalisation, of signals to the samples that are there; a method
        that overrides this calls it first.
        """
        count = 0
        sums = torch.zeros(2, self.in_channels, dtype=torch.float64)
        for inputs in batches:
            values = self._contrasted(inputs.image).double().transpose(0, 1).flatten(1)
            if self.spatial_dims == 1:
                values = values[:, seen_samples(inputs).flatten()]
            sums += torch.stack([values.sum(dim=1), values.square().sum(dim=1)]).cpu()
            count += values.shape[1]
        mean = sums[0] / count
        std = (
            (sums[1] / count - mean.square()).clamp_min(0.0) * (count / max(1, count - 1))
        ).sqrt()
        self.input_mean.copy_(mean.reshape(self.input_mean.shape))
        self.input_std.copy_(std.clamp_min(LEAST_STD).reshape(self.input_std.shape))

    def evidence(self, output: Any, inputs: Inputs) -> Evidence:
        """Turns an output into raw evidence; gradients are off, but may be enabled inside."""
        raise NotImplementedError

    def detected(self, output: Any) -> Tensor | None:
        """For a synthetic stage, how surely an image holds an anomaly, ``(B,)``; else None."""
        return None


DETECTORS: dict[str, type[Detector]] = {}
"""The methods by name."""

AnyDetector = TypeVar("AnyDetector", bound=type[Detector])


def register(name: str) -> Callable[[AnyDetector], AnyDetector]:
    """Makes a method known by a name, for configs and model files.

    Raises:
        ArgumentError: for a name that another method has.
    """

    def known(method: AnyDetector) -> AnyDetector:
        if name in DETECTORS and DETECTORS[name].__qualname__ != method.__qualname__:
            raise ArgumentError(f"name: {name!r} is taken by {DETECTORS[name].__qualname__}.")
        method.name = name
        DETECTORS[name] = method
        return method

    return known
