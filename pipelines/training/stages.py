"""The phases of a detector's training, each on one Ignite engine."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.engines.workflow import Workflow
from monai.handlers.roc_auc import ROCAUC
from monai.handlers.validation_handler import ValidationHandler
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.memory_format import convert_conv3d_weight_memory_format
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from networks import Detector, Inputs
from networks.spatial import MEMORY_FORMATS
from pipelines.common import (
    average,
    compiling_pays,
    derive_seed,
    from_main,
    own_draw,
    pays_bfloat16,
    processes,
)
from pipelines.training.batches import Labelled
from pipelines.training.replay import Replay
from pipelines.training.step import Step, Stepper
from transforms.synthetic import SyntheticAnomalies

logger = logging.getLogger(__name__)

WARM_UP = 100
"""Iterations over which the learning rate of a cosine schedule rises."""

AVERAGE_DECAY = 0.998
"""Largest decay per iteration of the exponential average of the weights."""

STATISTICS_BATCHES = 30
"""Batches on which BatchNorm's statistics are measured under the averaged weights."""

REPAID_BY_TRAINING = 200_000
"""Images over which compiling a stage for a minute is repaid, on an H100 and at 256 pixels.

By the clock a stage is compiled only if the user asks for it: compiling would use the time up.
"""

MOST_EPOCHS = 100_000
"""Bound on the epochs of a stage that ends by the clock."""

MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


class WeightAverage(AveragedModel):
    """The exponential average of weights, which forgets faster at first.

    Else a short training would be averaged with its very start. PyTorch's own takes the count of
    averages to the GPU at each, for which the host waits.
    """

    def update_parameters(self, model: nn.Module) -> None:
        """Takes in the weights of now."""
        count = int(self.n_averaged)
        decay = min(AVERAGE_DECAY, (1 + count) / (10 + count)) if count else 0.0
        averaged, current = (list(one.parameters()) for one in (self.module, model))
        get_ema_multi_avg_fn(decay)(averaged, current, None)
        self.n_averaged += 1


class StageTrainer(SupervisedTrainer):
    """Trains one stage of a detector on normal images.

    Takes the arguments of MONAI's `SupervisedTrainer`, where ``amp`` means bfloat16 if that is
    faster on the device. An iteration's anomalies are a function of (seed, stage, epoch,
    iteration).

    Args:
        detector: the method.
        stage: name of its stage; a detector without it leaves the trainer idle.
        optimizer: makes the optimiser of a group of parameters.
        synthetic: makes the anomalies of a synthetic stage.
        seed: the run's seed.
        minutes: bound on the duration, instead of ``max_epochs``; 0 for none. Only a run bounded
            by epochs can be repeated exactly.
        cosine: whether the learning rate rises and then follows a cosine to the end.
        average: whether the stage ends with an exponential average of its weights.
        cache_gigabytes: largest size of the cache of a cached stage; 0 turns it off.
        labelled: anomalies from which it learns beside the normal images; None for none.
        compiling: when to compile a cached stage, see `compiling_pays`; unless never, a GPU
            replays a synthetic one, see `Replay`, which was not tried with several processes.
        max_grad_norm: the norm of a group's gradients is clipped to it; 0 for no bound.
        max_epochs: number of epochs.
        val_data_loader: held-out normal images, on which the loss is told too, if any.
        val_interval: epochs from one such validation to the next.
        **kwargs: the arguments of `SupervisedTrainer`, but for ``network``, ``loss_function`` and
            the metrics.

    Attributes:
        phase: name of the stage.
        terms: names of its metrics.
        means: the metrics.
        validator: tells the loss on held-out images; None without any.
    """

    def __init__(
        self,
        detector: Detector,
        stage: str,
        optimizer: MakeOptimizer,
        synthetic: SyntheticAnomalies | None = None,
        seed: int = 0,
        minutes: float = 0.0,
        cosine: bool = False,
        average: bool = False,
        cache_gigabytes: float = 8.0,
        labelled: Labelled | None = None,
        compiling: str = "never",
        max_grad_norm: float = 0.0,
        max_epochs: int = 1,
        val_data_loader: Any = None,
        val_interval: int = 1,
        **kwargs: Any,
    ) -> None:
        handlers, amp = kwargs.pop("train_handlers", None), bool(kwargs.pop("amp", False))
        self.step = Stepper(detector, stage, synthetic, seed, cache_gigabytes, labelled)
        found = self.step.stage
        self.groups = {} if found is None else {k: list(v) for k, v in found.groups.items()}
        self.optimizers = {name: optimizer(group) for name, group in self.groups.items()}
        self.peaks = {n: [g["lr"] for g in o.param_groups] for n, o in self.optimizers.items()}
        self.phase = stage
        self.minutes, self.cosine = float(minutes), bool(cosine)
        self.max_grad_norm = float(max_grad_norm)
        self.compiling = compiling
        self.trained = nn.ParameterList(p for group in self.groups.values() for p in group)
        self.averages = bool(average)
        self.average: WeightAverage | None = None
        self.replay: Replay | None = None
        self.began = 0.0
        self.means = self.step.metrics(torch.device(kwargs["device"]))
        self.terms = tuple(self.means)
        metrics = dict(self.means)
        key = next(iter(metrics), None)
        super().__init__(
            network=detector,
            optimizer=next(iter(self.optimizers.values()), None),  # type: ignore[arg-type]
            loss_function=None,  # type: ignore[arg-type]
            decollate=False,
            max_epochs=MOST_EPOCHS if self.minutes > 0 else int(max_epochs),
            key_train_metric=None if key is None else {key: metrics.pop(key)},
            additional_metrics=metrics,
            metric_cmp_fn=lambda current, best: current < best,
            **kwargs,
        )
        self.amp = amp and pays_bfloat16(self.state.device, detector.spatial_dims)
        self.add_event_handler(Events.STARTED, self._start)
        self.add_event_handler(Events.ITERATION_STARTED, self._schedule)
        self.add_event_handler(Events.EPOCH_COMPLETED, StageTrainer.agree)
        self.add_event_handler(Events.COMPLETED, self._finish)
        self.validator: StageEvaluator | None = None
        if found is not None and val_data_loader is not None:
            self.validator = StageEvaluator(
                detector,
                stage,
                synthetic,
                seed,
                cache_gigabytes,
                device=self.state.device,
                val_data_loader=val_data_loader,
                inferer=self.inferer,
                amp=self.amp,
            )
            ValidationHandler(val_interval, self.validator).attach(self)
        if found is not None:
            self._register_handlers(handlers or [])

    def end_after(self, minutes: float) -> None:
        """Bounds the stage by the clock, in place of its epochs."""
        self.minutes, self.state.max_epochs = minutes, MOST_EPOCHS

    def run(self) -> None:  # type: ignore[override]
        """Trains, without MONAI's scaler of gradients, which bfloat16 does not need."""
        self.scaler = None
        Workflow.run(self)

    def share_done(self) -> float:
        """Share of the stage that is over, in [0, 1]."""
        total = self.state.max_epochs * self.state.epoch_length
        share = (self.state.iteration - 1) / total
        if self.minutes > 0:
            passed = from_main(lambda: time.monotonic() - self.began)
            share = max(share, passed / (60 * self.minutes))
        return float(min(1.0, share))

    @staticmethod
    def _start(engine: Any) -> None:
        engine.began = time.monotonic()
        dims = engine.step.detector.spatial_dims
        if dims == 3:  # where Module.to stops at a buffer of four axes
            convert_conv3d_weight_memory_format(engine.network, MEMORY_FORMATS[dims])
        else:
            engine.network.to(memory_format=MEMORY_FORMATS[dims])
        loader = engine.data_loader
        reside = getattr(loader.dataset, "reside", None)
        if reside and not loader.num_workers and reside(engine.state.device):
            loader.pin_memory = False
            if engine.compiling != "never" and engine.step.replayable and processes() == 1:
                engine.replay = Replay(engine._gradients, list(engine.trained), engine.state.device)
        images = 0 if engine.minutes > 0 else engine.state.max_epochs * len(loader.dataset)
        cached = engine.step.stage is not None and engine.step.stage.cached
        if cached and compiling_pays(
            engine.compiling, engine.state.device, images, REPAID_BY_TRAINING
        ):
            engine.step.accelerate(engine.network)
        if engine.averages:
            engine.average = WeightAverage(engine.trained)

    @staticmethod
    def _schedule(engine: StageTrainer) -> None:
        step, share = engine.step, engine.share_done()
        draw = (engine.state.iteration, *own_draw())
        torch.manual_seed(derive_seed(step.seed, f"{engine.phase}-global", *draw))
        if engine.cosine:
            total = engine.state.max_epochs * engine.state.epoch_length
            warm = min(1.0, engine.state.iteration / min(WARM_UP, 0.1 * total))
            factor = warm * 0.5 * (1 + math.cos(math.pi * share))
            for name, optimizer in engine.optimizers.items():
                for group, peak in zip(optimizer.param_groups, engine.peaks[name], strict=True):
                    group["lr"] = peak * factor
        if share >= 1.0 and engine.minutes > 0:
            engine.terminate()

    @staticmethod
    def _finish(engine: StageTrainer) -> None:
        engine.replay = None
        if engine.average is not None:
            engine.trained.load_state_dict(engine.average.module.state_dict())
            engine.average = None
            engine._measure_statistics()

    def _measure_statistics(self) -> None:
        """Measures BatchNorm's statistics anew, which belong to other weights than the average."""
        stage = self.step.stage
        if stage is None or stage.cached:  # a frozen encoder keeps its own
            return
        batches = (
            (self.step.inputs(self, batch, f"{stage.name}-statistics", number, *own_draw())[0],)
            for number, batch in enumerate(islice(self.data_loader, STATISTICS_BATCHES))
        )
        update_bn(batches, _InStage(self.step, self))
        self.agree()

    def agree(self) -> None:
        """Averages BatchNorm's running statistics over all processes.

        They are linear in those of the batches, and used only outside the training: once is as
        good as after each batch.
        """
        average(self._statistics())

    def _statistics(self) -> list[Tensor]:
        """BatchNorm's running statistics, as far as they move with the batches."""
        return [
            value
            for module in self.step.detector.modules()
            if isinstance(module, _BatchNorm) and module.training
            for value in (module.running_mean, module.running_var)
            if value is not None
        ]

    def _reduce(self, parameters: Iterable[nn.Parameter]) -> None:
        """The mean of gradients over all processes, in place of the own ones.

        `DistributedDataParallel` knows one backward pass per forward pass, and no parameters that
        the loss alone uses; a detector may have several groups, each with its own, and such.
        """
        average([p.grad for p in parameters if p.grad is not None])

    def _iteration(self, engine: Any, batchdata: Mapping[str, Tensor]) -> dict[str, Any]:
        engine.network.train()
        state = engine.state
        name = "" if engine.step.stage is None else engine.step.stage.name
        draw = (name, state.epoch, state.iteration, *own_draw())
        if engine.replay is None:
            told = engine._gradients(batchdata, draw=draw)
        else:
            told = engine.replay(batchdata, derive_seed(engine.step.seed, *draw))
        for group in engine.groups.values():
            engine._reduce(group)
            if engine.max_grad_norm > 0:
                nn.utils.clip_grad_norm_(group, engine.max_grad_norm)
        for optimizer in engine.optimizers.values():
            optimizer.step()
        if engine.average is not None:
            engine.average.update_parameters(engine.trained)
        return {"terms": told}

    def _gradients(
        self,
        batch: Mapping[str, Tensor],
        source: torch.Generator | None = None,
        draw: Sequence[Any] = (),
    ) -> dict[str, Tensor]:
        """Leaves the gradients of a batch in place, and tells the terms of its loss."""
        done = self.step(self, batch, *draw, source=source)
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        last = len(self.groups) - 1
        for position, (term, group) in enumerate(self.groups.items()):
            done.terms[term].backward(inputs=group, retain_graph=position < last)
        return _told(done, batch)


class _InStage(nn.Module):
    """A detector in the stage and the precision of an engine."""

    def __init__(self, step: Stepper, engine: Any) -> None:
        super().__init__()
        self.detector = step.detector
        self.step, self.engine = step, engine

    def forward(self, inputs: Inputs) -> Any:
        with self.step.precision(self.engine):
            return self.detector(inputs, stage=self.engine.phase)


class StageEvaluator(SupervisedEvaluator):
    """Computes a stage's loss on held-out normal images; nothing is selected by it.

    Of a synthetic stage the anomalies are the same in every epoch, and the AUROC of
    `Detector.detected` is told as ``val_synthetic_auroc``.

    Args:
        detector: the method.
        stage: name of its stage.
        synthetic: makes the anomalies of a synthetic stage.
        seed: the run's seed.
        cache_gigabytes: see `StageTrainer`.
        **kwargs: the arguments of `SupervisedEvaluator`, but for ``network`` and the metrics.
    """

    def __init__(
        self,
        detector: Detector,
        stage: str,
        synthetic: SyntheticAnomalies | None = None,
        seed: int = 0,
        cache_gigabytes: float = 8.0,
        **kwargs: Any,
    ) -> None:
        self.step = Stepper(detector, stage, synthetic, seed, cache_gigabytes)
        metrics = self.step.metrics(torch.device(kwargs["device"]), "val_")
        if self.step.stage is not None and self.step.stage.synthetic:
            metrics["val_synthetic_auroc"] = ROCAUC(
                output_transform=lambda output: output["ranked"]
            )
        self.terms = tuple(metrics)
        key = next(iter(metrics), None)
        super().__init__(
            network=detector,
            decollate=False,
            key_val_metric=None if key is None else {key: metrics.pop(key)},
            additional_metrics=metrics,
            metric_cmp_fn=lambda current, best: current < best,
            **kwargs,
        )

    def _iteration(self, engine: Any, batchdata: Mapping[str, Tensor]) -> dict[str, Any]:
        name = "" if engine.step.stage is None else engine.step.stage.name
        with engine.mode(engine.network), torch.no_grad():
            before = engine.data_loader.sampler.start // engine.data_loader.batch_size
            number = before + engine.state.iteration
            done = engine.step(engine, batchdata, f"{name}-val", number)
            told: dict[str, Any] = {"terms": _told(done, batchdata)}
            if done.mask is not None:
                detected = engine.step.detector.detected(done.output)
                told["ranked"] = (detected, done.mask.flatten(1).amax(dim=1))
        return told


def _told(done: Step, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The terms that an iteration hands to the metrics."""
    count = len(batch[Keys.IMAGE])
    return {name: term.detach().float().expand(count, 1) for name, term in done.terms.items()}
