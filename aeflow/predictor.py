"""A trained model in Python: from a file, a folder or an array to a score and a map."""

from __future__ import annotations

import base64
import html
import io
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from monai.data.meta_tensor import MetaTensor
from numpy.typing import NDArray
from PIL import Image

from pipelines.batch import case_rows
from pipelines.common import choose_device, write_csv
from pipelines.data import Case, find_inputs, reads_signals
from pipelines.outputs import Example, candidates, draw_traces, save_panels, write_maps
from pipelines.scoring import CaseScore, ScoredCase
from pipelines.scoring import Predictor as CasePredictor
from transforms.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Source = str | Path | NDArray[Any]

ARRAY = "array"
"""Name of a case that came as an array."""


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image or volume.

    Attributes:
        scored: all of it, slice by slice.
        pixel_threshold: the map value above which a pixel is suspicious.
    """

    scored: ScoredCase
    pixel_threshold: float

    @property
    def name(self) -> str:
        """Of the case, from its file."""
        return self.scored.sample.case.name

    @property
    def _whole(self) -> CaseScore:
        return self.scored.case_score

    @property
    def score(self) -> float:
        """In standard deviations above held-out normal images."""
        return self._whole.score

    @property
    def score_std(self) -> float | None:
        """Standard deviation of an ensemble's scores; None for a single model."""
        return self._whole.score_std

    @property
    def parts(self) -> Mapping[str, float]:
        """The parts of the score, likewise."""
        return self._whole.parts

    @property
    def percentile(self) -> float | None:
        """Rank among held-out normal images, in [0, 100]; None without any."""
        return self._whole.percentile

    @property
    def p_value(self) -> float | None:
        """Chance that a normal image scores so high, at most; None without held-out ones."""
        return self._whole.p_value

    @property
    def flagged(self) -> bool | None:
        """Whether the score exceeds the threshold; None without one."""
        return self._whole.flagged

    @property
    def threshold(self) -> float | None:
        """The score above which an image is flagged."""
        return self._whole.threshold

    @property
    def in_scope(self) -> bool | None:
        """Whether the image is of the kind that the model was made for; None if unknown."""
        return self._whole.in_scope

    @property
    def out_of_scope(self) -> str:
        """Why it is not; "" if it is."""
        return self._whole.out_of_scope

    @property
    def map(self) -> MetaTensor:
        """The anomaly map on the grid of the input, in standard deviations.

        ``(X, Y, Z)`` with the volume's affine, ``(H, W)`` for a picture, or ``(T,)`` for a signal,
        NaN in its gaps.
        """
        return self.scored.grid_map

    @cached_property
    def example(self) -> Example:
        """The slice with the highest score, as a panel shows it."""
        (found,) = candidates(self.scored)
        return found

    def show(self) -> Figure:
        """A figure of the most suspicious slice with its map, or of a signal with its trace."""
        import matplotlib.pyplot as plt

        one = self.example
        if one.of_signal:
            return draw_traces([one], self.pixel_threshold, self.verdict)
        figure, (left, right) = plt.subplots(1, 2, figsize=(7, 3.6), layout="constrained")
        left.imshow(one.image, cmap="gray", vmin=0, vmax=1)
        left.set_title(f"{self.name}, slice {one.index}" if one.index else self.name)
        shown = right.imshow(one.maps["anomaly_map"], cmap="magma", vmin=0, vmax=6)
        right.set_title(self.verdict)
        figure.colorbar(shown, ax=right, label="standard deviations")
        for axis in (left, right):
            axis.set_axis_off()
        return figure

    def save(self, folder: str | Path) -> list[Path]:
        """Writes map, mask, panel and the rows of ``scores.csv`` into a folder.

        Returns:
            The files.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        written = write_maps(folder, self.scored, self.pixel_threshold)
        written += save_panels(folder / f"{self.name}.png", [self.example], self.pixel_threshold)
        rows = [row.cells() for row in case_rows(self.scored)]
        scores = folder / f"{self.name}_scores.csv"
        write_csv(scores, rows, tuple(rows[0]))
        return [*written, scores]

    @property
    def verdict(self) -> str:
        """In a line: the score, the decision, and whether it is in scope."""
        told = f"score {self.score:.2f}"
        if self.score_std is not None:
            told += f" ± {self.score_std:.2f}"
        told += {True: ", flagged", False: ", not flagged", None: ", no threshold"}[self.flagged]
        return told + (", OUT OF SCOPE" if self.in_scope is False else "")

    def _repr_html_(self) -> str:
        """The figure and the scores, for notebooks."""
        import matplotlib.pyplot as plt

        figure, picture = self.show(), io.BytesIO()
        figure.savefig(picture, dpi=90)
        plt.close(figure)
        facts: dict[str, Any] = {"score": self.score, "percentile": self.percentile, **self.parts}
        rows = "".join(
            f"<tr><th>{html.escape(name)}</th><td>{value:.2f}</td></tr>"
            for name, value in facts.items()
            if value is not None
        )
        scope = (
            f"<p>Out of scope: {html.escape(self.out_of_scope)}</p>" if self.out_of_scope else ""
        )
        encoded = base64.b64encode(picture.getvalue()).decode()
        return (
            f"<div><p><b>{html.escape(self.name)}</b>: {html.escape(self.verdict)}</p>{scope}"
            f'<img alt="{html.escape(self.name)} and its anomaly map" '
            f'src="data:image/png;base64,{encoded}"><table>{rows}</table>'
            "<p>For research only; not for diagnosis.</p></div>"
        )

    def __repr__(self) -> str:
        return f"<Prediction {self.name}: {self.verdict}>"


class Predictor:
    """A trained model that scores images.

    Args:
        model: the model file, or the folder that holds ``model.pt``.
        device: where to compute; ``auto`` takes a GPU if there is one.

    Raises:
        InputError: when there is no usable model.

    Example:
        ``Predictor("models")("scan.nii.gz").score``
    """

    def __init__(self, model: str | Path = "models", device: str = "auto") -> None:
        self._predict = CasePredictor(model, choose_device(device))

    def __call__(
        self, source: Source | Sequence[Source], spacing: Sequence[float] | None = None
    ) -> Prediction | list[Prediction]:
        """Scores images, on the same path as ``aeflow predict``.

        Args:
            source: a file; a folder of one DICOM series; an array, ``(X, Y, Z)`` of a volume or
                ``(H, W)`` of a picture, with channels as the last axis, or ``(C, T)`` of a signal;
                a folder of images, or a list of these.
            spacing: of an array that is a volume, in mm; its axes run right, anterior, superior.

        Returns:
            A prediction; a list of them for a list, and for a folder unless it is one series.

        Raises:
            InputError: for what cannot be read or scored.
        """
        if not isinstance(source, str | Path | np.ndarray):
            return [found for one in source for found in self._found(one, spacing)]
        found = self._found(source, spacing)
        many = isinstance(source, str | Path) and Path(source).expanduser().is_dir()
        series = many and len(found) == 1 and found[0].scored.sample.case.images[0].is_dir()
        return found if many and not series else found[0]

    def _found(self, source: Source, spacing: Sequence[float] | None) -> list[Prediction]:
        if isinstance(source, str | Path):
            cases = find_inputs(self._predict.model, str(source)).cases
            return [self._one(case) for case in cases]
        with tempfile.TemporaryDirectory() as folder:
            path = self._written(np.asarray(source), spacing, Path(folder))
            return [self._one(Case(ARRAY, ARRAY, (path,)))]

    def _one(self, case: Case) -> Prediction:
        scored = self._predict(case)
        return Prediction(scored, float(self._predict.scorer.calibration.pixel_threshold))

    def _written(self, values: NDArray[Any], spacing: Sequence[float] | None, folder: Path) -> Path:
        """An array as a file, so that it is read as files are."""
        if reads_signals(self._predict.model):
            path = folder / f"{ARRAY}.npz"
            np.savez(path, signal=values, channels=self._predict.model["modalities"])
            return path
        if self._predict.model["volumetric"]:
            if values.ndim not in (3, 4) or spacing is None or len(spacing) != 3:
                raise InputError(
                    f"source: expected a volume (X, Y, Z) or (X, Y, Z, C) with spacing=(x, y, z) "
                    f"in mm, found the shape {values.shape} and spacing {spacing}."
                )
            path = folder / f"{ARRAY}.nii"
            affine = np.diag([*map(float, spacing), 1.0])
            nib.save(nib.Nifti1Image(values.astype(np.float32), affine), path)
            return path
        if values.dtype not in (np.uint8, np.uint16) or values.ndim not in (2, 3):
            raise InputError(
                f"source: expected a picture (H, W) or (H, W, 3) of uint8, or (H, W) of uint16, "
                f"found {values.dtype} of the shape {values.shape}. Convert it as the training "
                "images were, or give the file."
            )
        path = folder / f"{ARRAY}.png"
        Image.fromarray(values).save(path)
        return path
