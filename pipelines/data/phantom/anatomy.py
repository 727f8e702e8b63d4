"""Geometry of the brain phantom: the share of each tissue in each voxel, and the lesion labels.

Coordinates are in mm in a template whose axes run to the left, the back and the head. Structures
are signed distances in this template; every subject reads them through a smooth deformation.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt
from scipy.ndimage import map_coordinates

from pipelines.data.phantom.fields import FieldSource, Grid, Volume, ellipsoid, ramp, tube

NECROSIS_LABEL, EDEMA_LABEL, ENHANCING_LABEL = 1, 2, 4


class Tissue(IntEnum):
    """Row of a tissue in the array of shares."""

    CSF = 0
    CORTEX = 1
    WHITE = 2
    DEEP = 3
    PERIVENTRICULAR = 4
    CHOROID = 5
    VESSEL = 6
    NECROSIS = 7
    EDEMA = 8
    ENHANCING = 9


@dataclass(frozen=True)
class Anatomy:
    """One subject on a grid of shape ``(X, Y, Z)``.

    Attributes:
        shares: share of each `Tissue` in each voxel, float32 ``(10, X, Y, Z)``, sum 1.
        brain: bool ``(X, Y, Z)``.
        labels: BraTS labels (0, 1, 2, 4), uint8 ``(X, Y, Z)``.
    """

    shares: Volume
    brain: npt.NDArray[np.bool_]
    labels: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Lesion:
    """A tumour in template space, lengths in mm.

    Attributes:
        centre: of the edema.
        radius: of the edema.
        stretch: semi-axes relative to the radius.
        core_offset: from the edema's centre to the core's.
        core_radius: of necrosis and enhancing rim together.
        rim: thickness of the enhancing rim; 0 for a tumour that does not enhance.
        push: largest displacement of the tissue around it.
    """

    centre: tuple[float, float, float]
    radius: float
    stretch: tuple[float, float, float]
    core_offset: tuple[float, float, float]
    core_radius: float
    rim: float
    push: float


@dataclass(frozen=True)
class Build:
    """What varies between subjects besides the random deformation.

    Attributes:
        ventricles: widening of the ventricles in mm.
        sulcus_width: half the width of a sulcus in mm.
        sulcus_depth: depth of the sulci in mm.
        cortex: thickness of the cortex in mm.
        caps: reach of the bright periventricular rim in mm.
        foci: threshold of the random field whose peaks are small white-matter foci.
    """

    ventricles: float
    sulcus_width: float
    sulcus_depth: float
    cortex: float
    caps: float
    foci: float


def draw_anatomy(grid: Grid, rng: np.random.Generator) -> Anatomy:
    """Draws one subject with one or two tumours."""
    fields = FieldSource(grid, rng)
    build = _draw_build(rng)
    lesions = _draw_lesions(rng)
    own = _subject_coordinates(grid, fields, rng)
    points = _displaced(own, lesions)
    mirrored = np.concatenate([np.abs(points[:1]), points[1:]])

    depths = _Depths.of(mirrored)
    brain = depths.outer > -0.5
    painter = _Painter(grid, build, fields)
    painter.paint_brain(points, mirrored, depths)
    painter.paint_lesions(own, lesions)
    return Anatomy(painter.shares, brain, _labels(painter.shares, brain))


def _draw_build(rng: np.random.Generator) -> Build:
    return Build(
        ventricles=rng.uniform(-2.0, 2.5),
        sulcus_width=rng.uniform(0.4, 1.2),
        sulcus_depth=rng.uniform(13, 20),
        cortex=rng.uniform(3.0, 3.8),
        caps=rng.uniform(1.0, 6.0),
        foci=rng.uniform(2.9, 4.5),
    )


def _draw_lesions(rng: np.random.Generator) -> tuple[Lesion, ...]:
    first = _draw_lesion(rng, rng.uniform(13, 20))
    if rng.random() < 0.7:
        return (first,)
    return (first, _draw_lesion(rng, rng.uniform(8, 11)))


def _draw_lesion(rng: np.random.Generator, radius: float) -> Lesion:
    core = radius * rng.uniform(0.35, 0.7)
    enhances = rng.random() < 0.8
    return Lesion(
        centre=_draw_centre(rng),
        radius=radius,
        stretch=_triple(rng.uniform(0.8, 1.2, size=3)),
        core_offset=_triple(rng.uniform(-0.25, 0.25, size=3) * radius),
        core_radius=core,
        rim=rng.uniform(0.2, 0.6) * core if enhances else 0.0,
        push=rng.uniform(0, 0.3) * radius,
    )


def _triple(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z


def _draw_centre(rng: np.random.Generator) -> tuple[float, float, float]:
    """A point in the white matter of the cerebrum, off the ventricles."""
    while True:
        centre = _triple(rng.uniform((-52, -66, -32), (52, 66, 52)))
        point = np.asarray(centre, dtype=np.float32)[:, None]
        point[0] = abs(point[0])
        deep_enough = _Depths.of(point).cerebrum[0] > 13
        if deep_enough and point[0, 0] > 14 and _ventricles(point, 0.0)[0] < -6:
            return centre


def _subject_coordinates(grid: Grid, fields: FieldSource, rng: np.random.Generator) -> Volume:
    """Template coordinates of each voxel ``(3, X, Y, Z)`` before any lesion pushes tissue."""
    tilt, nod, turn = rng.uniform(-0.07, 0.07, size=3)
    rotation = np.array([[1, tilt, nod], [-tilt, 1, turn], [-nod, -turn, 1]])
    scale = rng.uniform((0.97, 0.96, 0.97), (1.07, 1.06, 1.06))
    matrix = (rotation / scale[:, None]).astype(np.float32)
    shift = rng.uniform(-3, 3, size=3).astype(np.float32)
    points = np.tensordot(matrix, grid.coordinates() + shift[:, None, None, None], axes=1)
    for axis in range(3):
        points[axis] += 2.6 * fields.smooth(20.0) + 0.8 * fields.smooth(8.0)
    return points


def _displaced(points: Volume, lesions: tuple[Lesion, ...]) -> Volume:
    """Where the tissue now at ``points`` lay before the lesions grew."""
    moved = points.copy()
    for lesion in lesions:
        offset = points - np.asarray(lesion.centre, dtype=np.float32)[:, None, None, None]
        distance = np.sqrt((offset**2).sum(axis=0)) / np.float32(lesion.radius)
        # Zero in the middle, largest at the lesion's edge, gone two radii away.
        strength = distance * np.exp(0.5 * (1 - distance**2)) * np.float32(lesion.push)
        moved -= offset * (strength / (distance * np.float32(lesion.radius) + 1e-3))
    return moved


@dataclass(frozen=True)
class _Depths:
    """Depths in mm inside the parts of the brain, negative outside."""

    cerebrum: Volume
    cerebellum: Volume
    stem: Volume
    outer: Volume

    @classmethod
    def of(cls, mirrored: Volume) -> _Depths:
        """Depths of points whose x is made positive."""
        cerebrum = np.maximum(
            _hemispheres(mirrored), ellipsoid(mirrored, (39, -4, -24), (25, 47, 25))
        )
        cerebellum = ellipsoid(mirrored, (22, 47, -45), (34, 33, 27))
        stem = tube(mirrored, ((0, 6, -8, 17), (0, 14, -34, 16), (0, 26, -82, 10)))
        cistern = ellipsoid(mirrored, (0, 0, -30), (32, 34, 18))
        outer = np.maximum.reduce([cerebrum, cerebellum, stem, cistern])
        return cls(cerebrum, cerebellum, stem, outer)


def _hemispheres(mirrored: Volume) -> Volume:
    x, y, z = mirrored
    width = 68 * (1 + np.clip(y, -90, 90) * np.float32(0.0012))
    above = z - 2
    height = np.where(above > 0, np.float32(66), 36 - 0.10 * np.clip(-y, 0, 90))
    power = np.float32(2.3)
    level = (x / width) ** power + (np.abs(y) / 87) ** power + (np.abs(above) / height) ** power
    return np.asarray((1 - level ** (1 / power)) * 68, dtype=np.float32)


def _ventricles(mirrored: Volume, widening: float) -> Volume:
    """Depth inside the lateral, third and fourth ventricles."""
    lateral = tube(
        mirrored,
        (
            (15, -38, 6, 3.0),
            (8, -24, 12, 5.5),
            (7, -4, 18, 5.0),
            (13, 18, 18, 5.5),
            (22, 33, 9, 7.0),
            (20, 54, 5, 3.0),
        ),
    )
    temporal = tube(mirrored, ((23, 32, 4, 5.5), (32, 8, -20, 2.5), (30, -8, -24, 2.5)))
    third = tube(mirrored, ((0, -10, -8, 2.4), (0, 12, 0, 2.4)))
    fourth = tube(mirrored, ((0, 34, -30, 2.0), (0, 37, -42, 6.0), (0, 36, -54, 2.0)))
    middle = np.maximum(third, fourth) + np.float32(0.3 * widening)
    return np.maximum(np.maximum(lateral, temporal) + np.float32(widening), middle)


class _Painter:
    """Lays one tissue over another; the shares of each voxel always sum to 1."""

    def __init__(self, grid: Grid, build: Build, fields: FieldSource) -> None:
        self._grid = grid
        self._build = build
        self._fields = fields
        self.shares: Volume = np.zeros((len(Tissue), *grid.shape), dtype=np.float32)
        self.shares[Tissue.WHITE] = 1

    def _lay(self, tissue: Tissue, cover: Volume) -> None:
        self.shares *= 1 - cover
        self.shares[tissue] += cover

    def _ramp(self, distance: Volume) -> Volume:
        return ramp(distance, self._grid.edge_width)

    def paint_brain(self, points: Volume, mirrored: Volume, depths: _Depths) -> None:
        """Paints the normal tissues, deepest layer first."""
        ventricles = _ventricles(mirrored, self._build.ventricles)
        self._paint_periventricular(mirrored, ventricles)
        fluid = self._paint_cortex(points, mirrored, depths)
        self._paint_deep_grey(mirrored)
        self._lay(Tissue.CSF, self._ramp(ventricles))
        plexus = np.minimum(ellipsoid(mirrored, (22, 33, 9), (4, 9, 5)), ventricles - 1)
        self._lay(Tissue.CHOROID, 0.8 * self._ramp(plexus))
        self._paint_vessels(mirrored, depths, fluid)

    def _paint_periventricular(self, mirrored: Volume, ventricles: Volume) -> None:
        horns = np.maximum(
            ellipsoid(mirrored, (17, -40, 6), (14, 14, 14)),
            ellipsoid(mirrored, (24, 48, 8), (16, 22, 14)),
        )
        reach = self._build.caps * (0.35 + 0.65 * ramp(horns, 12.0))
        caps = ramp(ventricles + reach, 5.0)
        foci = ramp(self._fields.banded(14.0) - np.float32(self._build.foci), 1.0)
        self._lay(Tissue.PERIVENTRICULAR, np.maximum(caps, foci))

    def _paint_cortex(self, points: Volume, mirrored: Volume, depths: _Depths) -> Volume:
        """Paints grey matter and fluid at all surfaces; returns the fluid's signed distance."""
        in_cerebrum = depths.cerebrum >= depths.cerebellum
        sulci = self._sulcus_distance(points, mirrored, depths.cerebrum)
        fluid_cerebrum = np.maximum.reduce(
            [
                self._build.sulcus_width - sulci,
                0.6 + self._build.sulcus_width - depths.cerebrum,
                0.8 + 0.3 * self._build.sulcus_width - _fissure_distance(mirrored),
            ]
        )
        folia = self._folia_distance(mirrored)
        fluid_cerebellum = np.maximum(
            np.minimum(0.2 - folia, 9 - depths.cerebellum), 1.0 - depths.cerebellum
        )
        fluid = np.where(in_cerebrum, fluid_cerebrum, fluid_cerebellum)
        thickness = np.where(in_cerebrum, np.float32(self._build.cortex), np.float32(2.2))
        outside_stem = 1 - self._ramp(depths.stem - 1)
        self._lay(Tissue.CORTEX, self._ramp(fluid + thickness) * outside_stem)
        self._lay(Tissue.CSF, self._ramp(fluid) * outside_stem)
        shown: Volume = fluid
        return shown

    def _sulcus_distance(self, points: Volume, mirrored: Volume, depth: Volume) -> Volume:
        """Distance in mm to the sheets that fold the cortex: level sets of a field over angles."""
        angular = self._angular_field(points)
        slope = np.sqrt(
            sum(np.square(g) for g in np.gradient(angular, *self._grid.spacing)), dtype=np.float32
        )
        sheet = np.abs(angular) / np.maximum(slope, 0.5 * float(np.median(slope)))
        below = np.maximum(depth - np.float32(self._build.sulcus_depth), 0)
        distance: Volume = np.minimum(np.hypot(sheet, below), _sylvian_distance(mirrored))
        return distance

    def _angular_field(self, points: Volume) -> Volume:
        """A banded field that hardly changes along the radius, so that sulci run inwards."""
        field = self._fields.banded(21.0, symmetry=0.5)
        centred = points - np.array([0, 0, 2], dtype=np.float32)[:, None, None, None]
        radius = np.sqrt((centred**2).sum(axis=0)) + 1e-3
        projected = centred * ((0.75 * 64 + 0.25 * radius) / radius)
        steps = np.asarray(self._grid.spacing, dtype=np.float32)[:, None, None, None]
        middle = (np.asarray(self._grid.shape, dtype=np.float32) - 1)[:, None, None, None] / 2
        return np.asarray(
            map_coordinates(field, projected / steps + middle, order=1, mode="grid-wrap"),
            dtype=np.float32,
        )

    def _folia_distance(self, mirrored: Volume) -> Volume:
        """Distance in mm to the grooves of the cerebellum, which follow its curved surface."""
        _, y, z = mirrored
        angle = np.arctan2(z + 40, y - 12)
        phase = angle * 40 / 9.0 + 0.25 * self._fields.smooth(8.0)
        return np.asarray(np.abs(phase - np.round(phase)) * 9.0, dtype=np.float32)

    def _paint_deep_grey(self, mirrored: Volume) -> None:
        nuclei = np.maximum.reduce(
            [
                ellipsoid(mirrored, (10, 8, 3), (9, 15, 10)),
                ellipsoid(mirrored, (26, -8, -1), (7, 18, 11)),
                ellipsoid(mirrored, (14, -24, 9), (6, 10, 11)),
            ]
        )
        self._lay(Tissue.DEEP, self._ramp(nuclei))

    def _paint_vessels(self, mirrored: Volume, depths: _Depths, fluid: Volume) -> None:
        """Sagittal sinus, basal arteries and scattered veins in the sulci."""
        x, y, z = mirrored
        behind_or_above = ramp(z + 0.6 * y - 20, 20.0)
        sinus = self._ramp(2.8 - np.hypot(x, depths.cerebrum - 0.5)) * behind_or_above
        arteries = tube(mirrored, ((5, -2, -26, 1.3), (22, -8, -24, 1.4), (42, -4, -12, 1.1)))
        veins = self._ramp(fluid + 0.3) * ramp(self._fields.banded(9.0) - 1.9, 0.6)
        self._lay(Tissue.VESSEL, np.maximum.reduce([sinus, self._ramp(arteries), 0.8 * veins]))

    def paint_lesions(self, points: Volume, lesions: tuple[Lesion, ...]) -> None:
        """Paints edema, necrosis and rim of each lesion over the tissue that they can invade."""
        normal = self.shares.copy()
        invadable = 1 - np.clip(normal[Tissue.CSF] + normal[Tissue.CHOROID], 0, 1)
        for lesion in lesions:
            edges = 0.7 * self._fields.smooth(5.0) + 0.5 * self._fields.smooth(2.5)
            edema = _lesion_depth(points, lesion) + 0.16 * lesion.radius * edges
            # Edema follows the white matter and stops at the cortex.
            edema -= 5 * (normal[Tissue.CORTEX] + normal[Tissue.DEEP])
            core = _core_depth(points, lesion) + 0.14 * lesion.core_radius * edges[::-1]
            core = np.minimum(core, edema - 1)
            self._lay(Tissue.EDEMA, ramp(edema.astype(np.float32), 4.0) * invadable)
            self._lay(Tissue.NECROSIS, ramp(core.astype(np.float32), 2.5) * invadable)
            if lesion.rim > 0:
                thickness = lesion.rim * (1 + 0.5 * edges)
                shell = np.minimum(core, thickness - core)
                self._lay(Tissue.ENHANCING, ramp(shell, 2.5) * invadable)


def _fissure_distance(mirrored: Volume) -> Volume:
    """Distance in mm to the sheet between the hemispheres, which ends at the corpus callosum."""
    flat = 1 - np.sqrt(((mirrored[1] - 6) / 44) ** 2 + ((mirrored[2] + 2) / 28) ** 2)
    distance: Volume = np.hypot(mirrored[0], np.maximum(34 * flat, 0))
    return distance


def _sylvian_distance(mirrored: Volume) -> Volume:
    """Distance in mm to the sheet between temporal lobe and the lobes above it."""
    x, y, z = mirrored
    height = z + 7 - 0.28 * y
    beyond = np.maximum(np.maximum(y - 32, -34 - y), 0)
    distance: Volume = np.sqrt(height**2 + np.maximum(36 - x, 0) ** 2 + beyond**2)
    return distance


def _lesion_depth(points: Volume, lesion: Lesion) -> Volume:
    x, y, z = (lesion.radius * factor for factor in lesion.stretch)
    return ellipsoid(points, lesion.centre, (x, y, z))


def _core_depth(points: Volume, lesion: Lesion) -> Volume:
    x, y, z = (a + b for a, b in zip(lesion.centre, lesion.core_offset, strict=True))
    radius = lesion.core_radius
    return ellipsoid(points, (x, y, z), (radius, radius, radius))


def _labels(shares: Volume, brain: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    parts = shares[[Tissue.NECROSIS, Tissue.EDEMA, Tissue.ENHANCING]]
    names = np.array([NECROSIS_LABEL, EDEMA_LABEL, ENHANCING_LABEL], dtype=np.uint8)
    lesion = (parts.sum(axis=0) > 0.5) & brain
    return np.where(lesion, names[parts.argmax(axis=0)], np.uint8(0))
