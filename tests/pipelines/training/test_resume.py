"""A training that goes on where it was stopped."""

import logging
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from torch import Tensor, nn
from torch.nn import functional as F

from networks import Detector, Inputs, Stage
from pipelines.data.datasets import NormalSlices, slice_loader
from pipelines.training.resume import Checkpoints, read_checkpoint
from pipelines.training.sequence import StagedTraining
from pipelines.training.stages import StageTrainer
from transforms.errors import InputError

TrainerOf = Callable[..., StageTrainer]

IDENTITY = {"seed": 1, "the data's fingerprint": "abc"}


class Toy(Detector):
    """Learns in two stages as AE-Flow does, in milliseconds, and draws random numbers too."""

    def __init__(self) -> None:
        super().__init__(1)
        self.encoder = nn.Sequential(nn.Conv2d(1, 4, 8, 8), nn.BatchNorm2d(4))
        self.head = nn.Conv2d(4, 1, 1)
        self.decoder = nn.Sequential(nn.Conv2d(4, 16, 1), nn.Dropout(0.5), nn.Conv2d(16, 64, 1))
        self.frozen = False

    @property
    def stages(self) -> tuple[Stage, ...]:
        first = [*self.encoder.parameters(), *self.head.parameters()]
        rest = list(self.decoder.parameters())
        return (
            Stage("pretrain", {"loss": first}, ("loss",), synthetic=True),
            Stage("train", {"loss": rest}, ("loss",), cached=True),
        )

    def train(self, mode: bool = True) -> "Toy":
        super().train(mode)
        self.encoder.train(mode and not self.frozen)
        return self

    def prepare(self, batches: Any, stage: str | None) -> None:
        super().prepare(batches, stage)
        self.frozen = stage != "pretrain"
        self.encoder.requires_grad_(not self.frozen)
        if stage == "train":
            nn.init.normal_(self.decoder[0].bias)

    def encode(self, inputs: Inputs) -> list[Tensor]:
        return [self.encoder(self.normalize(inputs.image))]

    def forward(self, inputs: Inputs, features: Any = None, stage: str | None = None) -> Tensor:
        (found,) = self.encode(inputs) if features is None else features
        made: Tensor = self.head(found) if stage == "pretrain" else self.decoder(found)
        return made

    def loss(
        self, output: Tensor, inputs: Inputs, stage: str, mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        if mask is not None:
            return {"loss": F.binary_cross_entropy_with_logits(output, F.avg_pool2d(mask, 8))}
        return {"loss": F.mse_loss(F.pixel_shuffle(output, 8), self.normalize(inputs.image))}

    def detected(self, output: Tensor) -> Tensor:
        return output.flatten(1).amax(dim=1)


class Died(BaseException):
    """Stands for SIGKILL: nothing of the program runs any more."""


class Whole:
    """A small training of both stages that may be begun again and again."""

    def __init__(self, folder: Path, trainer_of: TrainerOf, dataset: NormalSlices) -> None:
        self.folder, self.trainer_of, self.dataset = folder, trainer_of, dataset
        self.told: dict[tuple[str, int], dict[str, float]] = {}
        self.rates: dict[tuple[str, int], list[float]] = {}

    def run(
        self,
        act: Callable[[StageTrainer], None] = lambda trainer: None,
        resume: str = "auto",
        identity: dict[str, Any] = IDENTITY,
        minutes: float = 1e-9,
        epochs: int = 1,
        span: float = 0.0,
        **how: Any,
    ) -> dict[str, Tensor]:
        torch.manual_seed(0)
        detector = Toy()
        torch.manual_seed(len(self.told))  # what came before must not matter
        held_out = slice_loader(self.dataset, 3)
        trainers = [
            self.trainer_of(
                detector,
                stage,
                epochs=3,
                minutes=span if stage == "pretrain" else 0.0,
                prepared=False,
                average=stage == "pretrain",
                cosine=stage == "pretrain",
                optimizer=partial(torch.optim.AdamW, lr=3e-3),
                val_data_loader=held_out,
                val_interval=2,
                **how,
            )
            for stage in ("pretrain", "train")
        ]
        for trainer in trainers:
            trainer.add_event_handler(Events.EPOCH_COMPLETED, self._note)
            trainer.add_event_handler(Events.ITERATION_COMPLETED, self._rate)
        checkpoints = Checkpoints(str(self.folder), resume, epochs, minutes)
        checkpoints.begin(identity)
        for trainer in trainers:
            act(trainer)
        try:
            StagedTraining(detector, trainers, self.dataset, "cpu", checkpoints).run()
        finally:
            checkpoints.stops.ignore()
        return detector.state_dict()

    def _note(self, engine: Any) -> None:
        metrics = {**engine.state.metrics, **engine.validator.state.metrics}
        told = {name: float(value) for name, value in metrics.items()}
        told["best"] = float(engine.state.best_metric)
        assert self.told.setdefault((engine.phase, engine.state.epoch), told) == told

    def _rate(self, engine: Any) -> None:
        rates = [group["lr"] for group in engine.optimizer.param_groups]
        assert self.rates.setdefault((engine.phase, engine.state.iteration), rates) == rates

    @property
    def files(self) -> list[Path]:
        return sorted((self.folder / "resume").glob("*"))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def whole(tmp_path: Path, trainer_of: TrainerOf, dataset: NormalSlices) -> Whole:
    return Whole(tmp_path, trainer_of, dataset)


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return set(first) == set(second) and all(torch.equal(v, second[n]) for n, v in first.items())


def dying(phase: str, event: Any) -> Callable[[StageTrainer], None]:
    """Lets a stage die after an event, before whatever is saved then."""

    def die() -> None:
        raise Died

    return lambda trainer: trainer.phase == phase and trainer.add_event_handler(event, die)  # type: ignore[return-value]


def sending(phase: str, event: Any, number: int = signal.SIGTERM) -> Callable[[StageTrainer], None]:
    def send() -> None:
        os.kill(os.getpid(), number)

    return lambda trainer: trainer.phase == phase and trainer.add_event_handler(event, send)  # type: ignore[return-value]


@pytest.mark.parametrize("phase", ["pretrain", "train"])
@pytest.mark.parametrize(
    "event",
    [
        Events.STARTED,
        Events.ITERATION_COMPLETED(once=2),
        Events.ITERATION_COMPLETED(once=4),
        Events.ITERATION_COMPLETED(once=5),
        Events.EPOCH_COMPLETED(once=2),
        Events.EPOCH_COMPLETED(once=3),
        Events.COMPLETED,
    ],
    ids=["start", "iteration2", "iteration4", "iteration5", "epoch2", "epoch3", "end"],
)
@pytest.mark.parametrize("minutes", [0.0, 1e-9], ids=["epochs", "iterations"])
def test_resumed_equals_uninterrupted(whole: Whole, phase: str, event: Any, minutes: float) -> None:
    expected = whole.run(resume="never")
    with pytest.raises(Died):
        whole.run(dying(phase, event), "never", minutes=minutes)
    assert equal(whole.run(minutes=minutes), expected)


@pytest.mark.parametrize("how", [{"cache_gigabytes": 0.0}, {"num_workers": 1}])
def test_it_does_so_without_a_cache_and_with_workers(whole: Whole, how: dict[str, Any]) -> None:
    expected = whole.run(resume="never", **how)
    with pytest.raises(Died):
        whole.run(dying("train", Events.ITERATION_COMPLETED(once=4)), "never", **how)
    assert equal(whole.run(**how), expected)


def test_nothing_that_is_done_is_done_again(whole: Whole) -> None:
    whole.run(resume="never")
    seen: list[str] = []
    whole.run(lambda t: t.add_event_handler(Events.STARTED, lambda e: seen.append(e.phase)))  # type: ignore[arg-type,return-value]
    assert seen == []
    with pytest.raises(Died):
        whole.run(dying("train", Events.ITERATION_COMPLETED(once=6)), "never")
    counted: list[int] = []
    whole.run(
        lambda t: t.add_event_handler(  # type: ignore[arg-type,return-value]
            Events.ITERATION_COMPLETED, lambda e: counted.append(e.state.iteration)
        )
    )
    assert counted == [6]


def test_the_last_two_are_kept_and_rests_swept(whole: Whole) -> None:
    whole.run()
    assert [path.suffix for path in whole.files] == [".pt", ".pt"]
    (whole.folder / "resume" / ".partial-checkpoint-000009-x.pt").write_text("half")
    checkpoints = Checkpoints(str(whole.folder))
    checkpoints.begin(IDENTITY)
    assert len(whole.files) == 2
    checkpoints.end()
    assert not (whole.folder / "resume").exists()


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "foreign"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    whole: Whole, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected = whole.run(resume="never")
    with pytest.raises(Died):
        whole.run(dying("train", Events.ITERATION_COMPLETED(once=4)), "never")
    newest = whole.files[-1]
    content = bytearray(newest.read_bytes())
    if damage == "flip":
        middle = slice(len(content) // 2, len(content) // 2 + 256)  # wider than any padding
        content[middle] = bytes(byte ^ 4 for byte in content[middle])
    half = content[: len(content) // 2]
    written = {"cut": half, "flip": content, "empty": b"", "foreign": b"text"}[damage]
    newest.write_bytes(written)
    with caplog.at_level(logging.WARNING):
        assert equal(whole.run(), expected)
    assert f"{newest} is damaged" in caplog.text
    newest.write_bytes(b"")
    with pytest.raises(InputError, match="resume: .* is damaged or no checkpoint"):
        Checkpoints(str(whole.folder), str(newest)).begin(IDENTITY)


def test_another_training_is_refused_with_the_difference(whole: Whole) -> None:
    whole.run()
    before = whole.files
    other = {"seed": 2, "the data's fingerprint": "abc"}
    with pytest.raises(InputError, match="seed was 1 and is 2.*--resume never") as caught:
        Checkpoints(str(whole.folder)).begin(other)
    assert "fingerprint" not in str(caught.value)
    with pytest.raises(InputError, match="fingerprint was 'abc' and is nothing"):
        Checkpoints(str(whole.folder)).begin({"seed": 1})
    assert whole.files == before
    Checkpoints(str(whole.folder), "never").begin(other)
    (only,) = whole.files
    content = read_checkpoint(only)
    assert content is not None and content["identity"] == other and content["stage"] is None


def test_a_checkpoint_can_be_named(whole: Whole, tmp_path: Path) -> None:
    expected = whole.run(resume="never")
    kept = tmp_path / "kept.pt"
    with pytest.raises(Died):
        whole.run(dying("pretrain", Events.ITERATION_COMPLETED(once=4)), "never")
    whole.files[-1].rename(kept)
    assert equal(whole.run(resume=str(kept)), expected)
    with pytest.raises(InputError, match="resume: expected auto, never or a checkpoint's file"):
        Checkpoints(str(tmp_path), "alway").begin(IDENTITY)


def test_what_stands_beside_is_kept_and_what_is_given_up_is_told(tmp_path: Path) -> None:
    class Note:
        def __init__(self, text: str) -> None:
            self.text = text

        def state_dict(self) -> dict[str, Any]:
            return {"text": self.text}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.text = state["text"]

    first, second, third = Note("first"), Note("second"), Note("third")
    Checkpoints(str(tmp_path), beside={"note": first}).begin(IDENTITY)
    again = Checkpoints(str(tmp_path), beside={"note": second})
    assert again.begin(IDENTITY) == {} and second.text == "first"
    never = Checkpoints(str(tmp_path), "never", beside={"note": third})
    assert never.begin(IDENTITY) == {"note": {"text": "first"}} and third.text == "third"


@pytest.mark.parametrize("phase", ["pretrain", "train"])
@pytest.mark.parametrize(
    "event",
    [
        Events.ITERATION_COMPLETED(once=3),
        Events.ITERATION_COMPLETED(once=4),
        Events.ITERATION_COMPLETED(once=6),
        Events.EPOCH_COMPLETED(once=2),
    ],
    ids=["middle", "last", "very last", "epoch"],
)
def test_a_signal_saves_all_and_ends(
    whole: Whole, phase: str, event: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = whole.run(resume="never")
    whole.rates.clear()

    def act(trainer: StageTrainer) -> None:
        trainer.add_event_handler(Events.STARTED, lambda: listening())
        sending(phase, event)(trainer)

    checkpoints: list[Checkpoints] = []
    genuine = Checkpoints.begin

    def begin(self: Checkpoints, identity: Any) -> Any:
        checkpoints.append(self)
        return genuine(self, identity)

    def listening() -> None:
        checkpoints[-1].stops.listen(lambda: None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "begin", begin)
        with pytest.raises(SystemExit) as caught:
            whole.run(act, "never", minutes=0.0, epochs=100)
    assert caught.value.code == 143
    told = capsys.readouterr().err
    assert phase in told and str(whole.folder) in told and "The same command goes on" in told
    done = set(whole.rates)
    whole.rates.clear()
    assert equal(whole.run(), expected)
    assert not done & set(whole.rates)  # no iteration was lost


def test_the_minutes_of_a_stage_go_on(whole: Whole, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("pipelines.training.stages.time.monotonic", lambda: now[0])

    def tick(trainer: StageTrainer) -> None:
        def wait() -> None:
            now[0] += 10.0

        trainer.add_event_handler(Events.ITERATION_COMPLETED, wait)

    def act(trainer: StageTrainer) -> None:
        tick(trainer)
        dying("pretrain", Events.ITERATION_COMPLETED(once=5))(trainer)

    whole.run(tick, "never", span=1.0)
    length = max(number for phase, number in whole.rates if phase == "pretrain")
    whole.rates.clear()
    with pytest.raises(Died):
        whole.run(act, "never", span=1.0)
    now[0] += 5000.0
    whole.run(tick, span=1.0)
    assert max(number for phase, number in whole.rates if phase == "pretrain") == length
