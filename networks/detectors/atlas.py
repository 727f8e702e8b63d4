"""A segmentation with a probabilistic atlas; what no tissue explains is strange (after Dalca)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..convolutional import Size, make_autoencoder, sides
from .contract import Batches, Detector, Evidence, Inputs, Part, Stage, register

FITTED_IMAGES = 256
FITTED_PIXELS = 20_000
"""Images and pixels from which atlas and classes are initialised."""

LEAST_VARIANCE = 0.01
"""Of a class, in squared standard deviations of the images."""

LEAST_PRIOR = 1e-3
"""Of a class at a place, when the atlas is initialised."""

SIDE = 8
"""To which images are reduced when they are grouped by template."""

SQUARINGS = 5
"""Of the scaling and squaring that integrates a velocity."""

TERMS = ("loss", "likelihood_loss", "smoothness_loss")


class AtlasOutput(NamedTuple):
    """The model of an image.

    Attributes:
        prior: of each class at each pixel, the deformed atlas, ``(B, K, H, W)``.
        mean: of each class, ``(B, K, C)``.
        log_variance: likewise.
        velocity: of the deformation, in half sides of the image, ``(B, 2, H, W)``.
    """

    prior: Tensor
    mean: Tensor
    log_variance: Tensor
    velocity: Tensor


class Segmentation(NamedTuple):
    """What an image says under its model.

    Attributes:
        posterior: of each class at each pixel, ``(B, K, H, W)``.
        log_likelihood: of each pixel, ``(B, H, W)``.
    """

    posterior: Tensor
    log_likelihood: Tensor


@register("atlas")
class AtlasDetector(Detector):
    """A deformable atlas of tissue classes with Gaussian intensities, learnt without labels.

    After Dalca, Guttag, Sabuncu, "Anatomical Priors in Convolutional Networks for Unsupervised
    Biomedical Segmentation", CVPR 2018, and Dalca, Yu, Golland, Fischl, Sabuncu, Iglesias,
    "Unsupervised Deep Learning for Bayesian Brain MRI Segmentation", MICCAI 2019. A pixel's class s
    has the prior A(phi(p), s), the atlas A deformed by phi, and its intensity given the class is
    N(mu_s, sigma_s^2). A network gives the stationary velocity field of phi, integrated by scaling
    and squaring, and mu and sigma of the image; it minimises the mean over the pixels of
    -log sum_s A(phi(p), s) N(x(p); mu_s, sigma_s^2), plus the velocity's squared gradient as its
    prior. Velocities are point estimates, without the papers' posterior. No atlas is given: it is
    initialised by a Gaussian mixture of the normal images and learnt with the rest, as a mixture
    of templates whose weights the network gives, since slices differ in what they show.

    The score is the loss's first term, the map the same per pixel.

    Args:
        in_channels: channels of the image.
        image_size: side of the image in pixels, or height and width; divisible by 16.
        classes: number K of classes.
        templates: of the atlas.
        width: channels of the network at full resolution, a multiple of 8.
        smoothness: weight of the squared gradient of the velocity.
        contrast: see `Detector`.
    """

    class_mean: Tensor
    class_log_variance: Tensor
    half_sides: Tensor
    place: Tensor

    def __init__(
        self,
        in_channels: int = 1,
        image_size: Size = 96,
        classes: int = 6,
        templates: int = 8,
        width: int = 8,
        smoothness: float = 1.0,
        contrast: str = "none",
    ) -> None:
        super().__init__(
            in_channels, contrast, image_size=image_size, classes=int(classes),
            templates=int(templates), width=int(width), smoothness=float(smoothness),
        )  # fmt: skip
        self.network = make_autoencoder(in_channels, 2, width, 8 * width)
        self.describe = nn.Linear(8 * width, templates + 2 * classes * in_channels)
        self.atlas = nn.Parameter(torch.zeros(templates, classes, *sides(image_size)))
        self.register_buffer("class_mean", torch.zeros(classes, in_channels))
        self.register_buffer("class_log_variance", torch.zeros(classes, in_channels))
        across = torch.tensor(sides(image_size)[::-1]).view(1, 2, 1, 1) / 2
        self.register_buffer("half_sides", across, persistent=False)
        self.register_buffer("place", places(image_size), persistent=False)
        for last in (list(self.network.decode.parameters())[-2:], self.describe.parameters()):
            for parameter in last:
                nn.init.zeros_(parameter)  # it starts with the atlas as it is

    @property
    def parts(self) -> tuple[Part, ...]:
        """How unlikely the image is."""
        return (Part("likelihood", ("likelihood",)),)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """One stage."""
        return (Stage("train", {"loss": list(self.parameters())}, TERMS),)

    def prepare(self, batches: Batches, stage: str | None) -> None:
        """Initialises classes and atlas from normal images before the training."""
        super().prepare(batches, stage)
        if stage is None:
            return
        from sklearn.cluster import KMeans  # slow to import, and only a training needs it
        from sklearn.mixture import GaussianMixture

        image = self.normalize(batches.spread(FITTED_IMAGES).image)
        pixels = image.movedim(1, -1).flatten(0, -2)
        pixels = pixels[:: max(1, len(pixels) // FITTED_PIXELS)].double().cpu()
        classes, templates = self.config["classes"], self.config["templates"]
        mixture = GaussianMixture(
            classes, covariance_type="diag", reg_covar=LEAST_VARIANCE, random_state=0
        ).fit(pixels.numpy())
        self.class_mean.copy_(torch.from_numpy(mixture.means_))
        self.class_log_variance.copy_(torch.from_numpy(mixture.covariances_).log())
        even = torch.full_like(image[:, :1], 1.0 / classes).expand(-1, classes, -1, -1)
        found = segment(image, even, self.class_mean[None], self.class_log_variance[None]).posterior
        reduced = F.adaptive_avg_pool2d(image, SIDE).flatten(1).cpu().numpy()
        groups = KMeans(min(templates, len(image)), n_init=1, random_state=0).fit(reduced)
        own = torch.from_numpy(groups.labels_).to(image.device)
        with torch.no_grad():
            for index in range(templates):
                prior = found[own == index % (int(own.max()) + 1)].mean(dim=0)
                self.atlas[index].copy_((prior + LEAST_PRIOR).log())

    def forward(
        self, inputs: Inputs, features: Any = None, stage: str | None = None
    ) -> AtlasOutput:
        """Deforms the atlas to the image, and tells the classes' intensities in it."""
        code = self.network.encode(self.normalize(inputs.image))
        velocity = self.network.decode(code).float()
        classes, channels = self.class_mean.shape
        said = self.describe(code.mean(dim=(2, 3))).float()
        weights, offsets = said.split([len(self.atlas), 2 * classes * channels], dim=1)
        shift, widening = offsets.tanh().unflatten(1, (2, classes, channels)).unbind(dim=1)
        with torch.autocast(code.device.type, enabled=False):
            prior = torch.einsum("bm,mkhw->bkhw", weights.softmax(1), self.atlas.softmax(1))
        return AtlasOutput(
            deformed(prior, velocity, self.place),
            self.class_mean + shift,
            (self.class_log_variance + widening).clamp_min(math.log(LEAST_VARIANCE)),
            velocity,
        )

    def loss(
        self, output: AtlasOutput, inputs: Inputs, stage: str, mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The negative log likelihood in nats per pixel, and the velocity's roughness."""
        unlikely = -segment(self.normalize(inputs.image), *output[:3]).log_likelihood.mean()
        velocity = output.velocity * self.half_sides  # in pixels
        roughness = sum(velocity.diff(dim=axis).square().mean() for axis in (2, 3))
        total = unlikely + self.config["smoothness"] * roughness
        return dict(zip(TERMS, (total, unlikely, roughness), strict=True))

    def evidence(self, output: AtlasOutput, inputs: Inputs) -> Evidence:
        """How unlikely each pixel and the image are; what the atlas expects."""
        unlikely = -segment(self.normalize(inputs.image), *output[:3]).log_likelihood.unsqueeze(1)
        expected = torch.einsum("bkhw,bkc->bchw", output.prior, output.mean)
        values = {"likelihood": unlikely.mean(dim=(1, 2, 3))}
        return Evidence({"likelihood": unlikely}, values, self.restore(expected, inputs.image))


def segment(image: Tensor, prior: Tensor, mean: Tensor, log_variance: Tensor) -> Segmentation:
    """Bayes' rule per pixel, with Gaussian classes.

    Args:
        image: ``(B, C, H, W)``.
        prior: of the classes, ``(B, K, H, W)``.
        mean: of their intensities, ``(B, K, C)``.
        log_variance: likewise.
    """
    mean, log_variance = mean[..., None, None], log_variance[..., None, None]
    scaled = (image[:, None] - mean).square() / log_variance.exp()
    gaussian = -0.5 * (scaled + log_variance + math.log(2.0 * math.pi)).sum(dim=2)
    joint = gaussian + prior.clamp_min(torch.finfo(prior.dtype).tiny).log()
    return Segmentation(joint.softmax(dim=1), joint.logsumexp(dim=1))


def places(size: Size) -> Tensor:
    """Where the pixels of an image lie, in half sides from its centre, ``(1, H, W, 2)``."""
    return F.affine_grid(torch.eye(2, 3)[None], [1, 1, *sides(size)], align_corners=False)


def deformed(value: Tensor, velocity: Tensor, place: Tensor) -> Tensor:
    """Moves ``(B, K, H, W)`` by the flow of a velocity ``(B, 2, H, W)``; see `places`."""
    moved = velocity / 2**SQUARINGS
    for _ in range(SQUARINGS):
        moved = moved + _sampled(moved, place + moved.movedim(1, -1))
    return _sampled(value, place + moved.movedim(1, -1))


def _sampled(value: Tensor, place: Tensor) -> Tensor:
    return F.grid_sample(value, place, padding_mode="border", align_corners=False)
