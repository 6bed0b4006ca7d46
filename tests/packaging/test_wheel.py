"""What is published: the built wheel holds every source file and works where there is no checkout."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from email.parser import Parser
from pathlib import Path
from shutil import copy, copytree, ignore_patterns

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]

USE = """
import importlib.metadata
import importlib.resources
import multiprocessing
import pickle
import sys
from pathlib import Path

import torch

import geoeq
import geoeq.datasets
import geoeq.layers
from geoeq.datasets.nbody import simulate


def norm(model):
    return float(sum(p.detach().square().sum() for p in model.parameters()))


if __name__ == "__main__":
    for module in geoeq, geoeq.layers, geoeq.datasets:
        assert Path(module.__file__).is_relative_to(sys.prefix), module.__file__
    assert geoeq.__version__ == importlib.metadata.version("geoeq")
    assert (importlib.resources.files("geoeq") / "py.typed").is_file()
    assert (importlib.resources.files("geoeq") / "configs" / "nbody.yaml").is_file()
    assert simulate(2, n_steps=200).pos.shape[0] == 2
    layer = geoeq.layers.TypedLinear("2x0e + 1x1o", "1x0e + 1x1o")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(norm, (layer,)) == norm(layer)
    print("works")
"""


def call(*command: str | Path, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean copy of what a release is made from: a stale build folder would put old files in the wheel."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        copy(ROOT / name, folder)
    for name in ("geoeq", "layers", "datasets", "configs"):
        copytree(ROOT / name, folder / name, symlinks=True, ignore=ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path) -> Path:
    """The wheel that is built from the sdist, as for a package index."""
    call(sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist", ".", cwd=source)
    (path,) = (source / "dist").glob("*.whl")
    return path


def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_wheel_holds_every_source_file_and_nothing_else(source, wheel):
    expected = {
        (Path(folder) / name).relative_to(source).as_posix()
        for folder, _, names in os.walk(source / "geoeq", followlinks=True)
        for name in names
    }
    assert contents(wheel) == expected


def test_wheel_built_without_an_sdist_is_the_same(source, wheel):
    call(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", "direct", ".", cwd=source)
    (direct,) = (source / "direct").glob("*.whl")
    assert contents(direct) == contents(wheel)


def test_wheel_works_in_a_clean_environment(wheel, tmp_path):
    venv.create(tmp_path / "venv", with_pip=False, symlinks=os.name != "nt")
    python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    call(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    # Torch and the other dependencies come from this environment. Path files inside a folder that a path file
    # names are not read, so an editable install of geoeq stays out of sight.
    site = call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (tmp_path / "use.py").write_text(USE)
    assert call(python, "-I", "use.py", cwd=tmp_path).strip().endswith("works")
    assert (python.parent / ("geoeq.exe" if os.name == "nt" else "geoeq")).is_file()


def test_every_dependency_is_pinned_to_a_version_it_allows(wheel):
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            if pin.marker is None or pin.marker.evaluate():
                pins[pin.name] = str(pin.specifier).removeprefix("==")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    wanted = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    assert {"torch", "torch-geometric", "e3nn", "numpy", "scipy"} <= {r.name for r in wanted}
    for requirement in wanted:
        if requirement.name not in {"geoeq", "triton"}:  # a torch for GPUs allows one version of triton only
            assert pins[requirement.name] in requirement.specifier, requirement
