"""The report of a forecasting run or comparison: one self-contained HTML page."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path

import numpy as np

from geoeq.forecast.figures import level_section, loss_section
from geoeq.forecast.report_records import (
    GROUPS,
    TEST_MSE,
    Column,
    RunRecord,
    TrajectorySample,
    column_title,
    last_levels,
    read_levels,
    read_metrics,
    words,
)
from geoeq.forecast.report_template import PAGE, STYLE, run_colour
from geoeq.forecast.report_trajectories import trajectory_section
from geoeq.forecast.runs import write_text

__all__ = ["RunRecord", "TrajectorySample", "last_levels", "read_levels", "read_metrics", "write_report"]


def format_number(value: float | None) -> str:
    """Three significant digits; large whole numbers in full.

    >>> format_number(0.071), format_number(1e-7), format_number(25123.0), format_number(None)
    ('0.0710', '1.00e-07', '25,123', '–')
    """
    if value is None:
        return "–"
    if value == 0 or (abs(value) >= 100 and np.isfinite(value)):
        return f"{value:,.0f}"
    return f"{value:#.3g}" if np.isfinite(value) else "NaN" if np.isnan(value) else f"{value:g}"


def _lead(runs: Sequence[RunRecord], errors: Sequence[float]) -> str:
    """One sentence with the outcome, for the reader who reads nothing else."""
    known = sorted((error, run.name) for error, run in zip(errors, runs, strict=True) if np.isfinite(error))
    if not known:
        return "No run has a finite test MSE."
    best = format_number(known[0][0])
    if len(known) == 1:
        return f"{known[0][1]}: test MSE {best}."
    first = [name for error, name in known if format_number(error) == best]
    rest = [f"{format_number(error)} for {name}" for error, name in known[len(first) :]]
    verb = "has" if len(first) == 1 else "share"
    return f"{words(first)} {verb} the lowest test MSE: {best}{', against ' if rest else ''}{words(rest)}."


def _order(column: Column) -> int:
    """Place in the table: the test error, the equivariance errors, the levels, then everything else."""
    return 0 if column == TEST_MSE else [*GROUPS, ""].index(column[0]) + 1


def _head(columns: Sequence[Column]) -> str:
    """Two header rows: the groups with the names of their columns below."""
    above, below = "", ""
    for group, members in groupby(columns, key=lambda column: column[0]):
        names = [escape(column_title(name)) for _, name in members]
        if group:
            above += f'<th scope="colgroup" colspan="{len(names)}" class="group">{GROUPS[group]}</th>'
            below += "".join(f'<th scope="col"{_border(k)}>{name}</th>' for k, name in enumerate(names))
        else:
            above += "".join(f'<th scope="col" rowspan="2"{_border(k)}>{name}</th>' for k, name in enumerate(names))
    return f'<tr><th class="corner" rowspan="2">run</th>{above}</tr><tr>{below}</tr>'


def _border(place_in_group: int) -> str:
    return ' class="first"' if place_in_group == 0 else ""


def _body_row(index: int, name: str, row: Mapping[Column, float], columns: Sequence[Column], best: str) -> str:
    dot = f'<span class="dot" style="background:var(--{run_colour(index)})"></span>'
    html = f'<th scope="row">{dot}{escape(name)}</th>'
    for _, members in groupby(columns, key=lambda column: column[0]):
        for k, column in enumerate(members):
            value = row.get(column)
            text = format_number(value)
            if column == TEST_MSE and text == best:
                html += f'<td class="first best"><span class="tag">lowest</span>{text}</td>'
            else:
                html += f"<td{_border(k)}>{text}</td>"
    return f"<tr>{html}</tr>"


def _table(runs: Sequence[RunRecord], length_unit: str) -> str:
    """The outcome in one sentence and the table, one row a run."""
    cells = [run.cells() for run in runs]
    columns = sorted(dict.fromkeys([TEST_MSE, *(column for row in cells for column in row)]), key=_order)
    errors = [row.get(TEST_MSE, np.nan) for row in cells]
    finite = [error for error in errors if np.isfinite(error)]
    best = format_number(min(finite)) if len(finite) > 1 else ""
    rows = zip(runs, cells, strict=True)
    body = "".join(_body_row(index, run.name, row, columns, best) for index, (run, row) in enumerate(rows))
    return (
        f'<p class="lead">{escape(_lead(runs, errors))}</p>'
        f'<div class="scroll"><table><thead>{_head(columns)}</thead><tbody>{body}</tbody></table></div>'
        '<p class="how">Test MSE: mean squared error of a predicted coordinate, '
        f"in ({escape(length_unit)})²; lower is better. Equivariance error: how much the prediction changes, "
        "relative to its size, when the input is moved by the symmetry and the output moved back; 0 is "
        "exact. Level: 0 is an exact symmetry, 1 no more symmetric than random weights. A dash is a number "
        f"that was not recorded.{_more(columns, length_unit)}</p>"
    )


def _more(columns: Sequence[Column], length_unit: str) -> str:
    """What the errors of paths are, where there are any."""
    names = " ".join(name for _, name in columns)
    text = ""
    if "fde" in names:
        text += (
            f" ADE, FDE: mean distance ({escape(length_unit)}) from the true positions, over all target frames and at "
            "the last one. A-MSE, F-MSE: the same of the mean squared error."
        )
    if "min_" in names:
        text += " minADE, minFDE: of the best of several samples, chosen for each node or, joint, for all at once."
    if "drift" in names:
        text += (
            " Drift: how far a forecast is from conserving energy or momentum, median over graphs; true: what the same "
            "measure says of the true positions, which are known at the frames alone."
        )
    return text


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    runs: Sequence[RunRecord],
    config_text: str = "",
    notes: Sequence[str] = (),
    length_unit: str = "length units",
) -> Path:
    """Writes the report of one run, or of several side by side, as one HTML file that needs nothing else.

    Args:
        path: file to write; replaced at once when the page is complete, so a half-written page is never seen.
        title: heading of the page.
        runs: one record a run; their order fixes colours and rows.
        config_text: full configuration, shown folded.
        notes: paragraphs of plain text under the heading, such as what the data are.
        length_unit: unit of positions, for axes and captions.

    Returns:
        The path.

    Raises:
        ValueError: `runs` is empty, two runs share a name, or a record or CSV file holds no number where one
            is expected.
        FileNotFoundError: the folder of `path`, or a CSV file named in a record, does not exist.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> run = RunRecord("soft", {"test_mse": 0.02, "equivariance_error": {"rotation": 0.1}})
        >>> write_report(f"{folder}/report.html", title="Demo", runs=[run]).name
        'report.html'
    """
    path = Path(path)
    names = [run.name for run in runs]
    if not runs or len(set(names)) < len(names):
        raise ValueError(f"runs must be a non-empty list with different names, got {names}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no such folder: {path.parent}")
    sections = [
        *(f"<p>{escape(note)}</p>" for note in ([notes] if isinstance(notes, str) else notes)),
        _table(runs, length_unit),
        "<h2>Learning</h2>" + loss_section(runs),
        "<h2>Levels of symmetry over time</h2>" + level_section(runs),
        "<h2>Predicted and true positions</h2>" + trajectory_section(runs, length_unit),
    ]
    if config_text:
        config = f"<pre>{escape(config_text)}</pre>"
        sections.append(f"<details><summary>Full configuration</summary>{config}</details>")
    page = PAGE.substitute(title=escape(title), style=STYLE, body="\n".join(sections))
    write_text(path, page)
    return path
