"""The scorer in MLflow's model registry: packaged without pickles, loadable with its dependencies.

A registered model takes images as the network sees them, the form that a REST server needs:

    model = mlflow.pyfunc.load_model("models:/name/1")
    model.predict(images)  # float32 (N, C, H, W) in [0, 1]; windows (N, C, L) of signals
    model.predict(images, params={"maps": True})  # with a column "anomaly_map"

and, where the files are at hand, the files themselves, read and scaled as in training. MLflow's
signatures cannot express both, so that the second form goes past the signature:

    model.unwrap_python_model().predict(pandas.DataFrame({"path": ["a.png", "b.nii.gz"]}))
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.common import choose_device, installed_version, writable_folder
from pipelines.data import Case, reads_signals
from pipelines.export.package import code_folders
from pipelines.scoring import (
    MODEL_NAME,
    Predictor,
    load_scorer,
    read_model,
    score_columns,
)
from pipelines.tracking import UNTRACKED, Tracker, describe, masked, mistake_of
from transforms.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

REQUIREMENTS = (
    "torch",
    "monai",
    "numpy",
    "pytorch-ignite",
    "mlflow",
    "nibabel",
    "pydicom",
    "SimpleITK",
    "pillow",
    "isal",
    "threadpoolctl",
    "scipy",
    "matplotlib",
    "tqdm",
    "pandas",
    "lazy_loader",
    "pynrrd",
    "pyjpegls",
)
"""What scoring needs; pinned as installed, and left out where it is not."""

SIGNAL_READERS = ("edfio", "wfdb")
"""What it needs of signals too."""

KEPT_BACK = ("split", "notes")
"""What a model file says of the cases it was trained on; a model that is handed on does not."""

BATCH_SIZE = 32

MAPS = "maps"
"""Parameter of a prediction: whether maps are wanted."""


def check_registry(tracker: Tracker, name: str | None) -> None:
    """Refuses a registration that cannot succeed; called before the training.

    Args:
        tracker: the run to be, started or not.
        name: of the registered model; None or empty registers nothing.

    Raises:
        InputError: for a bad name, without tracking, or where the store keeps no models.
    """
    if not name:
        return
    if not isinstance(name, str) or not name.strip() or any(sign in name for sign in "/:"):
        raise InputError(
            f"register_model: expected a name without '/' and ':', e.g. aeflow; found {name!r}."
        )
    if tracker.uri is None:
        raise InputError(
            "register_model: models are registered where runs are tracked, but tracking is off. "
            "Leave out --tracking_uri none, or --register_model."
        )
    try:
        tracker.link.check_registry()
    except Exception as error:  # of any store; one that is away gets the model later
        mistake = mistake_of(error, tracker.uri)
        if mistake is None:
            return
        if not tracker.link.connected:
            raise mistake from error
        raise InputError(
            f"register_model: no models can be registered at {masked(tracker.uri)} "
            f"({describe(error)}). Track to a database or to an MLflow server that keeps models, "
            f"or leave out --register_model."
        ) from error


def register_scorer(tracker: Tracker, name: str, model_path: Path) -> None:
    """Registers a calibrated scorer as the next version of a model.

    A server that is away gets it later, like everything that is tracked.

    Args:
        tracker: the run that trained the scorer, still open.
        name: of the registered model.
        model_path: the model file.

    Raises:
        InputError: when the run is not tracked or there is no such model file.
    """
    if not tracker.active:
        raise InputError("register_model: expected an open run; tracking is off or has ended.")
    folder = writable_folder(tracker.output_dir / UNTRACKED) / f"{tracker.run_name}-model"
    shutil.rmtree(folder, ignore_errors=True)
    package_scorer(model_path, folder)
    tracker.register_model(name, folder)


def package_scorer(model_path: Path, folder: Path) -> None:
    """Writes a scorer as an MLflow model: weights, source code, pinned requirements, signature.

    Args:
        model_path: the model file.
        folder: where to; must not exist.
    """
    import mlflow.pyfunc

    content = read_model(model_path)
    example = synthetic_example(content)
    with tempfile.TemporaryDirectory() as temporary:
        weights = Path(temporary) / MODEL_NAME
        torch.save({key: v for key, v in content.items() if key not in KEPT_BACK}, weights)
        mlflow.pyfunc.save_model(
            path=str(folder),
            loader_module=__name__,
            data_path=str(weights),
            code_paths=[str(path) for path in code_folders()],
            pip_requirements=pinned_requirements(SIGNAL_READERS if reads_signals(content) else ()),
            signature=_signature(example, score_columns(load_scorer(content))),
            input_example=example,
        )


def synthetic_example(content: dict[str, Any]) -> NDArray[np.float32]:
    """An ellipse within an ellipse, of no patient: ``(1, C, H, W)`` in [0, 1].

    Of signals it is a step within a step, ``(1, C, L)``.

    Args:
        content: of the model file; says how large the network's input is.
    """
    sides = (np.linspace(-1.0, 1.0, side) for side in _input_size(content))
    radius = np.sum(np.square(np.meshgrid(*sides, indexing="ij")), axis=0)
    image = np.where(radius < 0.7, 0.5, 0.0) + np.where(radius < 0.2, 0.25, 0.0)
    channels = int(content["config"]["in_channels"])
    return np.repeat(image[None, None], channels, axis=1).astype(np.float32)


def pinned_requirements(further: Sequence[str] = ()) -> list[str]:
    """`REQUIREMENTS` and `further` with the versions installed here, no labels such as ``+cpu``."""
    versions = {package: installed_version(package) for package in (*REQUIREMENTS, *further)}
    return [f"{name}=={found.partition('+')[0]}" for name, found in versions.items() if found]


def _input_size(content: Mapping[str, Any]) -> tuple[int, ...]:
    """(H, W) of the images that a registered model takes, (L,) of windows."""
    own = content["preprocessing"]
    return (own["window"],) if reads_signals(content) else tuple(own["image_size"])


class ServedScorer:
    """A registered scorer, as `mlflow.pyfunc.load_model` gives it.

    Args:
        path: the model file.
    """

    def __init__(self, path: str | Path) -> None:
        self.predictor = Predictor(path, choose_device(), BATCH_SIZE)
        self.columns = (*score_columns(self.predictor.scorer), "flagged")

    @property
    def python_model(self) -> ServedScorer:
        """Itself, for MLflow's ``unwrap_python_model``."""
        return self

    def predict(
        self, model_input: NDArray[Any] | pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Scores images or files.

        Args:
            model_input: images ``(N, C, H, W)``, or windows of signals ``(N, C, L)``, in [0, 1]
                as the network sees them; or a table with a column ``path`` that holds a file, a
                folder of one DICOM series, or a list of files, one per modality.
            params: ``maps``, whether images are to come back with their map.

        Returns:
            A row per image, or per file (a volume or signal is judged as a whole): ``score`` and
            its parts in standard deviations, ``percentile`` in [0, 100], ``flagged``; for files
            also ``path``; ``anomaly_map`` as lists of H rows of W standard deviations, or of L,
            where it is asked for.

        Raises:
            InputError: for images of another shape or range, or files that cannot be used.
        """
        import pandas as pd

        if not isinstance(model_input, pd.DataFrame):
            maps = bool((params or {}).get(MAPS))
            return pd.DataFrame(self._score_images(np.asarray(model_input), maps))
        if "path" not in model_input.columns:
            raise InputError(
                f"model_input: expected a column 'path', found {list(model_input.columns)}."
            )
        return pd.DataFrame([self._score_file(path) for path in model_input["path"]])

    def _score_file(self, path: str | Path | Sequence[str | Path]) -> dict[str, Any]:
        paths = [path] if isinstance(path, (str, Path)) else list(path)
        case = Case("image", "image", tuple(Path(one) for one in paths))
        judged = self.predictor(case).case_score.as_dict()
        return {"path": path} | {name: judged[name] for name in self.columns}

    def _score_images(self, images: NDArray[Any], maps: bool) -> dict[str, Any]:
        tensor = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))
        self._check(tensor)
        with torch.no_grad():
            scored = self.predictor.inferer(
                tensor, self.predictor.scorer, device=self.predictor.device
            )
        found: dict[str, Any] = {name: scored[name].numpy() for name in self.columns}
        return found | ({"anomaly_map": scored["anomaly_map"].tolist()} if maps else {})

    def _check(self, images: torch.Tensor) -> None:
        model, needs = self.predictor.model, self.predictor.scorer.detector.needs
        kind = "windows" if reads_signals(model) else "images"
        if needs:
            raise InputError(
                f"model_input: this model needs {', '.join(needs)} beside the {kind}; give files, "
                "in a column 'path'."
            )
        channels = model["config"]["in_channels"]
        wanted = (channels, *_input_size(model))
        if tuple(images.shape[1:]) != wanted or not len(images):
            raise InputError(
                f"model_input: expected {kind} of the shape (N, {', '.join(map(str, wanted))}), "
                f"found {tuple(images.shape)}. Bring them to it, or give files: see this module."
            )
        # Not finite fails the comparison too.
        if not bool(((images >= 0) & (images <= 1)).all()):
            raise InputError(
                f"model_input: expected values in [0, 1], found {float(images.min()):g} to "
                f"{float(images.max()):g}. Scale the images as in training, or give files."
            )


def _load_pyfunc(path: str) -> ServedScorer:
    """Called by MLflow with the packaged model file."""
    return ServedScorer(path)


def _signature(example: NDArray[np.float32], scores: Sequence[str]) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
    from mlflow.types.schema import Array

    columns = [ColSpec(DataType.double, name) for name in scores]
    values: Any = DataType.double
    for _ in example.shape[2:]:
        values = Array(values)
    map_column = ColSpec(values, "anomaly_map", required=False)
    return ModelSignature(
        inputs=Schema([TensorSpec(example.dtype, (-1, *example.shape[1:]), name=None)]),
        outputs=Schema([*columns, ColSpec(DataType.boolean, "flagged"), map_column]),
        params=ParamSchema([ParamSpec(MAPS, DataType.boolean, False)]),
    )
