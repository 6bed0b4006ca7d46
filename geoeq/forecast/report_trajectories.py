"""Predicted against true positions of a few test graphs, as HTML: three small pictures a graph."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TypeAlias

import numpy as np
from matplotlib.axes import Axes

from geoeq.forecast.report_records import RunRecord, TrajectorySample, words
from geoeq.forecast.report_template import (
    MAX_POINTS,
    N_BODIES,
    RUN_MARKERS,
    colour,
    figure_html,
    label_axes,
    panel,
    panel_grid,
    run_colour,
    thin,
)

Scene: TypeAlias = list[tuple[int, TrajectorySample]]  # one test graph: (index of the run, its sample)

MAX_SCENES = 4
MAX_BODIES_LISTED = 12


def trajectory_section(runs: Sequence[RunRecord], length_unit: str) -> str:
    """Predicted against true positions of a few test graphs, seen from the side and from above."""
    scenes: dict[bytes, Scene] = {}
    for index, run in enumerate(runs):
        for sample in run.trajectories:
            scenes.setdefault(sample.position.tobytes() + sample.target.tobytes(), []).append((index, sample))
    without = [run.name for run in runs if not run.trajectories]
    note = f'<p class="note">No trajectories were recorded for {escape(words(without))}.</p>' if without else ""
    if not scenes:
        return note
    shown = sorted({index for scene in scenes.values() for index, _ in scene})
    marks = "".join(
        f'<li><b style="color:var(--{run_colour(i)})">{RUN_MARKERS[i % len(RUN_MARKERS)][1]}</b>'
        f"predicted by {escape(runs[i].name)}</li>"
        for i in shown
    )
    keys = (
        '<ul class="keys"><li><b>●</b>start, and number of the body</li>'
        '<li><b style="color:var(--muted)">→</b>first velocity</li>'
        f"<li><b>━</b>true path</li><li><b>◯</b>true target</li>{marks}</ul>"
    )
    how = (
        "Each wide line is one body: it starts at the dot, moves along the line and arrives at the ring. The "
        "grey arrow shows where it would go if it kept its first velocity. A network is given only "
        "the start and has to say where each body arrives: its mark should lie in the middle of the "
        "ring, and the thin line from mark to ring is its error."
    )
    html = [f'<p class="how">{how}</p>{keys}']
    for number, scene in enumerate(list(scenes.values())[:MAX_SCENES], start=1):
        html.append(f"<h3>{escape(scene[0][1].name or f'Test graph {number}')}</h3>")
        html.append(panel_grid(_scene_panels(scene, length_unit), "three") + _outside_note(scene, runs))
    if len(scenes) > MAX_SCENES:
        html.append(f'<p class="note">The first {MAX_SCENES} of {len(scenes)} test graphs are drawn.</p>')
    return "".join(html) + note


def _scene_panels(scene: Scene, length_unit: str) -> list[str]:
    up = "xyz".index(scene[0][1].up)
    along, across = (up + 1) % 3, (up + 2) % 3
    side = _projection(scene, (along, up), "seen from the side", length_unit)
    top = _projection(scene, (along, across), "seen from above", length_unit)
    return [side, top, _distances(scene, length_unit)]


def _view(sample: TrajectorySample) -> tuple[np.ndarray, float]:
    """Centre [3] and half width of the cube drawn: the truth and the arrows, but not predictions far off."""
    arrow = sample.position + sample.horizon * sample.velocity
    points = np.concatenate([sample.position, arrow, sample.path().reshape(-1, 3)])
    low, high = points.min(0), points.max(0)
    return (low + high) / 2, 0.58 * max(float((high - low).max()), 1e-6)


def _projection(scene: Scene, plane: tuple[int, int], view: str, length_unit: str) -> str:
    figure, axes = panel(height=4.2)
    a, b = plane
    sample = scene[0][1]
    start, target, path = sample.position[:, plane], sample.target[:, plane], sample.path()[..., plane]
    bodies = [colour(f"body-{k % N_BODIES}") for k in range(len(start))]
    keep = thin(len(path), max(MAX_POINTS // len(start), 8))
    for k, shade in enumerate(bodies):
        axes.plot(path[keep, k, 0], path[keep, k, 1], color=shade, linewidth=4, alpha=0.45, solid_capstyle="round")
        if len(bodies) <= MAX_BODIES_LISTED:
            axes.annotate(
                f"{k + 1}",
                start[k],
                (-5, 5),
                textcoords="offset points",
                color=shade,
                ha="right",
                fontsize=10,
            )
    axes.scatter(start[:, 0], start[:, 1], s=22, color=bodies, zorder=3)
    axes.scatter(target[:, 0], target[:, 1], s=120, facecolors="none", edgecolors=bodies, linewidths=1.6, zorder=3)
    arrow = sample.horizon * sample.velocity[:, plane]
    axes.quiver(
        *start.T,
        *arrow.T,
        angles="xy",
        scale_units="xy",
        scale=1,
        color=colour("muted"),
        width=0.004,
        zorder=2,
    )
    for index, prediction in scene:
        _draw_predictions(axes, index, prediction.predicted[:, plane], target)
    centre, half = _view(sample)
    axes.set_xlim(centre[a] - half, centre[a] + half)
    axes.set_ylim(centre[b] - half, centre[b] + half)
    axes.set_aspect("equal")
    label_axes(axes, f"{'xyz'[a]} ({length_unit})", f"{'xyz'[b]} ({length_unit})")
    names = f"{'xyz'[a]}{'xyz'[b]} plane"
    return figure_html(figure, f"{view.capitalize()} <small>{names}</small>", f"trajectories {view}, {names}")


def _draw_predictions(axes: Axes, index: int, predicted: np.ndarray, target: np.ndarray) -> None:
    shade = colour(run_colour(index))
    for point, goal in zip(predicted, target, strict=True):
        axes.plot(*np.stack([point, goal]).T, color=shade, linewidth=0.9, zorder=4)
    _mark(axes, index, predicted[:, 0], predicted[:, 1])


def _mark(axes: Axes, index: int, x: np.ndarray, y: np.ndarray) -> None:
    marker = RUN_MARKERS[index % len(RUN_MARKERS)][0]
    # The three-armed mark covers less than its nominal size.
    size = 110 if marker == "1" else 46
    axes.scatter(x, y, s=size, marker=marker, color=colour(run_colour(index)), linewidths=1.8, zorder=5)


def _distances(scene: Scene, length_unit: str) -> str:
    """Distance in space between prediction and target, one row a body, one mark a run."""
    figure, axes = panel(height=4.2)
    target = scene[0][1].target
    distance = np.linalg.norm([sample.predicted - target for _, sample in scene], axis=-1)  # [runs, n]
    worst = np.argsort(-np.nan_to_num(distance, nan=np.inf).mean(0), kind="stable")[:MAX_BODIES_LISTED]
    listed = np.sort(worst)
    rows = np.arange(len(listed))
    for (index, _), values in zip(scene, distance, strict=True):
        _mark(axes, index, values[listed], rows)
    axes.set_yticks(rows, [f"body {k + 1}" for k in listed])
    for tick, k in zip(axes.get_yticklabels(), listed, strict=True):
        tick.set_color(colour(f"body-{k % N_BODIES}"))
    axes.set_ylim(len(listed) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.grid(visible=False, axis="x")
    label_axes(axes, f"distance from target ({length_unit})", "")
    few = "" if len(listed) == len(target) else f"<small>the {len(listed)} worst bodies</small>"
    return figure_html(figure, f"How far off in space {few}", "distance between prediction and target of each body")


def _outside_note(scene: Scene, runs: Sequence[RunRecord]) -> str:
    """Says in words which predictions the picture cannot show."""
    centre, half = _view(scene[0][1])
    notes = []
    for index, sample in scene:
        finite = np.isfinite(sample.predicted).all(1)
        n_far = int((np.abs(sample.predicted[finite] - centre) > half).any(1).sum())
        if n_bad := int((~finite).sum()):
            notes.append(f"{runs[index].name}: {n_bad} of {len(finite)} predictions are not finite and are not drawn.")
        if n_far:
            notes.append(f"{runs[index].name}: {n_far} of {len(finite)} predictions lie outside the picture.")
    return "".join(f'<p class="note">{escape(note)}</p>' for note in notes)
