"""ADGAN: searches that come nearer, from several starts and with generators of their own."""

import torch

from networks import Inputs
from networks.detectors.adgan import TOGETHER, ADGANDetector

SMALL = {"image_size": 16, "width": 8, "latent": 4}


def error(detector: ADGANDetector, image: torch.Tensor) -> torch.Tensor:
    inputs = Inputs(image)
    with torch.no_grad():
        return detector.evidence(detector(inputs), inputs).values["anomaly"]


def test_without_steps_the_score_is_the_mean_over_the_starts() -> None:
    detector = ADGANDetector(**SMALL, starts=3, steps=0).eval()
    image = torch.rand(TOGETHER + 1, 1, 16, 16)
    with torch.no_grad():
        made = detector.generator(detector.starts)
    expected = (made[None] - image[:, None]).square().mean(dim=(1, 2, 3, 4))
    torch.testing.assert_close(error(detector, image), expected)


def test_latents_and_generators_both_come_nearer_and_the_own_generator_stays() -> None:
    image = torch.rand(2, 1, 16, 16)
    detector = ADGANDetector(**SMALL, starts=2, steps=10, rate=0.05, generator_rate=0.0).eval()
    before = {name: value.clone() for name, value in detector.state_dict().items()}

    def after(steps: int, rate: float, generator_rate: float) -> torch.Tensor:
        detector.config.update(steps=steps, rate=rate, generator_rate=generator_rate)
        return error(detector, image)

    start, latent = after(0, 0.0, 0.0), after(10, 0.05, 0.0)
    generator = after(10, 0.0, 1e-3)
    assert (latent < start).all() and (generator < start).all()
    for name, value in detector.state_dict().items():
        assert torch.equal(value, before[name]), name
