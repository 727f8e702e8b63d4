"""Ignite engines that train and validate AE-Flow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from ignite.engine import Events
from ignite.metrics import Average
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers.validation_handler import ValidationHandler
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor

from networks.aeflow import AEFlowOutput
from networks.loss import AEFlowLoss, LossTerms
from networks.scorer import AnomalyScorer

LOSS_NAMES = ("loss", "flow_loss", "recon_loss")
"""Total, flow term in bits per dimension, mean squared error of the normalised image."""


class FeatureCache:
    """Features of a frozen encoder, computed once per image and kept.

    Without augmentation a frozen encoder gives the same features in every epoch, so that caching
    changes nothing but the time. The features live on the device if they fit into a share of its
    free memory, else in the host's memory; beyond ``max_gigabytes`` nothing is cached.

    Args:
        scorer: gives the input normalisation and the encoder.
        max_gigabytes: largest size of the cache.
    """

    def __init__(self, scorer: AnomalyScorer, max_gigabytes: float = 8.0) -> None:
        self.scorer = scorer
        self.max_bytes = max_gigabytes * 2**30
        self.features: list[Tensor] | None = None
        self.known: Tensor | None = None

    def encode(self, normalized: Tensor, index: Tensor, size: int) -> list[Tensor]:
        """Features of normalised images ``(B, C, H, W)``, from the cache where they are known.

        Args:
            normalized: the batch.
            index: the images' indices in the data set, ``(B,)``, on the CPU.
            size: length of the data set.

        Returns:
            One feature map per stride of the encoder.
        """
        network = self.scorer.network
        if not network.encoder.frozen:
            return list(network.encode(normalized))
        if self.known is not None and self.features is not None and bool(self.known[index].all()):
            where = index.to(self.features[0].device)
            return [kept[where].to(normalized.device) for kept in self.features]
        computed = list(network.encode(normalized))
        self._keep(computed, index, size)
        return computed

    def _keep(self, computed: Sequence[Tensor], index: Tensor, size: int) -> None:
        if self.features is None:
            per_image = sum(f[0].numel() * f.element_size() for f in computed)
            if per_image * size > self.max_bytes:
                return
            device = _roomy_device(computed[0].device, per_image * size)
            self.features = [
                torch.empty((size, *f.shape[1:]), dtype=f.dtype, device=device) for f in computed
            ]
            self.known = torch.zeros(size, dtype=torch.bool)
        assert self.known is not None  # set together with the features
        where = index.to(self.features[0].device)
        for kept, new in zip(self.features, computed, strict=True):
            kept[where] = new.to(kept.device)
        self.known[index] = True


def _roomy_device(device: torch.device, wanted: float) -> torch.device:
    if device.type != "cuda":
        return device
    free, _ = torch.cuda.mem_get_info(device)
    return device if wanted < 0.3 * free else torch.device("cpu")


def fit_input_statistics(scorer: AnomalyScorer, dataset: Any) -> None:
    """Sets the scorer's input normalisation from the training images."""
    scorer.set_input_statistics(*dataset.statistics())


def loss_metrics() -> dict[str, Average]:
    """Epoch means of the loss and its terms, weighted by the batches' sizes."""
    return {
        name: Average(output_transform=lambda output, key=name: output["terms"][key])
        for name in LOSS_NAMES
    }


def forward_terms(
    scorer: AnomalyScorer,
    loss: AEFlowLoss,
    batch: Mapping[str, Tensor],
    engine: Any,
    cache: FeatureCache | None,
    size: int,
) -> tuple[AEFlowOutput, LossTerms]:
    """Runs the network on a batch and computes the loss terms, in mixed precision if asked."""
    image = batch[Keys.IMAGE].to(engine.state.device, non_blocking=engine.non_blocking)
    enabled = engine.amp and image.device.type == "cuda"
    with torch.autocast(image.device.type, dtype=torch.bfloat16, enabled=enabled):
        normalized = scorer.normalize(image)
        if cache is None:
            output = engine.inferer(normalized, scorer.network)
        else:
            output = scorer.network.from_features(cache.encode(normalized, batch["index"], size))
        return output, loss.terms(output, normalized)


def as_output(output: AEFlowOutput, terms: LossTerms, count: int) -> dict[str, Any]:
    """What an engine's iteration hands to its metrics."""
    values = (terms.total, terms.flow, terms.reconstruction)
    means = {n: v.detach().float() for n, v in zip(LOSS_NAMES, values, strict=True)}
    return {
        Keys.PRED: output,
        Keys.LOSS: terms.total,
        "terms": {name: mean.expand(count, 1) for name, mean in means.items()},
    }


class AEFlowTrainer(SupervisedTrainer):
    """Trains flow and decoder on normal images (AE-FLOW, Zhao et al., ICLR 2023).

    Takes the arguments of MONAI's `SupervisedTrainer`, of which ``loss_function`` is an
    `AEFlowLoss` and ``amp`` means bfloat16, on a GPU.

    Args:
        scorer: holds the network and normalises its input.
        cache_gigabytes: largest size of the cache of a frozen encoder's features; 0 turns it off.
        max_grad_norm: the gradients' norm is clipped to it.
        validator: tells the loss on held-out images, if any.
        val_interval: epochs from one such validation to the next.
        **kwargs: the arguments of `SupervisedTrainer`, but for ``network``.
    """

    phase = "train"

    def __init__(
        self,
        scorer: AnomalyScorer,
        cache_gigabytes: float = 8.0,
        max_grad_norm: float = 1.0,
        validator: LikelihoodEvaluator | None = None,
        val_interval: int = 1,
        **kwargs: Any,
    ) -> None:
        handlers = kwargs.pop("train_handlers", None)
        super().__init__(network=scorer.network, decollate=False, **kwargs)
        self.amp &= self.state.device.type == "cuda"
        self.scorer = scorer
        self.cache = FeatureCache(scorer, cache_gigabytes) if cache_gigabytes > 0 else None
        self.max_grad_norm = float(max_grad_norm)
        self._register_metrics(loss_metrics())
        self.add_event_handler(Events.STARTED, self._prepare)
        self.validator = validator
        if validator is not None:
            ValidationHandler(val_interval, validator).attach(self)
        self._register_handlers(handlers or [])

    def _register_metrics(self, k_metric: Any, add_metrics: Any = None) -> None:
        for name, metric in {**k_metric, **(add_metrics or {})}.items():
            metric.attach(self, name)

    @staticmethod
    def _prepare(engine: Any) -> None:
        """Sets the input statistics and the ActNorms from the data, once, at the very start."""
        engine.scorer.to(engine.state.device)
        if engine.state.epoch > 0:
            return
        dataset = engine.data_loader.dataset
        fit_input_statistics(engine.scorer, dataset)
        first = dataset.first_images(64).to(engine.state.device)
        with torch.no_grad():
            engine.scorer.network.initialize_flows(engine.scorer.normalize(first))

    def _iteration(self, engine: Any, batchdata: Mapping[str, Tensor]) -> dict[str, Any]:
        engine.network.train()
        engine.optimizer.zero_grad(set_to_none=True)
        size = len(engine.data_loader.dataset)
        output, terms = forward_terms(
            engine.scorer, engine.loss_function, batchdata, engine, engine.cache, size
        )
        terms.total.backward()
        torch.nn.utils.clip_grad_norm_(
            engine.scorer.network.trainable_parameters(), engine.max_grad_norm
        )
        engine.optimizer.step()
        return as_output(output, terms, len(batchdata[Keys.IMAGE]))


class LikelihoodEvaluator(SupervisedEvaluator):
    """Computes the loss terms on held-out normal images; nothing is selected by them.

    Args:
        scorer: holds the network and normalises its input.
        loss_function: the loss of the training.
        cache_gigabytes: see `AEFlowTrainer`.
        **kwargs: the arguments of `SupervisedEvaluator`, but for ``network``.
    """

    def __init__(
        self,
        scorer: AnomalyScorer,
        loss_function: AEFlowLoss,
        cache_gigabytes: float = 8.0,
        **kwargs: Any,
    ) -> None:
        handlers = kwargs.pop("val_handlers", None)
        super().__init__(network=scorer.network, decollate=False, **kwargs)
        self.scorer = scorer
        self.loss_function = loss_function
        self.cache = FeatureCache(scorer, cache_gigabytes) if cache_gigabytes > 0 else None
        for name, metric in loss_metrics().items():
            metric.attach(self, f"val_{name}")
        self._register_handlers(handlers or [])

    def _iteration(self, engine: Any, batchdata: Mapping[str, Tensor]) -> dict[str, Any]:
        size = len(engine.data_loader.dataset)
        with engine.mode(engine.network), torch.no_grad():
            output, terms = forward_terms(
                engine.scorer, engine.loss_function, batchdata, engine, engine.cache, size
            )
        return as_output(output, terms, len(batchdata[Keys.IMAGE]))
