"""What the page calls things: of pictures, of volumes and their slices, of signals and windows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pipelines.metrics import ScoreRow


@dataclass(frozen=True)
class Words:
    """The words for one kind of data.

    Attributes:
        image: what is judged, of any kind.
        an_image: the same with its article.
        part: what a row of the scores is of.
        whole: what consists of such parts.
        pixel: a point of it.
        px: the unit of sizes in it.
        size: of a synthetic anomaly.
        map: where each point is scored.
        lesion: what is to be found.
        masks: what tells where it is.
        trivial: the trivial scores that stand beside ours on top and in the ROC, best known first.
        matched: what pairs are matched by; "" if they are not.
    """

    image: str
    an_image: str
    part: str
    whole: str
    pixel: str
    px: str
    size: str
    map: str
    lesion: str
    masks: str
    trivial: tuple[str, ...]
    matched: str

    @property
    def of_signals(self) -> bool:
        """Whether they are those of signals."""
        return self.whole == "signal"

    def of_points(self, name: str) -> str:
        """The name of a figure over the points of a map."""
        return name.replace("pixel", self.pixel)

    def preferred(self, baselines: Collection[str]) -> str | None:
        """The trivial score to be shown beside ours, among those that there are."""
        return next((name for name in self.trivial if name in baselines), None)


PICTURES = Words(
    "image", "an image", "image", "image", "pixel", "px", "diameter",
    "map", "lesion", "lesion masks", ("sharpness",), "sharpness",
)  # fmt: skip
VOLUMES = Words(
    "image", "an image", "slice", "volume", "pixel", "px", "diameter",
    "map", "lesion", "lesion masks", ("intensity",), "level of the slice",
)  # fmt: skip
SIGNALS = Words(
    "window", "a window", "window", "signal", "sample", "samples", "length",
    "trace", "event", "marked samples", ("seasonal_difference", "moving_median"), "",
)  # fmt: skip


def words_for(rows: Sequence[ScoreRow], volumetric: bool = True) -> Words:
    """The words that suit scores, see `ReportContent`."""
    if any(row.level == "window" for row in rows):
        return SIGNALS
    return VOLUMES if volumetric else PICTURES
