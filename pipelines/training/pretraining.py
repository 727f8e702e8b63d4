"""Pre-training the encoder on synthetic anomalies in the user's own normal images.

Replaces ImageNet weights: the encoder learns in minutes to find anomalies pasted into normal
images, and the head that found them is kept as a part of the score.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from ignite.engine import Events
from ignite.metrics import Average
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers.roc_auc import ROCAUC
from monai.handlers.validation_handler import ValidationHandler
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from networks.scorer import AnomalyScorer, top_mean
from pipelines.common import generator
from pipelines.training.engines import fit_input_statistics
from transforms.synthetic import SyntheticAnomalies

logger = logging.getLogger(__name__)

WARM_UP = 100
"""Iterations over which the learning rate rises."""

AVERAGE_DECAY = 0.998
"""Largest decay per iteration of the exponential average of the weights."""

MOST_EPOCHS = 100_000
"""Epochs of a training that its minutes end."""


def pretraining_wanted(epochs: int, minutes: float, encoder_weights: str | None) -> bool:
    """Whether there is a pre-training phase: asked for, and no weights given in its place."""
    return (epochs > 0 or minutes > 0) and not encoder_weights


class PretrainTrainer(SupervisedTrainer):
    """Trains encoder and head to find synthetic anomalies; freezes the encoder at the end.

    An iteration's anomalies are a function of (seed, phase, epoch, iteration). The learning rate
    follows a cosine over the epochs, or over the minutes when these end sooner; only a run
    bounded by epochs can be repeated exactly. For a network without a head `run` does nothing.

    Args:
        scorer: holds the network.
        synthetic: makes the anomalies.
        max_epochs: number of epochs.
        learning_rate: the highest one, of AdamW over encoder and head.
        weight_decay: of AdamW.
        seed: the run's seed.
        minutes: the duration in place of the epochs; 0 for none.
        val_data_loader: held-out normal images, in which anomalies are looked for too, if any.
        val_interval: epochs from one such look to the next.
        **kwargs: further arguments of `SupervisedTrainer`; ``amp`` means bfloat16, on a GPU.

    Attributes:
        validator: looks for anomalies in the held-out images.
    """

    phase = "pretrain"

    def __init__(
        self,
        scorer: AnomalyScorer,
        synthetic: SyntheticAnomalies,
        max_epochs: int,
        learning_rate: float,
        weight_decay: float,
        seed: int = 0,
        minutes: float = 0.0,
        val_data_loader: Any = None,
        val_interval: int = 1,
        **kwargs: Any,
    ) -> None:
        handlers = kwargs.pop("train_handlers", None)
        self.scorer = scorer
        super().__init__(
            network=scorer.network,
            loss_function=mask_loss,
            optimizer=torch.optim.AdamW(
                self.trained_parts().parameters(), lr=learning_rate, weight_decay=weight_decay
            ),
            max_epochs=MOST_EPOCHS if minutes else max_epochs,
            decollate=False,
            **kwargs,
        )
        self.amp &= self.state.device.type == "cuda"
        self.synthetic = synthetic
        self.seed = seed
        self.minutes = minutes
        self.peak_lr = self.optimizer.param_groups[0]["lr"]
        self.average: AveragedModel | None = None
        self.began = 0.0
        self.augmentation = _Stopwatch()
        Average(output_transform=lambda output: output["losses"]).attach(self, "loss")
        self.add_event_handler(Events.STARTED, self._start)
        self.add_event_handler(Events.ITERATION_STARTED, self._schedule)
        self.add_event_handler(Events.COMPLETED, self._finish)
        self.validator: PretrainEvaluator | None = None
        if val_data_loader is not None:
            self.validator = PretrainEvaluator(
                scorer,
                synthetic,
                seed,
                device=self.state.device,
                val_data_loader=val_data_loader,
                amp=self.amp,
            )
            ValidationHandler(val_interval, self.validator).attach(self)
        self._register_handlers(handlers or [])

    def run(self) -> None:  # type: ignore[override]
        """Pre-trains the network, if it has a head."""
        if self.scorer.network.head is not None:
            super().run()

    def trained_parts(self) -> nn.ModuleList:
        """The encoder and the head."""
        network = self.scorer.network
        return nn.ModuleList(p for p in (network.encoder, network.head) if p is not None)

    def share_done(self) -> float:
        """Share of the training that is over, in [0, 1]."""
        total = self.state.max_epochs * self.state.epoch_length
        share = (self.state.iteration - 1) / total
        if self.minutes > 0:
            share = max(share, (time.monotonic() - self.began) / (60 * self.minutes))
        return float(min(1.0, share))

    @staticmethod
    def _start(engine: Any) -> None:
        engine.scorer.to(engine.state.device)
        engine.began = time.monotonic()
        if engine.state.epoch == 0:
            fit_input_statistics(engine.scorer, engine.data_loader.dataset)
        engine.scorer.network.encoder.unfreeze()
        if engine.state.device.type == "cuda":
            engine.scorer.network.to(memory_format=torch.channels_last)
        engine.average = AveragedModel(engine.trained_parts(), multi_avg_fn=_update_average)

    @staticmethod
    def _schedule(engine: PretrainTrainer) -> None:
        share = engine.share_done()
        total = engine.state.max_epochs * engine.state.epoch_length
        warm = min(1.0, engine.state.iteration / min(WARM_UP, 0.1 * total))
        for group in engine.optimizer.param_groups:
            group["lr"] = engine.peak_lr * warm * 0.5 * (1 + math.cos(math.pi * share))
        if share >= 1.0 and engine.minutes > 0:
            engine.terminate()

    @staticmethod
    def _finish(engine: PretrainTrainer) -> None:
        """Puts the averaged weights in place and freezes the encoder."""
        if engine.average is None:
            return
        engine.trained_parts().load_state_dict(engine.average.module.state_dict())
        engine.average = None
        engine.scorer.network.encoder.freeze()
        share = engine.augmentation.seconds / max(1e-9, time.monotonic() - engine.began)
        engine.state.metrics["augmentation_share"] = share
        logger.info("Pre-training spent %.0f %% of its time on making anomalies.", 100 * share)

    def _iteration(self, engine: Any, batchdata: Mapping[str, Tensor]) -> dict[str, Any]:
        state, scorer = engine.state, engine.scorer
        image = batchdata[Keys.IMAGE].to(state.device, non_blocking=engine.non_blocking)
        source = generator(
            engine.seed, "pretrain", state.epoch, state.iteration, device=state.device
        )
        engine.augmentation.start(state.device)
        changed, mask = engine.synthetic(image, source)
        engine.augmentation.stop(state.device)
        engine.network.train()
        engine.optimizer.zero_grad(set_to_none=True)
        loss = engine.loss_function(head_logits(scorer, changed, engine.amp), mask)
        loss.backward()
        engine.optimizer.step()
        engine.average.update_parameters(engine.trained_parts())
        return {Keys.LOSS: loss, "losses": loss.detach().expand(len(image), 1)}


class PretrainEvaluator(SupervisedEvaluator):
    """Finds the same synthetic anomalies in held-out normal images after each epoch.

    Args:
        scorer: holds the network.
        synthetic: makes the anomalies.
        seed: the run's seed; the anomalies do not change from epoch to epoch.
        **kwargs: the arguments of `SupervisedEvaluator`, but for ``network``.
    """

    def __init__(
        self, scorer: AnomalyScorer, synthetic: SyntheticAnomalies, seed: int = 0, **kwargs: Any
    ) -> None:
        handlers = kwargs.pop("val_handlers", None)
        super().__init__(network=scorer.network, decollate=False, **kwargs)
        self.scorer = scorer
        self.synthetic = synthetic
        self.seed = seed
        Average(output_transform=lambda output: output["losses"]).attach(self, "val_loss")
        ranking = ROCAUC(output_transform=lambda output: output["ranked"])
        ranking.attach(self, "val_synthetic_auroc")
        self._register_handlers(handlers or [])

    def _iteration(self, engine: Any, batchdata: Mapping[str, Tensor]) -> dict[str, Any]:
        device = engine.state.device
        image = batchdata[Keys.IMAGE].to(device)
        source = generator(engine.seed, "pretrain-val", engine.state.iteration, device=device)
        changed, mask = engine.synthetic(image, source)
        with engine.mode(engine.network), torch.no_grad():
            logits = head_logits(engine.scorer, changed, engine.amp)
        losses = mask_loss(logits, mask).expand(len(image), 1)
        score = top_mean(logits.float(), engine.scorer.settings["head_pool"])
        return {"losses": losses, "ranked": (score, mask.flatten(1).amax(dim=1).long())}


def head_logits(scorer: AnomalyScorer, image: Tensor, amp: bool) -> Tensor:
    """Logits of the head ``(B, 1, h, w)`` for images ``(B, C, H, W)`` in [0, 1]."""
    network = scorer.network
    enabled = amp and image.device.type == "cuda"
    with torch.autocast(image.device.type, dtype=torch.bfloat16, enabled=enabled):
        normalized = scorer.normalize(image)
        if enabled:
            normalized = normalized.contiguous(memory_format=torch.channels_last)
        return network.detect(network.encode(normalized))


def mask_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy between logits ``(B, 1, h, w)`` and the mask's cover of each position."""
    cover = F.adaptive_avg_pool2d(mask, (logits.shape[-2], logits.shape[-1]))
    return F.binary_cross_entropy_with_logits(logits.float(), cover)


def _update_average(averaged: Any, current: Any, count: Any) -> None:
    """Forgets faster at first: else a short training would be averaged with its very start."""
    decay = min(AVERAGE_DECAY, (1 + int(count)) / (10 + int(count)))
    get_ema_multi_avg_fn(decay)(averaged, current, count)


class _Stopwatch:
    """Time that the device spends between start and stop, without waiting for it."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, Any]] = []
        self.seconds_on_cpu = 0.0
        self.began = 0.0

    def start(self, device: torch.device) -> None:
        if device.type == "cuda":
            pair = (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
            pair[0].record()
            self.events.append(pair)
        else:
            self.began = time.perf_counter()

    def stop(self, device: torch.device) -> None:
        if device.type == "cuda":
            self.events[-1][1].record()
        else:
            self.seconds_on_cpu += time.perf_counter() - self.began

    @property
    def seconds(self) -> float:
        """Total so far; waits for the device."""
        if self.events:
            torch.cuda.synchronize()
        on_device = sum(float(a.elapsed_time(b)) for a, b in self.events) / 1000
        return self.seconds_on_cpu + on_device
