"""One batch of a stage through a detector, the same in training and validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from ignite.metrics import Average, Metric
from torch import Tensor

from networks import Detector, Inputs, Stage
from networks.compiled import Compiled
from networks.spatial import MEMORY_FORMATS, size_of
from pipelines.common import generator
from pipelines.training.batches import Labelled, as_inputs
from pipelines.training.cache import FeatureCache
from transforms.augment import vary
from transforms.synthetic import SyntheticAnomalies

LABELLED_SHARE = 1 / 32
"""Labelled anomalies that join a batch, per normal image in it."""

PLACES = ("body", "region")
"""What a synthetic stage needs of a batch beside its images: where anomalies may be."""


class Step(NamedTuple):
    """One batch through the detector.

    Attributes:
        output: of the detector.
        terms: of the stage's loss.
        mask: of the anomalies, ``(B, 1, H, W)``; None without any.
    """

    output: Any
    terms: dict[str, Tensor]
    mask: Tensor | None


class Stepper:
    """Runs batches of one stage through a detector, the same in training and validation.

    Args:
        detector: the method.
        stage: name of its stage.
        synthetic: makes the anomalies of a synthetic stage.
        seed: the run's seed; anomalies are a function of it and of what the engine counts.
        cache_gigabytes: largest size of the cache of a cached stage; 0 turns it off.
        labelled: anomalies that join each batch of a stage that learns from them; None for none.
    """

    def __init__(
        self,
        detector: Detector,
        stage: str,
        synthetic: SyntheticAnomalies | None,
        seed: int,
        cache_gigabytes: float,
        labelled: Labelled | None = None,
    ) -> None:
        self.detector = detector
        self.stage = next((one for one in detector.stages if one.name == stage), None)
        self.synthetic = synthetic
        self.seed = seed
        learns = self.stage is not None and self.stage.uses_mask
        self.labelled = labelled if labelled and learns else None
        cached = self.stage is not None and self.stage.cached and cache_gigabytes > 0
        self.cache = FeatureCache(detector, cache_gigabytes) if cached else None
        self._loss: Callable[..., dict[str, Tensor]] = detector.loss
        self._run: Callable[..., Any] | None = None

    def accelerate(self, network: Callable[..., Any]) -> None:
        """Compiles the network, but for the frozen encoder of a cached stage, and the loss."""
        self._run, self._loss = Compiled(network), Compiled(self.detector.loss)

    def metrics(self, device: torch.device, prefix: str = "") -> dict[str, Metric]:
        """Epoch means of the loss's terms, weighted by the batches' sizes.

        They add up on the engine's device, and are read once an epoch.
        """
        if self.stage is None:
            return {}
        return {
            f"{prefix}{name}": Average(partial(_term, name=name), device).item()
            for name in self.stage.terms
        }

    @property
    def replayable(self) -> bool:
        """Whether all steps on a GPU's data launch the same kernels, see `Replay`; of images."""
        stage, images = self.stage, self.detector.spatial_dims == 2
        synthetic = stage is not None and stage.synthetic and not stage.cached
        return images and synthetic and self.labelled is None

    def __call__(
        self,
        engine: Any,
        batch: Mapping[str, Tensor],
        *draw: Any,
        source: torch.Generator | None = None,
    ) -> Step:
        """Runs a batch.

        Args:
            engine: whose device, precision and network are used.
            batch: ``image`` ``(B, C, H, W)``, its ``index`` in the data set, ``body`` and
                ``region`` ``(B, 1, H, W)``, and what else the detector needs.
            draw: what the anomalies depend on beside the seed.
            source: of their randomness, in place of one of the seed and the draw.
        """
        stage = self._known_stage()
        inputs, mask = self.inputs(engine, batch, *draw, source=source)
        with self.precision(engine):
            features = self._cached(engine, inputs, batch)
            if self.labelled is not None:
                source = generator(self.seed, "labelled", *draw, device=inputs.image.device)
                inputs, mask, features = self._with_labelled(inputs, mask, features, source)
            output = engine.inferer(inputs, self._run or engine.network, features, stage.name)
            terms = self._loss(output, inputs, stage.name, mask)
        return Step(output, terms, mask)

    def encode(self, engine: Any, inputs: Inputs, batch: Mapping[str, Tensor]) -> None:
        """Keeps the features of a batch of a cached stage, as `__call__` does."""
        with self.precision(engine), torch.no_grad():
            self._cached(engine, inputs, batch)

    def _cached(self, engine: Any, inputs: Inputs, batch: Mapping[str, Tensor]) -> Any:
        if self.cache is None:
            return self.detector.encode(inputs) if self._known_stage().cached else None
        return self.cache.encode(inputs, batch["index"], len(engine.data_loader.dataset))

    def _with_labelled(
        self, inputs: Inputs, mask: Tensor | None, features: Any, source: torch.Generator
    ) -> tuple[Inputs, Tensor, Any]:
        """The batch with labelled anomalies behind it, varied as the synthetic ones are."""
        assert self.labelled is not None
        count = max(1, round(LABELLED_SHARE * len(inputs.image)))
        image, body, shown = self.labelled.drawn(count, source)
        if self.synthetic is not None and self.synthetic.variation is not None:
            image, shown = vary(image, body, shown, source, self.synthetic.variation)
        if mask is None:
            mask = torch.zeros_like(inputs.image[:, :1])
        if features is not None:
            added = self.detector.encode(Inputs(image))
            features = [torch.cat(both) for both in zip(features, added, strict=True)]
        joined = inputs._replace(image=torch.cat([inputs.image, image]))
        return joined, torch.cat([mask, shown]), features

    def _known_stage(self) -> Stage:
        if self.stage is None:
            raise RuntimeError("this detector has no such stage; run those that it has.")
        return self.stage

    def precision(self, engine: Any) -> torch.autocast:
        """bfloat16 where the engine asks for it."""
        return torch.autocast(engine.state.device.type, torch.bfloat16, enabled=engine.amp)

    def inputs(
        self,
        engine: Any,
        batch: Mapping[str, Tensor],
        *draw: Any,
        source: torch.Generator | None = None,
    ) -> tuple[Inputs, Tensor | None]:
        """A batch as the stage sees it, with the mask of its anomalies; see `__call__`."""
        stage, device = self._known_stage(), engine.state.device
        inputs = as_inputs(batch, self.detector.needs, device, engine.non_blocking)
        mask = None
        if stage.synthetic:
            if self.synthetic is None:
                raise RuntimeError(f"stage {stage.name}: give what makes the anomalies.")
            source = source or generator(self.seed, *draw, device=device)
            body, region = (batch[n].to(device, non_blocking=engine.non_blocking) for n in PLACES)
            changed, mask = self.synthetic(inputs.image, body, region, source)
            inputs = inputs._replace(image=changed)
        image = inputs.image
        channels_last = image.contiguous(memory_format=MEMORY_FORMATS[len(size_of(image))])
        return inputs._replace(image=channels_last), mask


def _term(output: Mapping[str, Any], name: str) -> Tensor:
    value: Tensor = output["terms"][name]
    return value
