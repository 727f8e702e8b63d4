"""The app: what MONAI Label asks for studies, models and tasks, and what the gate asks of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests
from monailabel.interfaces.app import MONAILabelApp
from monailabel.utils.sessions import Sessions

from lib import guard, workplace
from lib.batch import LabelAll
from lib.datastore import Studies
from lib.dicomweb import DicomWebStudies, open_store
from lib.guard import Refusal
from lib.images import is_empty_label
from lib.infer import AnomalyInfer
from lib.options import read_options
from lib.records import NORMAL
from lib.scoring import AnomalyScoring
from lib.serving import ServedModel
from lib.sessions import PrivateSessions
from lib.strategy import Ranked, strategies
from lib.train import CALIBRATE, NormalTraining, checked_params

logger = logging.getLogger("aeflow.label")

SCORING = "anomaly_score"
_BATCH = (
    *("client_id", "device", "images", "save_label", "label_tag", "max_batch_size"),
    *("result_extension", "result_dtype", "result_compress", "multi_gpu", "max_workers"),
)


class LabelApp(MONAILabelApp):  # type: ignore[misc]
    """Serves, retrains and ranks with one trained bundle.

    Args:
        app_dir: this folder.
        studies: folder of the studies, or URL of a DICOMweb store.
        conf: names and values of ``--conf``; see `lib.options.Options`.
    """

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str]) -> None:
        self.options = read_options(Path(app_dir), conf)
        self.workplace = workplace.prepare()
        options = self.options
        self.model = ServedModel(
            options.ckpt_dir, options.device, options.batch_size, options.very_suspicious
        )
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=dict(conf),
            name="AE-Flow",
            description="Finds what is unlike normal scans. For research only.",
            version="0.1.0",
        )
        if options.auto_score is False or (options.auto_score is None and self.has_store):
            self._auto_update_scoring = False

    def init_datastore(self) -> Studies | DicomWebStudies:
        """The folder or the store of the studies."""
        if self.studies.startswith(("http://", "https://")):
            return open_store(self.studies.rstrip("/"))
        return Studies(self.studies)

    def init_infers(self) -> dict[str, AnomalyInfer]:
        """Inference per model."""
        return {name: AnomalyInfer(self.model) for name in self.options.models}

    def init_trainers(self) -> dict[str, NormalTraining]:
        """Training per model."""
        return {name: NormalTraining(self.model, self.options) for name in self.options.models}

    def init_strategies(self) -> dict[str, Ranked]:
        """What to look at next."""
        return strategies()

    def init_scoring_methods(self) -> dict[str, AnomalyScoring]:
        """The anomaly score per study."""
        return {SCORING: AnomalyScoring(self._infers[self.options.models[0]])}

    def init_batch_infer(self) -> LabelAll:
        """Label maps of many studies."""
        return LabelAll()

    def _load_sessions(self, load: bool = False) -> Sessions | None:
        return PrivateSessions(str(self.workplace / "sessions"), 3600) if load else None

    @property
    def has_store(self) -> bool:
        """Whether the studies are in a DICOMweb store."""
        return isinstance(self.datastore(), DicomWebStudies)

    def bundle_path(self, model: str) -> str:
        """MONAI Label adds this folder, or else one that the request names, to PYTHONPATH."""
        return str(self.app_dir)

    def model_file(self, model: str, validate: bool = True) -> str | None:
        """The file of a served model."""
        return self.infer_task(model).get_path(validate)

    def infer_task(self, model: object) -> AnomalyInfer:
        """The inference of a model.

        Raises:
            Refusal: 404 for an unknown model, 409 for one without a file.
        """
        task: AnomalyInfer = self._infers[guard.choice("model", model, self._infers, 404)]
        if not task.is_valid():
            raise Refusal(409, f"model: {model} has no model file yet; train one first.")
        return task

    def source(self, image: str, session: str) -> Path:
        """The file or DICOM folder of a study or of a session.

        Raises:
            Refusal: 404 when there is none.
        """
        if not session:
            return Path(self.datastore().path(image))
        guard.session_id(session)
        found = self.sessions().get_session(session) if self.sessions() is not None else None
        if found is None:
            raise Refusal(404, "session_id: unknown or expired; upload the image again.")
        return guard.inside(found.image, self.workplace)

    def infer(self, request: Mapping[str, Any], datastore: Any = None) -> dict[str, Any]:
        """Inference of a study by its id, as batches use it.

        Returns:
            ``label``, ``tag``, ``file`` and ``params`` as MONAI Label has them.
        """
        task = self.infer_task(request.get("model"))
        image_id = request.get("image")
        path = self.datastore().path(image_id)
        file, words = task({**request, "image": str(path)})
        label = file
        label_tag = guard.tag(request.get("label_tag") or "original")
        if request.get("save_label") and words["result"] == "labels":
            info = {"model": request["model"], "params": words}
            label = self.datastore().save_label(image_id, file, label_tag, info)
        return {"label": label, "tag": label_tag, "file": file, "params": words}

    def next_sample(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The study to look at next, with its path; scores what has no score yet."""
        task = self._strategies[self.check_strategy("random", request)]
        chosen: dict[str, Any] = task(request, self.datastore())
        if self._auto_update_scoring:
            self.async_scoring(None)
        if chosen:
            chosen["path"] = self.datastore().get_image_uri(chosen["id"])
        return chosen

    def async_scoring(self, method: str | None, params: Any = None) -> Any:
        """Scores in the background, when there is a model and something it has not scored."""
        try:
            waiting = self._scoring_methods[SCORING].waiting(self.datastore())
        except Refusal:
            return {}
        except requests.RequestException as error:
            logger.error("The DICOMweb store cannot be asked (%s).", type(error).__name__)
            return {}
        return super().async_scoring(method, params) if waiting and self._server_mode else {}

    def check_model(self, name: str, body: Mapping[str, Any]) -> None:
        """Refuses what `infer_task` refuses."""
        self.infer_task(name)

    def check_store(self, name: str, body: Mapping[str, Any]) -> None:
        """Refuses with 404 without a DICOMweb store."""
        if not self.has_store:
            raise Refusal(404, "proxy: this server has no DICOMweb store.")

    def check_strategy(self, name: str, body: Mapping[str, Any]) -> str:
        """The strategy that a request's body names, or else its path; 404 for an unknown one."""
        return guard.choice("strategy", body.get("strategy", name), self._strategies, 404)

    def check_scoring(self, name: str, body: dict[str, Any]) -> None:
        """Refuses an unknown scoring with 404, options with 400, and with 409 without a model."""
        if name:
            guard.choice("scoring", name, self._scoring_methods, 404)
        guard.only_keys("scoring", body, ("client_id",))
        self.infer_task(self.options.models[0])

    def check_batch(self, name: str, body: dict[str, Any]) -> None:
        """Refuses an unknown model with 404, and options that are not ours with 400."""
        self.infer_task(name)
        guard.only_keys("batch", body, _BATCH)
        if "images" in body:
            images = body["images"]
            if isinstance(images, str):
                guard.choice("images", images, ("all", "labeled", "unlabeled"))
            else:
                for one in images if isinstance(images, list) else [images]:
                    self.datastore().require(one)
        guard.tag(body.get("label_tag") or "original")

    def check_training(self, name: str, body: dict[str, Any]) -> None:
        """Refuses unknown models with 404, options with 400, and with 409 what cannot be done."""
        asked = {name: body} if name else guard.only_keys("train", body, self._trainers)
        checked = {}
        for one, params in asked.items():
            guard.choice("model", one, self._trainers, 404)
            checked[one] = checked_params(params)
        trainer = name or self.options.models[0]
        calibrate = bool(checked.get(trainer, {}).get(CALIBRATE))
        self._trainers[trainer].normals(self.datastore(), calibrate)

    def on_label(self, image_id: str, label: Path, label_tag: str) -> None:
        """A final label that marks nothing says that the study is normal; any other, that not."""
        empty = is_empty_label(label)
        if label_tag == "final" and empty is not None:
            self.datastore().record(image_id, {NORMAL: empty})
