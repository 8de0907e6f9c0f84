"""Ribbon drawings of backbone fragments, with matplotlib polygons and without a 3D engine.

A smooth curve runs through the CA atoms; the ribbon spreads along the binormal of the CA trace,
which follows the axis of a helix and lies in the sheet of a strand. Its quadrilaterals are painted
from back to front, shaded by their slope and paled by their depth.
"""

from dataclasses import dataclass
from typing import final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.patches import Patch
from scipy.interpolate import CubicSpline, PchipInterpolator
from torch import Tensor

from fragments import geometry

KINDS = ("coil", "helix", "strand")
COLOURS = np.array([mpl.colors.to_rgb(c) for c in ("#9aa3b2", "#d1495b", "#3d7ea6")])
HALF_WIDTH = np.array([0.28, 1.25, 1.0])  # angstrom
ARROW, ARROW_WIDTH = 1.4, 1.8  # length in residues, half width in angstrom
FINE = 12  # pieces for each residue
STRAND_RUN = 3
LIGHT = np.array([0.35, 0.45, 0.82])  # the direction it comes from


@final
@dataclass(frozen=True)
class Ribbon:
    """Quadrilaterals (Q, 4, 3) in angstrom, seen along the third axis, and colours (Q, 3)."""

    quads: np.ndarray
    colours: np.ndarray


def principal_axes(points: np.ndarray) -> np.ndarray:
    """A rotation (3, 3) whose columns are the axes of `points` (L, 3), the longest first."""
    axes = np.linalg.svd(points - points.mean(0))[2].T
    return axes * [1, 1, np.sign(np.linalg.det(axes))]


def kinds(coords: Tensor) -> np.ndarray:
    """0 coil, 1 helix, 2 strand of three or more residues, from N, CA, C (L, 3 or more, 3)."""
    phi, psi, _ = geometry.torsions(coords[:, :3])
    strand = geometry.runs(geometry.strand(phi, psi), STRAND_RUN)
    return np.where(geometry.helix(phi, psi), 1, np.where(strand, 2, 0))


def ribbon(coords: Tensor) -> Ribbon:
    """The ribbon of one fragment with N, CA, C (L, 3 or more, 3), its longest axis horizontal."""
    kind, ca = kinds(coords), coords[:, 1].detach().cpu().double().numpy()
    ca = (ca - ca.mean(0)) @ principal_axes(ca)
    side = _binormals(ca)
    at = np.arange(len(ca))
    fine = np.linspace(0, len(ca) - 1, (len(ca) - 1) * FINE + 1)
    middle = CubicSpline(at, _flatten(ca, kind))(fine)
    spread = CubicSpline(at, side)(fine)
    spread /= np.linalg.norm(spread, axis=1, keepdims=True) + 1e-9
    edge = spread * _half_width(kind, fine)[:, None]
    left, right = middle - edge, middle + edge
    quads = np.stack([left[:-1], right[:-1], right[1:], left[1:]], 1)
    nearest = np.rint((fine[:-1] + fine[1:]) / 2).astype(int)
    return Ribbon(quads, _shade(quads, COLOURS[kind[nearest]]))


def draw(ax: Axes, ribbon: Ribbon) -> None:
    """Paint a ribbon from back to front."""
    order = np.argsort(ribbon.quads[..., 2].mean(1))
    colours = ribbon.colours[order]
    quads = PolyCollection(ribbon.quads[order, :, :2], facecolors=colours, edgecolors=colours)
    quads.set_linewidth(0.6)
    ax.add_collection(quads)


def key() -> list[Patch]:
    """Legend entries of the three kinds."""
    return [Patch(color=c, label=k) for c, k in zip(COLOURS, KINDS, strict=True)]


def _binormals(ca: np.ndarray) -> np.ndarray:
    steps = np.diff(ca, axis=0)
    normal = np.cross(steps[:-1], steps[1:])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9
    for i in range(1, len(normal)):
        normal[i] *= 1 if normal[i] @ normal[i - 1] >= 0 else -1
    return np.concatenate([normal[:1], normal, normal[-1:]])


def _flatten(ca: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """Take the pleat out of strands: a residue moves to the mean of itself and its neighbours'."""
    smooth = ca.copy()
    smooth[1:-1] = ca[1:-1] / 2 + (ca[:-2] + ca[2:]) / 4
    return np.where((kind == 2)[:, None], smooth, ca)


def _half_width(kind: np.ndarray, fine: np.ndarray) -> np.ndarray:
    """Half the width along the curve; a strand ends in an arrowhead."""
    width = PchipInterpolator(np.arange(len(kind)), HALF_WIDTH[kind])(fine)
    for last in np.flatnonzero((kind == 2) & (np.append(kind[1:], 0) != 2)):
        left = last + 0.5 - fine  # residues to the tip
        head = (left >= 0) & (left <= ARROW)
        width[head] = HALF_WIDTH[0] + (ARROW_WIDTH - HALF_WIDTH[0]) * left[head] / ARROW
    return width


def _shade(quads: np.ndarray, colours: np.ndarray) -> np.ndarray:
    normal = np.cross(quads[:, 1] - quads[:, 0], quads[:, 3] - quads[:, 0])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9
    light = 0.62 + 0.38 * np.abs(normal @ LIGHT)
    depth = quads[..., 2].mean(1)
    fog = 0.35 * (depth.max() - depth) / (np.ptp(depth) + 1e-9)
    shaded = colours * light[:, None]
    return shaded + (1 - shaded) * fog[:, None]
