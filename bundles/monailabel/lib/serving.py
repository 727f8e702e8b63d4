"""The served model: loaded once, replaced when its file was, used by one request at a time."""

from __future__ import annotations

import hashlib
import logging
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

from lib.guard import Refusal
from lib.images import require_readable, unreadable
from pipelines.common import replacing
from pipelines.data import Case, require_images
from pipelines.scoring import MODEL_NAME, VERY_SUSPICIOUS_PERCENTILE, Bands, Predictor, ScoredCase
from transforms.errors import InputError

logger = logging.getLogger("aeflow.label")

NO_MODEL = "model: there is no usable model file yet; train one, or see the guide."

_Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class Loaded:
    """A model that was read from its file.

    Attributes:
        predictor: scores files with it.
        bands: where its severity bands begin.
        fingerprint: the start of the SHA-256 of the model file.
    """

    predictor: Predictor
    bands: Bands
    fingerprint: str


class ServedModel:
    """A model file that may be replaced while it is served.

    Args:
        ckpt_dir: the folder of ``model.pt``.
        device: where to compute.
        batch_size: slices that go through the network at once.
        very_suspicious: percentile of held-out normal pixels at which the second band begins.

    Attributes:
        path: the model file.
    """

    def __init__(
        self,
        ckpt_dir: Path,
        device: str = "cpu",
        batch_size: int = 32,
        very_suspicious: float = VERY_SUSPICIOUS_PERCENTILE,
    ) -> None:
        self.path = ckpt_dir / MODEL_NAME
        self.device = device
        self.batch_size = batch_size
        self.very_suspicious = very_suspicious
        self._loading = threading.Lock()
        self._scoring = threading.Lock()  # another one, so that a long inference blocks no look-up
        self._stamp: _Stamp | None = None
        self._loaded: Loaded | None = None
        self._missing = NO_MODEL

    @property
    def available(self) -> bool:
        """Whether there is a model to serve."""
        return self._loaded is not None or self.path.is_file()

    def loaded(self) -> Loaded:
        """The model in use; a new file that cannot be loaded leaves the present one in use.

        Raises:
            Refusal: 409 when there is none.
        """
        with self._loading:
            stamp = _stamp(self.path)
            if stamp is not None and stamp != self._stamp:
                self._load(stamp)
            if self._loaded is None:
                raise Refusal(409, self._missing)
            return self._loaded

    def score(self, path: Path) -> tuple[ScoredCase, Loaded]:
        """Scores one file or DICOM folder, and tells by which model; requests wait for each other.

        Raises:
            Refusal: 400 when it cannot be used, 409 without a model.
        """
        require_readable(path)
        with self._scoring:
            model = self.loaded()
            try:
                return model.predictor(Case("study", "study", (path,))), model
            except InputError as error:
                raise unreadable(error, path) from error
            except MemoryError as error:
                raise Refusal(400, "image: the study is too large for this server.") from error

    def replace(self, candidate: Path) -> None:
        """Puts a complete and tried model file in the place of the served one.

        The file that it replaces stays beside it as ``model-previous.pt``.
        """
        if self.path.is_file():
            _copy(self.path, self.path.with_stem(f"{self.path.stem}-previous"))
        _copy(candidate, self.path)

    def _load(self, stamp: _Stamp) -> None:
        self._stamp, self._missing = stamp, NO_MODEL
        try:
            content = self.path.read_bytes()
            predictor = Predictor(self.path, self.device, self.batch_size)
            self._require_images(predictor)
            bands = Bands.of(predictor.scorer, self.very_suspicious)
        except Exception as error:  # whatever a half-written or foreign file leads to
            cause = error if isinstance(error, InputError) else type(error).__name__
            kept = "The one in use stays." if self._loaded else "There is none to serve."
            logger.error("The model file cannot be loaded. %s (%s)", kept, cause)
            return
        fingerprint = hashlib.sha256(content).hexdigest()[:16]
        self._loaded = Loaded(predictor, bands, fingerprint)
        logger.info("Model %s loaded.", fingerprint)

    def _require_images(self, predictor: Predictor) -> None:
        try:
            require_images(predictor.model, "model")
        except InputError as error:
            self._missing = str(error)
            raise


def _stamp(path: Path) -> _Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _copy(source: Path, target: Path) -> None:
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
