"""Checkpoints of a training, from which it goes on exactly as if it had never stopped."""

from __future__ import annotations

import logging
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from ignite.engine import Events

from networks import Detector
from pipelines.common import (
    StopSignals,
    barrier,
    is_main,
    largest,
    read_archive,
    replacing,
    writable_folder,
)
from pipelines.training.stages import StageTrainer
from pipelines.training.state import state_of, take_up
from transforms.errors import InputError

logger = logging.getLogger(__name__)

FOLDER = "resume"
"""Where the checkpoints of an unfinished training lie, below the folder of its model."""

KEPT = 2
"""Checkpoints that stay: if the last one is damaged, the one before serves."""


class Stateful(Protocol):
    """What is kept beside the training."""

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the values back."""
        ...


class Checkpoints:
    """Saves a training as it goes, and finds where an earlier one stopped.

    Args:
        ckpt_dir: the folder of the model; checkpoints lie in its folder `FOLDER`.
        resume: ``auto`` goes on from the newest checkpoint if there is one, ``never`` starts
            anew, anything else is the checkpoint's file to go on from.
        epochs: from one checkpoint to the next; a stage that is finished is always saved.
        minutes: likewise, also within an epoch; 0 for none.
        beside: what else is saved, by name.

    Attributes:
        stops: the signals after which a checkpoint is saved and the process left.
    """

    def __init__(
        self,
        ckpt_dir: str,
        resume: str = "auto",
        epochs: int = 1,
        minutes: float = 10.0,
        beside: Mapping[str, Stateful] | None = None,
    ) -> None:
        self.folder = Path(ckpt_dir) / FOLDER
        self.resume = resume
        self.epochs, self.minutes = int(epochs), float(minutes)
        self.beside = dict(beside or {})
        self.stops = StopSignals()
        self._identity: dict[str, Any] = {}
        self._found: dict[str, Any] | None = None
        self._saved = 0.0

    def follow(self) -> None:
        """Finds what the first of several processes has found or written in `begin`."""
        named = self.resume not in ("auto", "never")
        self._found = self._named() if named else self._newest()

    def begin(self, identity: Mapping[str, Any]) -> dict[str, Any]:
        """Looks for where to go on, and takes up what stands beside the training.

        Args:
            identity: plain values that make two trainings the same, by what they are called.

        Returns:
            What stood beside an earlier training that is given up by ``never``; else nothing.

        Raises:
            InputError: when the checkpoint is another training's, or not there.
        """
        writable_folder(self.folder, "ckpt_dir")
        self._identity = dict(identity)
        given_up: dict[str, Any] = {}
        if self.resume == "never":
            newest = self._newest()
            given_up = newest["beside"] if newest else {}
            shutil.rmtree(self.folder)
        else:
            self._found = self._newest() if self.resume == "auto" else self._named()
        if self._found is None:
            self._write(None, None)
        else:
            self._take(self._found)
        for rest in self.folder.glob(".*"):
            rest.unlink()
        return given_up

    @property
    def stage(self) -> str | None:
        """The stage in which, or after which, an earlier training stopped; None before any."""
        return None if self._found is None else self._found["stage"]

    def train(self, detector: Detector, trainer: StageTrainer) -> None:
        """Runs a stage that the detector is prepared for, or what is left of it."""
        found = self._found if self.stage == trainer.phase else None
        if found is not None:
            detector.load_state_dict(found["detector"])
            self._found = None
            if found["trainer"] is None:
                return
            take_up(trainer, found["trainer"])
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._after_iteration, detector)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._after_epoch, detector)
        trainer.add_event_handler(Events.COMPLETED, self._finish, detector)
        with self.stops.deferring():
            trainer.run()

    def end(self) -> None:
        """Removes the checkpoints of a finished training."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _take(self, found: Mapping[str, Any]) -> None:
        different = differences(found["identity"], self._identity)
        if different:
            place = self.folder if self.resume == "auto" else self.resume
            raise InputError(
                f"resume: {place} holds the checkpoint of an unfinished training that was "
                f"another one: {'; '.join(different)}. Go on with what was given then, give "
                f"--resume never to start anew, or another --ckpt_dir to keep both."
            )
        for name, one in self.beside.items():
            one.load_state_dict(found["beside"][name])
        where = found["where"] or "its beginning"
        logger.info("Going on with an interrupted training from %s (%s).", where, self.folder)
        self._advise(found["where"])

    def _after_iteration(self, trainer: StageTrainer, detector: Detector) -> None:
        state = trainer.state
        if state.iteration % state.epoch_length == 0:  # the epoch's end is still to come
            return
        if self._wanted(0 < 60 * self.minutes <= time.monotonic() - self._saved):
            self._save(trainer, detector, f"iteration {state.iteration}")

    def _after_epoch(self, trainer: StageTrainer, detector: Detector) -> None:
        epoch, last = trainer.state.epoch, trainer.state.max_epochs
        if self._wanted(epoch % self.epochs == 0) and epoch < last:
            self._save(trainer, detector, f"epoch {epoch}")

    def _wanted(self, due: bool) -> bool:
        """Whether any process finds a checkpoint due, or was told to stop; then all stop."""
        stop, due_anywhere = largest(self.stops.received or 0, due)
        if stop:
            self.stops.received = signal.Signals(stop)
        return bool(stop or due_anywhere)

    def _save(self, trainer: StageTrainer, detector: Detector, where: str) -> None:
        trainer.agree()
        self._write(trainer, detector, f"{trainer.phase}, {where}", state_of(trainer))
        if self.stops.received:
            barrier()  # none ends before the first has written: that would end all
            trainer.terminate(skip_completed=True)

    def _finish(self, trainer: StageTrainer, detector: Detector) -> None:
        self._write(trainer, detector, f"the end of {trainer.phase}")

    def _write(
        self,
        trainer: StageTrainer | None,
        detector: Detector | None,
        where: str = "",
        state: Mapping[str, Any] | None = None,
    ) -> None:
        """Saves a training before its first stage, within one, or, without a state, after it.

        The first of several processes writes for all; they are alike.
        """
        content = {
            "identity": self._identity,
            "beside": {name: one.state_dict() for name, one in self.beside.items()},
            "where": where,
            "stage": None if trainer is None else trainer.phase,
            "detector": None if detector is None else detector.state_dict(),
            "trainer": state,
        }
        if is_main():
            self._put(content)
        self._saved = time.monotonic()
        self._advise(where)

    def _put(self, content: Mapping[str, Any]) -> None:
        files = self._files()
        number = 1 + max((int(path.stem.rpartition("-")[2]) for path in files), default=0)
        path = self.folder / f"checkpoint-{number:06d}.pt"
        with replacing(path) as temporary:
            torch.save(content, temporary)
        for old in files[: 1 - KEPT]:
            old.unlink()

    def _advise(self, where: str) -> None:
        if where:
            self.stops.advice = (
                f"All up to {where} is kept in {self.folder}. The same command goes on from there."
            )

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("checkpoint-*.pt"))

    def _newest(self) -> dict[str, Any] | None:
        for path in reversed(self._files()):
            content = read_checkpoint(path)
            if content is not None:
                return content
            logger.warning("%s is damaged; what was saved before it serves, if anything.", path)
        return None

    def _named(self) -> dict[str, Any]:
        path = Path(self.resume)
        if not path.is_file():
            raise InputError(
                f"resume: expected auto, never or a checkpoint's file, found {self.resume!r}."
            )
        content = read_checkpoint(path)
        if content is None:
            raise InputError(
                f"resume: {path} is damaged or no checkpoint. Give auto to take the newest one in "
                f"{self.folder} that is sound, or never to start anew."
            )
        return content


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """Reads a checkpoint whose checksums hold; nothing in it is executed.

    Returns:
        Its content; None for a damaged or a foreign file.
    """
    content, _ = read_archive(path)
    return content if isinstance(content, dict) and "identity" in content else None


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two trainings, in words.

    Example:
        >>> differences({"seed": 0, "axis": "axial"}, {"seed": 1, "axis": "axial"})
        ['seed was 0 and is 1']
    """
    names = dict.fromkeys((*then, *now))
    return [
        f"{name} was {_shown(then, name)} and is {_shown(now, name)}"
        for name in names
        if (name in then, then.get(name)) != (name in now, now.get(name))
    ]


def _shown(values: Mapping[str, Any], name: str) -> str:
    text = repr(values[name]) if name in values else "nothing"
    return text if len(text) <= 60 else f"{text[:57]}..."
