"""Layout ``normals``: a folder of normal images and nothing else, as a site collects them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pipelines.data.cases import Case, Cohort
from pipelines.data.layouts.base import Layout, Modalities, make_cohort, register
from pipelines.data.layouts.files import stem_of
from pipelines.data.layouts.folder import Image, are_volumes, patients_of
from pipelines.data.layouts.walk import left_out_notes, list_images


@register("normals")
@dataclass(frozen=True)
class NormalsLayout(Layout):
    """Normal pictures, volumes or DICOM series, in one folder or in one per patient.

    It is never recognised by itself: nothing in such a folder says that its images are normal.

    Attributes:
        patient_pattern: see `FolderLayout`, whose rules find the patients.
    """

    automatic: ClassVar[bool] = False
    expects = (
        "normal PNG, JPEG, TIFF, NIfTI or DICOM files and nothing else, also in one folder per "
        "patient; to be asked for by name"
    )
    patient_pattern: str | None = None

    def recognise(self, root: Path) -> str | None:
        """Take any folder."""
        return "it was asked for" if root.is_dir() else None

    def read(self, root: Path, modalities: Modalities) -> Cohort:
        """Read the images and their patients.

        Args:
            root: the folder.
            modalities: names of the channels of each file, by default ``("image",)``.

        Raises:
            InputError: if there are no images, or pictures are mixed with volumes.
        """
        listing = list_images(root)
        images = [Image(path, root, None, 0) for path in listing.images]
        patients = patients_of(images, self.patient_pattern)
        cases = [Case(stem_of(one.path), patients[one], (one.path,), label=0) for one in images]
        kind = bool(images) and are_volumes(images)
        return make_cohort(
            self.name, root, cases, modalities or ("image",), kind, left_out_notes([listing])
        )
