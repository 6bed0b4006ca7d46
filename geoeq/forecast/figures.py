"""What happened during training, as HTML: loss curves and levels of symmetry over time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from geoeq.forecast.report_records import RunRecord, last_levels, words
from geoeq.forecast.report_template import (
    N_LAYERS,
    N_RUNS,
    colour,
    draw_line,
    figure_html,
    label_axes,
    line_keys,
    panel,
    panel_grid,
    run_colour,
)

LOSS_COLUMNS = {
    "training": ("train_loss_epoch", "train_loss", "train_loss_step"),
    "validation": ("val_loss_epoch", "val_loss"),
}
Line = tuple[int, np.ndarray, np.ndarray]  # index of the run, epochs, losses


def _epoch_means(rows: Sequence[Mapping[str, Any]], column: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Mean of a column within each epoch, over finite positive values; also the number of other values."""
    by_epoch: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        if row.get(column) is not None and "epoch" in row:
            by_epoch[int(row["epoch"])].append(float(row[column]))
    epochs = np.array(sorted(by_epoch), dtype=int)
    drawable = [[v for v in by_epoch[e] if np.isfinite(v) and v > 0] for e in epochs]
    n_bad = sum(len(by_epoch[e]) for e in epochs) - sum(map(len, drawable))
    return epochs, np.array([np.mean(values) if values else np.nan for values in drawable]), n_bad


def loss_section(runs: Sequence[RunRecord]) -> str:
    """Training and validation loss of all runs against the epoch, on one logarithmic scale."""
    drawn: dict[str, list[Line]] = {kind: [] for kind in LOSS_COLUMNS}
    remarks = []
    for index, run in enumerate(runs):
        rows = run.metric_rows()
        for kind, columns in LOSS_COLUMNS.items():
            column = next((c for c in columns if any(row.get(c) is not None for row in rows)), None)
            if column is None:
                remarks.append(f"{run.name} recorded no {kind} loss.")
                continue
            epochs, means, n_bad = _epoch_means(rows, column)
            if n_bad:
                remarks.append(f"{run.name}: {kind} losses that are not finite and positive, left out: {n_bad}.")
            if np.isfinite(means).any():
                drawn[kind].append((index, epochs, means))
    html = "".join(f'<p class="note">{escape(remark)}</p>' for remark in remarks)
    values = np.concatenate([means for lines in drawn.values() for _, _, means in lines] or [np.empty(0)])
    if not values.size:
        return html + '<p class="note">There are no loss curves to draw.</p>'
    low, high = np.nanmin(values) / 1.15, np.nanmax(values) * 1.15
    figures = [_loss_panel(lines, kind, low, high) for kind, lines in drawn.items() if lines]
    keys = line_keys([(run_colour(index), run.name) for index, run in enumerate(runs)])
    how = (
        "Lower is better. Both panels have the same logarithmic scale: equal heights are equal factors. "
        "A run whose training loss goes on falling while its validation loss does not is over-fitting."
    )
    return f'<p class="how">{how}</p>{keys}{panel_grid(figures, "two")}{html}'


def _loss_panel(lines: Sequence[Line], kind: str, low: float, high: float) -> str:
    figure, axes = panel(width=4.8, height=3.2)
    for index, epochs, means in lines:
        style = ["-", "--", ":"][index // N_RUNS % 3]
        draw_line(axes, epochs, means, color=colour(run_colour(index)), linewidth=1.6, linestyle=style)
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    label_axes(axes, "epoch", "loss (mean squared error)")
    return figure_html(figure, f"{kind.capitalize()} loss", f"{kind} loss against epoch")


def layer_names(names: Sequence[str], limit: int = N_LAYERS) -> dict[str, str]:
    """Maps each weight's dotted name to the layer it is drawn under: the longest prefix that will do.

    At most `limit` names are left, unless every shorter prefix is the same.

    >>> layer_names(["layers.0.a", "layers.0.b", "layers.1.a"], limit=2)
    {'layers.0.a': 'layers.0', 'layers.0.b': 'layers.0', 'layers.1.a': 'layers.1'}
    """
    depth = max(name.count(".") for name in names) + 1
    mapping = {name: name for name in names}
    while len(set(mapping.values())) > limit and depth > 1:
        depth -= 1
        shorter = {name: ".".join(name.split(".")[:depth]) for name in names}
        if len(set(shorter.values())) < 2:
            break
        mapping = shorter
    return mapping


def level_section(runs: Sequence[RunRecord]) -> str:
    """Levels against the epoch: one panel a symmetry type, one line a layer, for each run that has them."""
    recorded = [(run, run.level_rows()) for run in runs]
    with_levels = [(run, rows) for run, rows in recorded if rows]
    without = [run.name for run, rows in recorded if not rows]
    html = [f'<p class="note">No levels were recorded for {escape(words(without))}.</p>'] if without else []
    if with_levels:
        how = (
            "Level 0 means that a layer keeps the symmetry exactly, level 1 that it is no more symmetric "
            "than random weights. A line near 0 is a symmetry that training kept; one that rises is a "
            "symmetry that it gave up to fit the data. All panels of a run have the same scale; the number "
            "beside the name is that of the layer that breaks it most, at the last epoch."
        )
        html.insert(0, f'<p class="how">{how}</p>')
    for run, rows in with_levels:
        html.append(f"<h3>{escape(run.name)}</h3>" if len(runs) > 1 else "")
        html.append(_level_panels(rows))
    return "".join(html)


def _level_panels(rows: Sequence[Mapping[str, Any]]) -> str:
    weights = list(dict.fromkeys(str(row["layer"]) for row in rows))
    mapping = layer_names(weights)
    layers = list(dict.fromkeys(mapping.values()))
    spacing = (N_LAYERS - 1) / max(len(layers) - 1, 1)
    shade = {name: f"layer-{round(k * spacing)}" for k, name in enumerate(layers)}
    values: dict[str, dict[str, dict[int, list[float]]]] = {}
    for row in rows:
        line = values.setdefault(str(row["symmetry"]), {}).setdefault(mapping[str(row["layer"])], {})
        line.setdefault(int(row["epoch"]), []).append(float(row["level"]))
    levels = np.array([float(row["level"]) for row in rows])
    finite = levels[np.isfinite(levels)]
    top = max(float(finite.max(initial=0.0)) * 1.1, 0.05)
    columns, width = ("two", 4.8) if len(values) in (2, 4) else ("three", 4.2)
    ends = last_levels(rows)
    figures = []
    for symmetry, lines in values.items():
        end = ends.get(symmetry, np.nan)
        ending = f"ends at {end:.2g}" if np.isfinite(end) else "does not end at a finite level"
        figure = _level_panel(lines, shade, top, width)
        heading = f"{escape(symmetry)} <small>{ending}</small>"
        figures.append(figure_html(figure, heading, f"level of {symmetry} against epoch"))
    notes = ""
    if len(layers) < len(weights):
        text = f"Each line is the highest level inside one layer ({len(weights)} linear maps in all)."
        notes += f'<p class="note">{text}</p>'
    if finite.size < levels.size:
        notes += f'<p class="note">Levels that are not finite, left out: {levels.size - finite.size}.</p>'
    return line_keys([(shade[name], name) for name in layers]) + panel_grid(figures, columns) + notes


def _level_panel(
    lines: Mapping[str, Mapping[int, list[float]]],
    shade: Mapping[str, str],
    top: float,
    width: float,
) -> Figure:
    figure, axes = panel(width=width, height=2.9)
    for name, by_epoch in lines.items():
        epochs = np.array(sorted(by_epoch))
        highest = np.array([np.max(by_epoch[e]) for e in epochs])
        draw_line(axes, epochs, highest, color=colour(shade[name]), linewidth=1.7)
    if top > 1:
        axes.axhline(1.0, color=colour("muted"), linewidth=1, linestyle="--")
    axes.set_ylim(-0.02 * top, top)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    label_axes(axes, "epoch", "level (0 = exact)")
    return figure
