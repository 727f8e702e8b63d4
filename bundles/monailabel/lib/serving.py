"""The served model: loaded once, replaced when its file was, used by one request at a time."""

from __future__ import annotations

import hashlib
import logging
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

from lib.guard import Refusal
from pipelines.cases import Case
from pipelines.files import replacing
from pipelines.model_file import MODEL_NAME
from pipelines.prediction import Predictor
from pipelines.scoring import ScoredCase
from transforms.errors import InputError

logger = logging.getLogger("aeflow.label")

_Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class Served:
    """A scored case and the model that scored it.

    Attributes:
        case: the scored case.
        pixel_threshold: of the model, in standard deviations.
        fingerprint: the start of the SHA-256 of the model file.
    """

    case: ScoredCase
    pixel_threshold: float
    fingerprint: str


class ServedModel:
    """A model file that may be replaced while it is served.

    Args:
        ckpt_dir: the folder of ``model.pt``.
        device: where to compute.
        batch_size: slices that go through the network at once.

    Attributes:
        path: the model file.
    """

    def __init__(self, ckpt_dir: Path, device: str = "cpu", batch_size: int = 32) -> None:
        self.path = ckpt_dir / MODEL_NAME
        self.device = device
        self.batch_size = batch_size
        self._lock = threading.RLock()
        self._stamp: _Stamp | None = None
        self._predictor: Predictor | None = None
        self._fingerprint = ""

    @property
    def available(self) -> bool:
        """Whether there is a model to serve."""
        return self._predictor is not None or self.path.is_file()

    @property
    def fingerprint(self) -> str:
        """The start of the SHA-256 of the model in use."""
        self.predictor()
        return self._fingerprint

    def predictor(self) -> Predictor:
        """The model in use; a new file that cannot be loaded leaves the present one in use.

        Raises:
            Refusal: 409 when there is none.
        """
        with self._lock:
            stamp = _stamp(self.path)
            if stamp is not None and stamp != self._stamp:
                self._load(stamp)
            if self._predictor is None:
                raise Refusal(
                    409, "model: there is no usable model file yet; train one, or see the guide."
                )
            return self._predictor

    def score(self, path: Path) -> Served:
        """Scores one file or DICOM folder; requests wait for each other.

        Raises:
            Refusal: 400 when it cannot be used, 409 without a model.
        """
        with self._lock:
            predictor = self.predictor()
            try:
                case = predictor(Case("study", "study", (path,)))
            except InputError as error:
                reason = str(error).replace(str(path), "the study").replace(f"{path.parent}/", "")
                raise Refusal(400, f"image: {reason}") from error
            except MemoryError as error:
                raise Refusal(400, "image: the study is too large for this server.") from error
            return Served(case, float(predictor.scorer.pixel_threshold), self._fingerprint)

    def replace(self, candidate: Path) -> None:
        """Puts a complete and tried model file in the place of the served one.

        The file that it replaces stays beside it as ``model-previous.pt``.
        """
        if self.path.is_file():
            _copy(self.path, self.path.with_stem(f"{self.path.stem}-previous"))
        _copy(candidate, self.path)

    def _load(self, stamp: _Stamp) -> None:
        self._stamp = stamp
        try:
            content = self.path.read_bytes()
            predictor = Predictor(self.path, self.device, self.batch_size)
        except Exception as error:  # whatever a half-written or foreign file leads to
            kept = "the one in use stays" if self._predictor else "there is none to serve"
            logger.error("The model file cannot be loaded (%s); %s.", type(error).__name__, kept)
            return
        self._predictor = predictor
        self._fingerprint = hashlib.sha256(content).hexdigest()[:16]
        logger.info("Model %s loaded.", self._fingerprint)


def _stamp(path: Path) -> _Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _copy(source: Path, target: Path) -> None:
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
