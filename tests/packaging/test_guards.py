"""The folders layers/ and datasets/ must never be imported under their own names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(code: str, *flags: str, path: tuple[Path, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run ``code`` with the repository's root, then ``path``, in front of ``sys.path``."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, *path)))}
    return subprocess.run(
        [sys.executable, *flags, "-c", code], env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def namesake(tmp_path: Path) -> Path:
    """A folder that holds an installed package called datasets."""
    package = tmp_path / "datasets"
    package.mkdir()
    (package / "__init__.py").write_text("from datasets.part import value\n")
    (package / "part.py").write_text("value = 'the installed package'\n")
    return tmp_path


@pytest.mark.parametrize("code", ["import layers", "import layers.egnn", "from layers.egnn import EGNN"])
def test_layers_refuse_their_folder_name(code):
    result = run(code)
    assert result.returncode != 0
    assert "ImportError" in result.stderr
    assert "import geoeq.layers" in result.stderr


@pytest.mark.parametrize("code", ["import datasets", "import datasets.nbody"])
def test_datasets_refuse_their_folder_name_when_no_such_package_is_installed(code):
    result = run(code, "-S")  # without site-packages nobody's package of that name can be found
    assert result.returncode != 0
    assert "ImportError" in result.stderr
    assert "import geoeq.datasets" in result.stderr


def test_datasets_step_aside_for_an_installed_package(namesake):
    code = "import datasets, datasets.part; print(datasets.value, datasets.__file__); assert datasets.part.value"
    result = run(code, path=(namesake,))
    assert result.stdout.split() == [
        "the",
        "installed",
        "package",
        str(namesake / "datasets" / "__init__.py"),
    ]


def test_both_packages_live_side_by_side(namesake):
    code = "import datasets, geoeq.datasets; print(datasets.value, geoeq.datasets.NBody.__module__)"
    result = run(code, path=(namesake,))
    assert result.stdout.startswith("the installed package geoeq.datasets."), result.stderr
