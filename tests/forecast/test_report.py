"""The report: what it says, that it stands alone, and that gaps in a run are told in words."""

from __future__ import annotations

import csv
import doctest
import importlib
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from geoeq.forecast.report import (
    RunRecord,
    TrajectorySample,
    last_levels,
    read_levels,
    read_metrics,
    write_report,
)

VOID = {"meta", "br", "hr", "img", "link", "input"}
MODULES = ["report", "report_records", "report_template", "report_trajectories", "figures"]


class Page(HTMLParser):
    """Checks that tags are balanced; collects cells, text and every address that the page refers to."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.n_panels = 0
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.n_panels += tag == "svg"
        if tag in ("td", "th"):
            self.cells.append("")
        self.addresses += [value for key, value in attrs if key in ("src", "href", "xlink:href", "data")]

    def handle_startendtag(self, tag, attrs):
        self.addresses += [value for key, value in attrs if key in ("src", "href", "xlink:href", "data")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.text += data
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data


def metric_rows(n_epochs=5, scale=1.0):
    rows = []
    for epoch in range(n_epochs):
        rows.append({"epoch": epoch, "step": epoch * 10, "train_loss": scale / (epoch + 1)})
        rows.append({"epoch": epoch, "step": epoch * 10, "val_loss": 1.1 * scale / (epoch + 1)})
    return rows


def level_rows(layers=("layers.0", "layers.1"), types=("rotation", "translation"), n_epochs=4):
    return [
        {
            "epoch": epoch,
            "layer": layer,
            "symmetry": symmetry,
            "level": 0.1 * epoch + 0.01 * k,
            "strength": 1.0,
        }
        for epoch in range(n_epochs)
        for k, layer in enumerate(layers)
        for symmetry in types
    ]


def sample(seed=0, n_bodies=5, error=0.1, **options):
    generator = np.random.default_rng(seed)
    position, velocity = generator.normal(size=(2, n_bodies, 3))
    path = position + np.linspace(0, 1, 11)[:, None, None] * velocity
    return TrajectorySample(position, velocity, path[-1], path[-1] + error, path, **options)


def record(name="soft", **changes):
    summary = {
        "test_mse": 0.0211,
        "equivariance_error": {"rotation": 0.183, "translation": 2.3e-7},
        "level": {"rotation": 0.324},
        "seconds": 78.91,
        "parameters": 25123,
    }
    parts = {"summary": summary, "metrics": metric_rows(), "levels": level_rows(), "trajectories": [sample()]}
    return RunRecord(name, **{**parts, **changes})


def page_of(tmp_path, runs, **options):
    html = write_report(tmp_path / "report.html", title="A title", runs=runs, **options).read_text(encoding="utf-8")
    return Page(html), html


def write_csv(path, rows):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_table_holds_the_numbers_and_marks_the_lowest_error(tmp_path):
    exact = record("exact", summary={"test_mse": 0.0912, "seconds": 71}, levels=None)
    page, _ = page_of(tmp_path, [exact, record()])
    for cell in [
        "exact",
        "soft",
        "0.0912",
        "lowest0.0211",
        "0.183",
        "2.30e-07",
        "0.324",
        "78.9",
        "25,123",
        "–",
    ]:
        assert cell in page.cells
    assert "soft has the lowest test MSE: 0.0211, against 0.0912 for exact." in page.text


def test_a_single_run_is_not_called_the_lowest(tmp_path):
    page, _ = page_of(tmp_path, [record()])
    assert "lowest" not in "".join(page.cells)
    assert "soft: test MSE 0.0211." in page.text


def test_further_errors_are_columns_with_their_usual_names_and_are_explained(tmp_path):
    more = {"test_mse": 1.0, "ade": 0.25, "fde": 0.5, "f_mse": 0.75, "min_ade_20": 0.125, "true_energy_drift": 0.01}
    page, _ = page_of(tmp_path, [record(summary=more)], length_unit="m")
    for cell in ("test MSE", "ADE", "FDE", "F-MSE", "minADE 20", "true energy drift", "0.250", "0.125", "0.0100"):
        assert cell in page.cells
    for text in ("ADE, FDE: mean distance (m)", "of the best of several samples", "Drift: how far"):
        assert text in page.text
    plain, _ = page_of(tmp_path, [record()])
    assert not any(text in plain.text for text in ("ADE", "Drift"))


@pytest.mark.parametrize(
    ("up", "side", "above"),
    [("z", "xz plane", "xy plane"), ("y", "zy plane", "zx plane"), ("x", "yx plane", "yz plane")],
)
def test_pictures_are_seen_from_where_up_is_up(tmp_path, up, side, above):
    page, _ = page_of(tmp_path, [record(trajectories=[sample(up=up)])])
    assert f"Seen from the side {side}" in page.text
    assert f"Seen from above {above}" in page.text
    with pytest.raises(ValueError, match="up must be x, y or z, got 'up'"):
        sample(up="up")


def test_equal_errors_share_the_mark(tmp_path):
    page, _ = page_of(tmp_path, [record("soft"), record("free"), record("exact", summary={"test_mse": 1.0})])
    assert page.cells.count("lowest0.0211") == 2
    assert "free and soft share the lowest test MSE: 0.0211, against 1.00 for exact." in page.text


def test_levels_of_the_table_default_to_the_last_epoch(tmp_path):
    assert last_levels(level_rows()) == pytest.approx({"rotation": 0.31, "translation": 0.31})
    page, _ = page_of(tmp_path, [record(summary={"test_mse": 1.0})])
    assert "0.310" in page.cells


def test_page_stands_alone_and_is_small(tmp_path):
    names = [f"layers.{k}.weight_{j}" for k in range(6) for j in range(20)]
    levels = level_rows(names, ("rotation", "about the field", "translation", "permutation"), n_epochs=60)
    runs = [record(name, levels=levels, trajectories=[sample(k) for k in range(6)]) for name in ("soft", "free")]
    page, html = page_of(tmp_path, runs, config_text="trainer:\n  max_epochs: 60", notes=["5 bodies"])
    assert len(html.encode()) < 2_000_000
    assert page.n_panels == 2 + 2 * 4 + 4 * 3
    assert all(address.startswith("#") for address in page.addresses)
    assert "http" not in html
    assert re.findall(r"url\((?!#)", html) == []
    assert "prefers-color-scheme:dark" in html
    assert "max_epochs: 60" in page.text
    assert "5 bodies" in page.text
    assert "The first 4 of 6 test graphs are drawn." in page.text
    assert "120 linear maps in all" in page.text


def test_drawings_follow_the_theme(tmp_path):
    _, html = page_of(tmp_path, [record()])
    drawings = "".join(re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL))
    assert set(re.findall(r"#[0-9a-f]{6}\b(?![0-9a-f\"])", drawings)) <= {"#ffffff"}
    for name in re.findall(r"var\((--[\w-]+)\)", html):
        assert f"{name}:#" in html


def test_same_records_give_the_same_bytes(tmp_path):
    (tmp_path / "again").mkdir()
    assert page_of(tmp_path, [record()])[1] == page_of(tmp_path / "again", [record()])[1]


def test_text_from_outside_is_escaped(tmp_path):
    run = record("<b>a & b</b>", levels=level_rows(types=("<i>$x_</i>",)))
    _, html = page_of(tmp_path, [run], config_text="</pre><script>", length_unit="$m$ <s>", notes="a < b")
    assert "<b>a" not in html
    assert "<script" not in html
    assert "<i>" not in html
    assert "<s>" not in html


def test_missing_parts_are_told_in_words(tmp_path):
    page, _ = page_of(tmp_path, [record("exact", summary={}, metrics=None, levels=None, trajectories=[])])
    assert "No run has a finite test MSE." in page.text
    assert "exact recorded no training loss." in page.text
    assert "There are no loss curves to draw." in page.text
    assert "No levels were recorded for exact." in page.text
    assert "No trajectories were recorded for exact." in page.text
    assert page.n_panels == 0


def test_values_that_are_not_finite_are_told_in_words(tmp_path):
    nan = float("nan")
    rows = metric_rows()
    rows[0]["train_loss"], rows[3]["val_loss"], rows[5]["val_loss"] = nan, float("inf"), 0.0
    levels = level_rows()
    levels[-1]["level"] = nan
    far = sample()
    far.predicted[0], far.predicted[1] = nan, 1e6
    run = record(summary={"test_mse": nan}, metrics=rows, levels=levels, trajectories=[far])
    page, _ = page_of(tmp_path, [run, record("free")])
    assert "NaN" in page.cells
    assert "free: test MSE 0.0211." in page.text
    assert "soft: training losses that are not finite and positive, left out: 1." in page.text
    assert "soft: validation losses that are not finite and positive, left out: 2." in page.text
    assert "Levels that are not finite, left out: 1." in page.text
    assert "does not end at a finite level" in page.text
    assert "soft: 1 of 5 predictions are not finite" in page.text
    assert "soft: 1 of 5 predictions lie outside the picture" in page.text


def test_only_nan_losses(tmp_path):
    rows = [{"epoch": 0, "train_loss": float("nan"), "val_loss": float("nan")}]
    page, _ = page_of(tmp_path, [record(metrics=rows)])
    assert "There are no loss curves to draw." in page.text


@pytest.mark.parametrize("n_bodies", [1, 2, 40])
def test_any_number_of_bodies_even_at_rest(tmp_path, n_bodies):
    still = np.zeros((n_bodies, 3))
    runs = [record(trajectories=[sample(n_bodies=n_bodies), TrajectorySample(still, still, still, still)])]
    page, _ = page_of(tmp_path, runs)
    assert ("the 12 worst bodies" in page.text) == (n_bodies > 12)


def test_page_of_many_bodies_and_frames_is_small(tmp_path):
    position, velocity, target = np.random.default_rng(0).normal(size=(3, 100, 3))
    path = np.random.default_rng(1).normal(size=(3000, 100, 3))
    graphs = [TrajectorySample(position + k, velocity, target, target, path) for k in range(4)]
    _, html = page_of(tmp_path, [record(name, trajectories=graphs) for name in ("exact", "soft", "free")])
    assert len(html.encode()) < 2_000_000


def test_samples_of_one_test_graph_share_a_picture(tmp_path):
    runs = [record(name, trajectories=[sample(3, error=e, name="Graph 3")]) for name, e in (("a", 0.1), ("b", 0.2))]
    page, _ = page_of(tmp_path, runs)
    assert page.text.count("Graph 3") == 1
    other = [runs[0], record("b", trajectories=[sample(4, name="Graph 4")])]
    assert "Graph 4" in page_of(tmp_path, other)[0].text


def test_tensors_are_accepted():
    position = torch.zeros(4, 3, requires_grad=True)
    assert TrajectorySample(position, position, position, position).path().shape == (2, 4, 3)


def test_csv_files_of_a_run(tmp_path):
    metrics = write_csv(tmp_path / "metrics.csv", metric_rows())
    levels = write_csv(tmp_path / "levels.csv", level_rows())
    assert read_metrics(metrics) == metric_rows()
    assert read_levels(levels) == level_rows()
    from_files = page_of(tmp_path, [record(metrics=metrics, levels=str(levels))])[1]
    assert from_files == page_of(tmp_path, [record()])[1]


def test_empty_csv_file_is_a_run_without_metrics(tmp_path):
    (tmp_path / "metrics.csv").touch()
    assert read_metrics(tmp_path / "metrics.csv") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch,train_loss\n0,abc\n", r"line 2.*'abc'"),
        ("epoch,train_loss\n0,1.0,2.0\n", "line 2: more cells than columns"),
    ],
)
def test_bad_metrics(tmp_path, text, message):
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_metrics(tmp_path / "metrics.csv")


def test_bad_levels(tmp_path):
    path = tmp_path / "levels.csv"
    path.write_text("epoch,layer,level\n0,a,0.1\n")
    with pytest.raises(ValueError, match="lacks symmetry"):
        read_levels(path)
    with pytest.raises(ValueError, match=r"levels of run 'soft'.*lacks level"):
        record(levels=[{"epoch": 0, "layer": "a", "symmetry": "b"}]).level_rows()


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file: .*gone\.csv"):
        read_levels(tmp_path / "gone.csv")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        write_report(tmp_path / "gone" / "report.html", title="", runs=[record()])


def test_bad_records(tmp_path):
    path = tmp_path / "report.html"
    with pytest.raises(ValueError, match="runs must be a non-empty list"):
        write_report(path, title="", runs=[])
    with pytest.raises(ValueError, match="different names"):
        write_report(path, title="", runs=[record(), record()])
    with pytest.raises(ValueError, match="run 'soft': test_mse must be a number, got 'low'"):
        write_report(path, title="", runs=[record(summary={"test_mse": "low"})])
    assert not path.exists()


def test_bad_samples():
    zeros = np.zeros((5, 3))
    with pytest.raises(ValueError, match=r"velocity must be \[5, 3\], got \[4, 3\]"):
        TrajectorySample(zeros, zeros[:4], zeros, zeros)
    with pytest.raises(ValueError, match=r"position must be \[\*, 3\], got \[5, 2\]"):
        TrajectorySample(zeros[:, :2], zeros, zeros, zeros)
    with pytest.raises(ValueError, match=r"true_path must be \[\*, 5, 3\], got \[5, 3\]"):
        TrajectorySample(zeros, zeros, zeros, zeros, zeros)
    with pytest.raises(ValueError, match="velocity must be finite, got nan"):
        TrajectorySample(zeros, zeros + np.nan, zeros, zeros)
    with pytest.raises(ValueError, match="at least one body"):
        TrajectorySample(zeros[:0], zeros[:0], zeros[:0], zeros[:0])


def test_failed_write_keeps_the_old_page(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def fail(source, target):
        assert Path(source).read_text(encoding="utf-8").rstrip().endswith("</html>")
        raise OSError("disk full")

    monkeypatch.setattr("geoeq.forecast.report.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(path, title="", runs=[record()])
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    assert doctest.testmod(importlib.import_module(f"geoeq.forecast.{name}")).failed == 0
