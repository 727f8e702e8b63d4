"""Where synthetic anomalies may lie, and what else the anatomy decides (``auto``)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Tensor

from pipelines.common import track
from pipelines.data.cases import Case
from pipelines.data.layouts.files import shortened, stem_of
from pipelines.data.layouts.walk import find_images
from transforms.errors import InputError
from transforms.regions import lung_masks

logger = logging.getLogger(__name__)

REGION_OF = {"chest": "lungs"}
"""The region of an anatomy, see `pipelines.data.find_anatomy`; the body of all others."""

CONTRAST_OF = {"chest": "local"}
"""How the contrast of an anatomy's images is normalised; ``none`` for all others."""

FEW = 100
"""Images up to which starting processes takes longer than searching them."""


class Regions:
    """Where synthetic anomalies may lie in normal images; ``--region``.

    Args:
        region: ``body``; ``lungs``, which are found in chest radiographs; a folder of masks that
            are called like the images; or ``auto``: masks in the column ``region`` of layout
            ``list``, else what the anatomy suggests.
        anatomy: what the images show; None if unknown.

    Attributes:
        kind: ``body``, ``lungs`` or ``folder``.

    Raises:
        InputError: for a region that is neither known nor a folder.
    """

    def __init__(self, region: str = "auto", anatomy: str | None = None) -> None:
        self.listed = region == "auto"
        self.kind = REGION_OF.get(anatomy or "", "body") if self.listed else region
        self.folder: Path | None = None
        if self.kind not in ("body", "lungs"):
            self.kind, self.folder = "folder", Path(region).expanduser()
            if not self.folder.is_dir():
                raise InputError(
                    f"region: expected auto, body, lungs or a folder of masks, found {region!r}. "
                    "Check the spelling or the path."
                )

    def assigned(self, cases: Sequence[Case]) -> tuple[Case, ...]:
        """The cases, each with the file of its mask where masks of the user's are wanted.

        Raises:
            InputError: naming cases without a mask.
        """
        if self.folder is not None:
            files = {stem_of(path): path for path in find_images(self.folder)}
            found = [
                replace(case, region=files.get(case.name) or files.get(stem_of(case.images[0])))
                for case in cases
            ]
        elif self.listed:
            found = list(cases)
        else:
            found = [replace(case, region=None) for case in cases]
        lacking = [case.name for case in found if case.region is None]
        if lacking and (self.folder is not None or len(lacking) < len(found)):
            raise InputError(
                f"region: {len(lacking)} of {len(found)} normal cases have no mask: "
                f"{shortened(lacking)}. Give every case one, called like its image, or take "
                "--region body."
            )
        return tuple(found)

    def masks(self, images: Tensor, context: Mapping[str, Tensor]) -> Tensor:
        """Where anomalies may lie in images ``(N, C, H, W)``: bool ``(N, 1, H, W)``.

        Raises:
            InputError: if there are no lungs where lungs are wanted.
        """
        if "region" in context:
            return context["region"]
        if self.kind != "lungs":
            return context["body"]
        shown = partial(track, description="Finding lungs", total=len(images), unit="images")
        found = lung_masks(images, 1 if len(images) <= FEW else -1, shown)
        logger.info(
            "Lungs found in %d of %d normal images; in the others their common shape stands in.",
            int(found.own.sum()),
            len(images),
        )
        return found.masks[:, None]


def choose_contrast(contrast: str = "auto", anatomy: str | None = None) -> str:
    """How the contrast is normalised, ``none`` or ``local``.

    Args:
        contrast: ``auto`` decides by the anatomy.
        anatomy: what the images show; None if unknown.
    """
    return CONTRAST_OF.get(anatomy or "", "none") if contrast == "auto" else contrast
