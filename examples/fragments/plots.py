"""Figures of the example; needs matplotlib.

Each function writes one file: beside its place first, then renamed, so that a reader never sees
half a picture. Angles are drawn in degrees, lengths in angstrom.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from mpl_toolkits.mplot3d import Axes3D
from mpl_toolkits.mplot3d.art3d import Line3DCollection
from torch import Tensor

from fragments import cartoon, metrics
from fragments import ramachandran as rama
from fragments.data import Batch

DPI = 160
CELL = 2.4  # width in inches of one fragment in the gallery
INK = "#333344"
SHADES = ("#eef1f6", "#d3dcea")  # allowed, favoured


@contextmanager
def written(path: str | Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the place of `path` when the block succeeds."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def ramachandran(path: str | Path, generated: Batch, held_out: Batch) -> None:
    """Density of φ, ψ in the general class, beside each other, on the contours of the grid."""
    figure = _figure(10.2, 4.7)
    axes = figure.subplots(1, 2, sharey=True)
    for ax, name, batch in zip(
        axes, ("held-out", "generated"), (held_out, generated), strict=True
    ):
        density = _torsions(ax, name, metrics.sample(batch["coords"], batch["seq"]))
    axes[0].set_ylabel("ψ (degrees)")
    figure.colorbar(density, ax=axes, label="share of the residues", pad=0.01, extend="both")
    axes[1].legend(handles=_contour_key(), loc="lower right", fontsize=8, framealpha=0.9)
    _save(figure, path)


def losses(path: str | Path, history: Mapping[str, Sequence[float]]) -> None:
    """Every part of the loss against the step: smoothed, with the raw values faint behind it.

    Args:
        path: the file to write.
        history: equally long sequences; ``"step"`` is the horizontal axis, all others are drawn.
    """
    steps = np.asarray(history["step"])
    figure = _figure(7.2, 4.4)
    ax = figure.subplots()
    parts = [name for name in history if name != "step"]
    for name, colour in zip(parts, _colours(len(parts)), strict=True):
        values = np.asarray(history[name], dtype=float)
        ax.plot(steps, values, color=colour, alpha=0.18, linewidth=0.7)
        ax.plot(steps, _smooth(values), color=colour, linewidth=1.8, label=name)
    ax.set(yscale="log", xlabel="training step", ylabel="loss")
    ax.grid(which="major", alpha=0.25)
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    _save(figure, path)


def gallery(path: str | Path, coords: Tensor, columns: int = 4) -> None:
    """Fragments drawn as ribbons, all to one scale: helices, strands and coil apart.

    Args:
        path: the file to write.
        coords: N, CA, C of the fragments in angstrom, shape (F, L, 3 or more, 3).
        columns: fragments in a row.
    """
    rows = -(-len(coords) // columns)
    ribbons = [cartoon.ribbon(fragment) for fragment in coords]
    sizes = [np.abs(r.quads[..., :2]).max((0, 1)) for r in ribbons]
    half = np.max([*sizes, [3, 3]], axis=0) * 1.05
    figure = _figure(CELL * columns, CELL * rows * half[1] / half[0] + 0.3)
    figure.get_layout_engine().set(w_pad=0, h_pad=0, wspace=0, hspace=0)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax in axes:
        ax.set(xlim=(-half[0], half[0]), ylim=(-half[1], half[1]), aspect="equal")
        ax.set_axis_off()
    for ax, ribbon in zip(axes, ribbons, strict=False):
        cartoon.draw(ax, ribbon)
    figure.legend(handles=cartoon.key(), loc="outside lower center", ncols=3, frameon=False)
    _save(figure, path)


def trajectory_gif(path: str | Path, frames: Tensor, fps: int = 12) -> None:
    """An animation of the CA trace, coloured along the chain; the last frame is held for long.

    Args:
        path: the ``.gif`` to write.
        frames: CA positions in angstrom in the order of showing, shape (T, L, 3).
        fps: frames in a second.
    """
    points = (frames - frames.mean(1, keepdim=True)).detach().cpu().numpy()
    points = points @ cartoon.principal_axes(points[-1])
    figure = Figure(figsize=(4.2, 4.2), facecolor="white")
    FigureCanvasAgg(figure)
    ax = figure.add_axes((0, 0, 1, 1), projection="3d")
    radius = _smooth(np.linalg.norm(points, axis=-1).max(1), 5) * 0.62
    order = [*range(len(points)), *[len(points) - 1] * fps]
    animation = FuncAnimation(figure, lambda k: _trace(ax, points, radius, k), order, lambda: [])
    with written(path) as beside:
        animation.save(beside, PillowWriter(fps), dpi=90)


def _trace(ax: Axes3D, points: np.ndarray, radius: np.ndarray, k: int) -> list[Artist]:
    ax.clear()
    ax.set_axis_off()
    x, r = points[k], radius[k]
    colours = mpl.colormaps["turbo"](np.linspace(0.05, 0.95, len(x)))
    bonds = np.stack([x[:-1], x[1:]], 1)
    ax.add_collection3d(Line3DCollection(bonds, colors=colours[:-1], linewidths=3))
    ax.scatter(*x.T, c=colours, s=34, depthshade=False, edgecolors="white", linewidths=0.5)
    ax.set(xlim=(-r, r), ylim=(-r, r), zlim=(-r, r), box_aspect=(1, 1, 1))
    ax.view_init(elev=60, azim=1.5 * k - 90)
    ax.text2D(0.5, 0.04, f"step {k} of {len(points) - 1}", transform=ax.transAxes, ha="center")
    return []


def _torsions(ax: Axes, name: str, x: metrics.Sample) -> PolyCollection:
    value, kind = rama.score(x.phi, x.psi, x.omega, x.seq)
    shown = (kind == rama.GENERAL) & ~value.isnan()
    phi, psi = (torch.rad2deg(angle[shown]).numpy() for angle in (x.phi, x.psi))
    _contours(ax)
    density = ax.hexbin(
        phi,
        psi,
        np.full(len(phi), 1 / max(1, len(phi))),
        gridsize=72,
        extent=(-180, 180, -180, 180),
        reduce_C_function=np.sum,
        cmap=_heat(),
        norm=LogNorm(1e-4, 2e-2),
        linewidths=0,
        zorder=2,
    )
    good = rama.favoured(value[shown]).double().mean()
    bad = rama.outlier(value[shown], kind[shown]).double().mean()
    ax.set_title(f"{name}: {good:.1%} favoured, {bad:.1%} outliers", fontsize=10)
    ax.set(xlim=(-180, 180), ylim=(-180, 180), xlabel="φ (degrees)", aspect="equal")
    ax.set(xticks=range(-180, 181, 90), yticks=range(-180, 181, 90))
    return density


def _contours(ax: Axes) -> None:
    grid = rama.grids()[rama.GENERAL].numpy().T
    centres = np.arange(-179, 180, 2)
    levels = [rama.OUTLIER[rama.GENERAL], rama.FAVOURED, 1]
    ax.contourf(centres, centres, grid, levels, colors=SHADES, zorder=0)
    ax.contour(centres, centres, grid, levels[:2], colors=INK, linewidths=(0.6, 1.1), zorder=3)


def _contour_key() -> list[Patch]:
    names = ("allowed (above 0.05 %)", "favoured (above 2 %)")
    return [Patch(facecolor=c, edgecolor=INK, label=n) for c, n in zip(SHADES, names, strict=True)]


def _heat() -> ListedColormap:
    """Orange to black, without the palest colours, which would vanish on white."""
    return ListedColormap(mpl.colormaps["inferno_r"](np.linspace(0.22, 1, 128)))


def _smooth(values: np.ndarray, window: int | None = None) -> np.ndarray:
    """Centred running mean that shortens towards both ends."""
    width = window or max(1, len(values) // 40)
    kernel = np.ones(width)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def _colours(n: int) -> list[tuple[float, ...]]:
    return [mpl.colormaps["tab10"](index % 10) for index in range(n)]


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: str | Path) -> None:
    with written(path) as beside:
        figure.savefig(beside, dpi=DPI)
