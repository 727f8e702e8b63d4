"""The search for the lungs of chest radiographs; without PyTorch, so that processes start fast.

They are found without labels. Brightness is normalised locally and cut at many thresholds; of the
dark regions that remain, the pair is taken that looks most like two lungs. The pairs found with
confidence make an atlas of the user's own normals, which stands in where none was found.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull

from transforms.errors import InputError

GRID = 112
"""Side of the square grid on which lungs are looked for; all lengths below are shares of it."""

_THRESHOLDS = np.linspace(-1.1, 0.3, 15)  # of the local z
_AREA = (0.02, 0.2)
_HEIGHT = (0.3, 0.8)
_WIDTH = (0.08, 0.45)
_TALLER = 0.95  # least height over width
_SOLIDITY = 0.62  # least area over that of the convex hull: the left lung bends around the heart
_EDGE = 0.12  # least mean slope of z across the outline, per pixel of the grid
_DISTANCE = (0.2, 0.6)  # between the centres of both lungs, sideways
_CENTRE = ((0.25, 0.75), (0.18, 0.55))  # of the lung at the left; the other one mirrored
_TILT = 0.15  # between the centres, up and down
_OVERLAP = 0.6  # least common extent up and down, over the whole one
_BALANCE = 0.3  # least area of the smaller lung over that of the larger one
_CROSSING = 0.04  # how far one may reach over the other, sideways

_ATLAS = 64
_AGREEMENT = 0.7  # least Dice score against the atlas for a mask to be kept
_CONFIDENT_SHARE = 0.25  # least share of the images with a mask of their own

_Floats = NDArray[np.float64]
_Mask = NDArray[np.bool_]


class _Lung(NamedTuple):
    """A region that may be a lung: lengths as shares of the grid."""

    mask: _Mask
    area: float
    centre: tuple[float, float]
    top: float
    bottom: float
    left: float
    right: float
    solidity: float
    edge: float


def find_lungs(
    images: _Floats,
    processes: int = 1,
    shown: Callable[[Iterable[_Floats]], Iterable[_Floats]] = iter,
) -> tuple[_Mask, _Mask]:
    """Finds the lungs in all of many frontal chest radiographs.

    Where no two regions have the size, shape and position of lungs, or these are of an unusual
    shape, the atlas of the others is fitted to the image and decides together with its brightness.

    Args:
        images: (N, GRID, GRID) in [0, 1], air dark, of a kind: the atlas is made from them.
        processes: how many search at the same time; -1 takes one per processor.
        shown: goes through the images to be searched, and may show how far it is.

    Returns:
        The masks (N, GRID, GRID), and which were found in the image alone (N,).

    Raises:
        InputError: if lungs are found in fewer than a quarter of the images.
    """
    run = Parallel(n_jobs=processes)
    searched = run(delayed(_search)(plane) for plane in shown(images))
    planes = [z for z, _ in searched]
    found = {index: mask for index, (_, mask) in enumerate(searched) if mask is not None}
    if len(found) < _CONFIDENT_SHARE * len(images):
        raise InputError(
            f"region: expected frontal chest radiographs with dark lungs, found lungs in "
            f"{len(found)} of {len(images)} images. Take --region body."
        )
    shapes = {index: _cut_out(mask) for index, mask in found.items()}
    mean = np.mean(list(shapes.values()), axis=0)
    usual = [i for i, shape in shapes.items() if _dice(shape > 0.5, mean > 0.5) >= _AGREEMENT]
    atlas = np.mean([shapes[index] for index in usual], axis=0)
    boxes = np.array([_box(found[index]) for index in usual])
    own = np.isin(np.arange(len(images)), usual)
    others = np.flatnonzero(~own)
    fitted = run(delayed(_fit_atlas)(planes[index], atlas, boxes) for index in others)
    masks = found | dict(zip(others.tolist(), fitted, strict=True))
    return np.stack([masks[index] for index in range(len(images))]), own


def _search(image: _Floats) -> tuple[_Floats, _Mask | None]:
    """An image's local z, and its lungs if it shows them by itself."""
    z = _local_z(image)
    return z, _best_pair(z)


def _local_z(image: _Floats) -> _Floats:
    """Brightness against its surroundings inside the body, smoothed over ribs; outside infinite."""
    blurred = ndimage.gaussian_filter(image, 1.0)
    body = ndimage.binary_opening(blurred > 0.15 * np.percentile(blurred, 95), _disk(2))
    body = ndimage.binary_fill_holes(_largest(body, 1))

    def local_mean(values: _Floats, sigma: float) -> _Floats:
        weights = ndimage.gaussian_filter(body.astype(np.float64), sigma, mode="constant")
        sums = ndimage.gaussian_filter(values * body, sigma, mode="constant")
        return np.asarray(sums / (weights + 1e-6))

    mean = local_mean(image, 16.0)
    variance = np.maximum(local_mean(image**2, 16.0) - mean**2, 0.0)
    z = local_mean((image - mean) / np.sqrt(variance + 1e-3), 2.2)
    return np.where(ndimage.binary_erosion(body, _disk(2)), z, np.inf)


def _best_pair(z: _Floats) -> _Mask | None:
    """The pair of dark regions that looks most like two lungs, if any does."""
    steep = ndimage.gaussian_gradient_magnitude(np.where(np.isinf(z), 0.0, z), 1.0)
    lungs = [lung for threshold in _THRESHOLDS for lung in _candidates(z < threshold, steep)]
    pairs = [
        (_quality(one, other), one.mask | other.mask)
        for one in lungs
        for other in lungs
        if _are_pair(one, other)
    ]
    return max(pairs, key=lambda pair: pair[0])[1] if pairs else None


def _candidates(dark: _Mask, steep: _Floats) -> Iterator[_Lung]:
    """The dark regions that have the size and shape of a lung and lie clear of the border."""
    labels, _ = ndimage.label(ndimage.binary_opening(dark, _disk(2)))
    sizes = np.bincount(labels.ravel())
    for index, place in enumerate(ndimage.find_objects(labels), start=1):
        (top, bottom), (left, right) = ((part.start, part.stop) for part in place)
        height, width = (bottom - top) / GRID, (right - left) / GRID
        if not (
            _within(sizes[index] / GRID**2, _AREA)
            and _within(height, _HEIGHT)
            and _within(width, _WIDTH)
            and height > _TALLER * width
            and min(top, left) >= 2
            and max(bottom, right) <= GRID - 2
        ):
            continue
        region = _smooth(labels[place] == index)
        solidity = region.sum() / _hull_area(region)
        if solidity < _SOLIDITY:
            continue
        mask = np.zeros_like(dark)
        mask[place] = region
        wider = (slice(top - 1, bottom + 1), slice(left - 1, right + 1))
        outline = ndimage.binary_dilation(mask[wider]) & ~mask[wider]
        edge = float(steep[wider][outline].mean())
        if edge < _EDGE:
            continue
        y, x = (float(values.mean()) / GRID for values in np.nonzero(mask))
        sides = (top / GRID, bottom / GRID, left / GRID, right / GRID)
        yield _Lung(mask, float(mask.mean()), (y, x), *sides, solidity, edge)


def _are_pair(one: _Lung, other: _Lung) -> bool:
    """Whether these lie as the lungs at the left and at the right of an image do."""
    return (
        _within(other.centre[1] - one.centre[1], _DISTANCE)
        and _within(one.centre[0], _CENTRE[0])
        and _within(other.centre[0], _CENTRE[0])
        and _within(one.centre[1], _CENTRE[1])
        and _within(1 - other.centre[1], _CENTRE[1])
        and abs(one.centre[0] - other.centre[0]) < _TILT
        and _overlap(one, other) > _OVERLAP
        and _balance(one, other) > _BALANCE
        and one.right - other.left < _CROSSING
    )


def _quality(one: _Lung, other: _Lung) -> float:
    """How much a pair looks like lungs: rounded, with clear edges, large and alike."""
    return (
        one.solidity
        + other.solidity
        + 4.0 * (one.edge + other.edge)
        + 1.0 * (one.area + other.area)
        + 0.5 * _overlap(one, other)
        + 0.3 * _balance(one, other)
    )


def _overlap(one: _Lung, other: _Lung) -> float:
    common = min(one.bottom, other.bottom) - max(one.top, other.top)
    return common / (max(one.bottom, other.bottom) - min(one.top, other.top))


def _balance(one: _Lung, other: _Lung) -> float:
    return min(one.area, other.area) / max(one.area, other.area)


def _fit_atlas(z: _Floats, atlas: _Floats, boxes: NDArray[np.int_]) -> _Mask:
    """Lungs by the atlas, put where it matches best, and by brightness.

    Args:
        z: (side, side), see ``_local_z``.
        atlas: share of lungs at each place of their common box, in [0, 1].
        boxes: (K, 4), top, left, height and width of the lungs that the atlas was made from.

    Returns:
        (side, side).
    """
    dark = -np.clip(np.where(np.isinf(z), 0.0, z), -2.0, 2.0)
    lowest, highest = boxes[:, :2].min(axis=0), boxes[:, :2].max(axis=0)
    heights, widths = np.quantile(boxes[:, 2:], (0.1, 0.3, 0.5, 0.7, 0.9), axis=0).round().T
    spectrum = np.fft.rfft2(dark)
    best, prior, level = -np.inf, np.zeros_like(z), 0.0
    for height, width in itertools.product(heights.astype(int), widths.astype(int)):
        template = _resize(atlas, (height, width))
        centred = template - template.mean()
        product = spectrum * np.fft.rfft2(centred, dark.shape).conj()
        match = np.fft.irfft2(product, dark.shape)[: GRID - height + 1, : GRID - width + 1]
        match = match[lowest[0] : highest[0] + 1, lowest[1] : highest[1] + 1]
        match /= np.linalg.norm(centred)
        if match.size and match.max() > best:
            best = match.max()
            top, left = lowest + np.unravel_index(match.argmax(), match.shape)
            place = (slice(top, top + height), slice(left, left + width))
            prior = np.zeros_like(z)
            prior[place] = template
            lungs = template > 0.5
            level = (dark[place][lungs].mean() + dark[place][~lungs].mean()) / 2
    odds = np.log((prior + 0.02) / (1.02 - prior)) + 5.0 * (dark - level)
    return _smooth(_largest(ndimage.binary_opening(odds > 0, _disk(2)), 2))


def _box(mask: _Mask) -> tuple[int, int, int, int]:
    """Top, left, height and width of what is True."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return rows[0], columns[0], rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1


def _cut_out(mask: _Mask) -> _Floats:
    """The lungs alone, on the grid of the atlas."""
    top, left, height, width = _box(mask)
    cut = mask[top : top + height, left : left + width]
    return _resize(cut.astype(np.float64), (_ATLAS, _ATLAS))


def _resize(values: _Floats, size: tuple[int, int]) -> _Floats:
    factors = np.divide(size, values.shape)
    return np.asarray(ndimage.zoom(values, factors, order=1, mode="nearest", grid_mode=True))


def _dice(one: _Mask, other: _Mask) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def _largest(mask: _Mask, count: int) -> _Mask:
    """The largest regions of a mask."""
    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.isin(labels, np.argsort(sizes)[-count:]) & mask


def _smooth(mask: _Mask) -> _Mask:
    """Without the notches that ribs leave, and without holes."""
    padded = np.pad(mask, 4)
    closed = ndimage.binary_closing(padded, _disk(3))[4:-4, 4:-4]
    return np.asarray(ndimage.binary_fill_holes(closed))


def _hull_area(mask: _Mask) -> float:
    """Area of the convex hull, in pixels."""
    rows = np.flatnonzero(mask.any(axis=1))
    left, right = mask[rows].argmax(axis=1), mask.shape[1] - mask[rows, ::-1].argmax(axis=1)
    corners = [(row + down, x) for down in (0, 1) for x in (left, right) for row in (rows,)]
    points = np.concatenate([np.stack(corner, axis=1) for corner in corners])
    return float(ConvexHull(points).volume)


def _disk(radius: int) -> _Mask:
    squares = np.arange(-radius, radius + 1) ** 2
    return np.add.outer(squares, squares) <= radius**2


def _within(value: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= value <= limits[1]
