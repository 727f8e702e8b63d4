"""DICOM series as studies: a folder each, which viewers get as one NIfTI file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lib.copies import as_nifti
from lib.images import IMAGE_SUFFIXES, LABEL_SUFFIXES, holds_dicom
from lib.records import Records

LABELS_FOLDER = "labels"


class SeriesFolders(Records):
    """Mixed into a datastore of MONAI Label, whose index knows single files alone."""

    def path(self, image_id: object) -> Path:
        """The file or DICOM folder of a study."""
        raise NotImplementedError

    def _list_files(self, path: str, patterns: Sequence[str]) -> dict[str, str]:
        found: dict[str, str] = super()._list_files(path, patterns)  # type: ignore[misc]
        found = {n: f for n, f in found.items() if os.path.isfile(os.path.join(path, f))}
        if os.path.realpath(path) == os.path.realpath(self._datastore.image_path()):
            for entry in os.scandir(path):
                if self._is_series(entry):
                    found[entry.name] = entry.name
        return found

    @staticmethod
    def _is_series(entry: os.DirEntry[str]) -> bool:
        if entry.name.startswith(".") or entry.name == LABELS_FOLDER:
            return False
        return entry.is_dir(follow_symlinks=False) and holds_dicom(Path(entry.path))

    def _to_id(self, file: str) -> tuple[str, str]:
        if os.path.isdir(os.path.join(self._datastore.image_path(), file)):
            return file, ""
        known = (*LABEL_SUFFIXES, *IMAGE_SUFFIXES)
        suffix = next((one for one in known if file.lower().endswith(one)), "")
        cut = len(file) - len(suffix)
        return file[:cut], file[cut:]

    def get_image_uri(self, image_id: str) -> str:
        """The path of one file that viewers load: the study, or a NIfTI copy of a DICOM folder."""
        path = self.path(image_id)
        return str(as_nifti(path) if path.is_dir() else path)
