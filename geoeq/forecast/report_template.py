"""Look of the report: colours of both themes, style sheet, skeleton of the page and of its panels.

Figures are drawn with placeholder colours (`colour("run-0")`), which `themed` turns into CSS variables, so
that one drawing follows the reader's light or dark theme. Each panel is one small inline SVG and the page's
grid arranges them, so that the text stays legible on a phone.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html import escape
from string import Template
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Runs: Okabe and Ito's colour-blind safe set, lightened where the dark background asks for it.
_RUNS = [
    ("#0072b2", "#56a8e0"),
    ("#d55e00", "#ff8a3d"),
    ("#008060", "#2cc59b"),
    ("#a3467f", "#e08fc0"),
    ("#7a6a00", "#e6d24a"),
    ("#3f6fd8", "#9ab6ff"),
    ("#555555", "#bbbbbb"),
]
# Bodies: Tol's muted set, used for wide pale lines only, under the crisp marks of the runs.
_BODIES = [
    ("#332288", "#a79bf0"),
    ("#b8860b", "#ddcc77"),
    ("#cc6677", "#e58a99"),
    ("#2a8c82", "#44aa99"),
    ("#aa4499", "#d987cb"),
    ("#5a8a1e", "#a3c964"),
    ("#2f86b0", "#88ccee"),
    ("#882255", "#d0679a"),
]
# Layers: an ordered ramp from the first layer (dark on light paper) to the last.
_LAYERS = [
    ("#440154", "#8e7cc3"),
    ("#46327e", "#7f8fd4"),
    ("#365c8d", "#6aa5d9"),
    ("#277f8e", "#55bcc9"),
    ("#1fa187", "#4fd0a5"),
    ("#4ac16d", "#85dd7f"),
    ("#8bb82a", "#bfe35c"),
    ("#c9a800", "#fde725"),
]
_PAPER = {
    "ink": ("#1c2024", "#e8eaed"),
    "muted": ("#5d6670", "#a3abb5"),
    "grid": ("#e2e6ea", "#2b3138"),
    "paper": ("#ffffff", "#15181c"),
    "shade": ("#f5f7f9", "#1e2328"),
}
COLOURS: dict[str, tuple[str, str]] = {
    **_PAPER,
    **{f"run-{k}": pair for k, pair in enumerate(_RUNS)},
    **{f"body-{k}": pair for k, pair in enumerate(_BODIES)},
    **{f"layer-{k}": pair for k, pair in enumerate(_LAYERS)},
}
_NAMES = list(COLOURS)
# A second sign beside the colour: (matplotlib marker, character in the legend).
RUN_MARKERS = [("x", "×"), ("+", "+"), ("1", "Y"), ("^", "▲"), ("s", "■"), ("d", "◆"), ("*", "★")]
MAX_POINTS = 400  # of a drawn line: finer than a pixel, and bounds the size of the page
N_RUNS, N_BODIES, N_LAYERS = len(_RUNS), len(_BODIES), len(_LAYERS)


def colour(name: str) -> str:
    """Placeholder colour to draw with, which `themed` replaces by the CSS variable `--name`.

    >>> themed(f'<path style="stroke: {colour("run-0")}"/>')
    '<path style="stroke: var(--run-0)"/>'
    """
    return f"#0a01{_NAMES.index(name):02x}"


def themed(svg: str) -> str:
    """Replaces every placeholder colour in the text of an SVG by its CSS variable."""
    return re.sub(r"#0a01([0-9a-f]{2})", lambda match: f"var(--{_NAMES[int(match[1], 16)]})", svg)


def _variables(theme: int) -> str:
    return "".join(f"--{name}:{pair[theme]};" for name, pair in COLOURS.items())


STYLE = (
    f""":root{{color-scheme:light dark;{_variables(0)}}}
@media (prefers-color-scheme:dark){{:root{{{_variables(1)}}}}}
@media print{{:root{{{_variables(0)}}}}}
"""
    + """*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,"DejaVu Sans",sans-serif}
main{max-width:70rem;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.7rem;line-height:1.25;margin:.4rem 0 .8rem;text-wrap:balance}
h2{font-size:1.25rem;margin:3rem 0 .4rem}
h3{font-size:1rem;margin:1.6rem 0 .2rem}
p{max-width:48rem;margin:.5rem 0}
.lead{font-size:1.1rem}
.note,figcaption,.how{color:var(--muted)}
.how,.note{font-size:.92rem}
.scroll{overflow-x:auto;margin:1rem 0;border:1px solid var(--grid);border-radius:.5rem}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;white-space:nowrap;font-size:.93rem}
th,td{padding:.45rem .55rem;text-align:right}
thead th{font-size:.85rem;font-weight:600;color:var(--muted);background:var(--shade);vertical-align:bottom;
white-space:normal}
thead .group{text-align:center;border-left:1px solid var(--grid);color:var(--ink)}
tbody tr{border-top:1px solid var(--grid)}
.first{border-left:1px solid var(--grid)}
th[scope=row],thead th.corner{text-align:left;position:sticky;left:0;background:var(--paper)}
thead th.corner{background:var(--shade)}
.best{font-weight:700}
.tag{display:inline-block;margin-right:.5rem;padding:0 .45rem;border-radius:1rem;font-size:.75rem;
font-weight:600;background:var(--ink);color:var(--paper)}
.dot{display:inline-block;width:.75rem;height:.75rem;border-radius:50%;margin-right:.5rem}
.panels{display:grid;gap:1rem 1.5rem;margin:.6rem 0}
.two{grid-template-columns:repeat(auto-fill,minmax(min(100%,26rem),1fr))}
.three{grid-template-columns:repeat(auto-fill,minmax(min(100%,19rem),1fr))}
figure{margin:0;min-width:0}
figure h4{font-size:.95rem;font-weight:600;margin:0 0 .1rem}
figure h4 small{font-weight:400;color:var(--muted);font-size:.88rem}
svg{display:block;width:100%;height:auto}
svg text{font-family:inherit!important}
.keys{display:flex;flex-wrap:wrap;gap:.2rem 1.3rem;margin:.5rem 0;padding:0;list-style:none;font-size:.92rem}
.keys b{display:inline-block;min-width:1.1rem;text-align:center;margin-right:.35rem;line-height:1}
.keys .line{height:.25rem;width:1.3rem;border-radius:.2rem;vertical-align:middle}
details{margin-top:3rem;border:1px solid var(--grid);border-radius:.5rem}
summary{cursor:pointer;padding:.7rem 1rem;font-weight:600}
pre{margin:0;padding:1rem;overflow-x:auto;background:var(--shade);font:13px/1.5 ui-monospace,Menlo,Consolas,
"DejaVu Sans Mono",monospace;border-radius:0 0 .5rem .5rem}
"""
)

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
$style</style>
</head>
<body>
<main>
<h1>$title</h1>
$body
</main>
</body>
</html>
""")


def run_colour(index: int) -> str:
    """Name of the colour of the run with this index, the same in the table and in all figures."""
    return f"run-{index % N_RUNS}"


def panel(*, width: float = 4.2, height: float = 3.0) -> tuple[Figure, Axes]:
    """An empty drawing of `width` by `height` inches on a transparent ground."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    figure.patch.set_alpha(0.0)
    axes.patch.set_alpha(0.0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(colour("muted"))
    axes.tick_params(which="both", colors=colour("muted"), labelsize=9.5)
    axes.grid(color=colour("grid"), linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def label_axes(axes: Axes, x: str, y: str) -> None:
    """Names both axes."""
    # Units come from the user: a dollar sign in them is no formula.
    axes.set_xlabel(x, color=colour("ink"), fontsize=10, parse_math=False)
    axes.set_ylabel(y, color=colour("ink"), fontsize=10, parse_math=False)


def figure_html(figure: Figure, heading: str, label: str) -> str:
    """The drawing as inline SVG under a heading (HTML); `label` is read aloud in its place."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]*)"', svg)
    assert box is not None
    svg = re.sub(r"<svg[^>]*>", f'<svg viewBox="{box[1]}" role="img" aria-label="{escape(label)}">', svg, count=1)
    # Group names repeat from panel to panel; only hashed names are ever referred to.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    return f"<figure><h4>{heading}</h4>{themed(svg)}</figure>"


def panel_grid(figures: Sequence[str], columns: str) -> str:
    """Panels side by side, at most "two" or "three" in a row, fewer where the screen is narrow."""
    return f'<div class="panels {columns}">{"".join(figures)}</div>'


def line_keys(entries: Sequence[tuple[str, str]]) -> str:
    """Legend of lines from pairs of a colour's name and a text."""
    items = "".join(f'<li><b class="line" style="background:var(--{c})"></b>{escape(text)}</li>' for c, text in entries)
    return f'<ul class="keys">{items}</ul>'


def thin(length: int, limit: int = MAX_POINTS) -> np.ndarray:
    """Indices of at most `limit` evenly spaced points, first and last among them."""
    return np.linspace(0, length - 1, min(length, limit)).round().astype(int)


def draw_line(axes: Axes, x: np.ndarray, y: np.ndarray, **style: Any) -> None:
    """A line through finite values; short ones with points, so that values between gaps stay visible."""
    keep = thin(len(x))
    axes.plot(x[keep], y[keep], marker="." if len(x) <= 30 else "", markersize=4, **style)
