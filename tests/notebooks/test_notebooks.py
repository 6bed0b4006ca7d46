"""Every notebook runs from top to bottom; their own checks are in them."""

import ast
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# what geoeq[train] installs, and Jupyter itself
INSTALLED = {"IPython", "geoeq", "matplotlib", "numpy", "torch", "torch_geometric"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # small tensors: a second thread only waits
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert all(cell.get("execution_count") for cell in notebook.cells if cell.cell_type == "code")


def test_notebooks_are_kept_without_output():
    assert NOTEBOOKS
    for path in NOTEBOOKS:
        cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        assert not any(cell.outputs for cell in cells), path.name


def test_notebooks_check_their_finding_and_end_with_a_question():
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        assert cells[0].source.startswith("# "), path.name
        assert cells[-1].source.startswith("## Your turn"), path.name
        assert cells[-2].source.count("assert ") > 2, path.name


def test_notebooks_import_what_the_training_extra_installs():
    for path in NOTEBOOKS:
        code = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        nodes = [node for node in ast.walk(ast.parse("\n".join(code))) if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {alias.name if isinstance(node, ast.Import) else node.module for node in nodes for alias in node.names}
        assert {name.split(".")[0] for name in names} <= INSTALLED | sys.stdlib_module_names, path.name


def test_readme_lists_every_notebook():
    text = (FOLDER.parent / "README.md").read_text(encoding="utf-8")
    assert not [path.name for path in NOTEBOOKS if f"(notebooks/{path.name})" not in text]
