"""Every module imports, imports only point downwards, and importing is cheap."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import geoeq

CORE = {"geoeq", "geoeq.groups", "geoeq.reps", "geoeq.intertwiners", "geoeq.frames", "geoeq.ops"}
# What the parts of each room may import from geoeq; a part that is not listed here belongs to the core.
MAY_IMPORT = {
    "geoeq.layers": CORE | {"geoeq.layers"},
    "geoeq.datasets": CORE | {"geoeq.datasets"},
    "geoeq.soft": CORE | {"geoeq.soft"},
    "geoeq.audit": CORE | {"geoeq.soft", "geoeq.audit"},
    "geoeq.bench": CORE | {f"geoeq.{part}" for part in ("layers", "datasets", "soft", "bench")},
    "geoeq.forecast": CORE | {f"geoeq.{part}" for part in ("layers", "datasets", "soft", "audit", "forecast")},
    "geoeq.cli": CORE
    | {f"geoeq.{part}" for part in ("layers", "datasets", "soft", "audit", "forecast", "bench", "cli")},
    "geoeq.__main__": {"geoeq.cli"},
}
TRAINING_ONLY = {"lightning", "pytorch_lightning", "jsonargparse", "rich", "matplotlib"}
MODULES = sorted(module.name for module in pkgutil.walk_packages(geoeq.__path__, "geoeq."))


def room(module: str) -> str:
    """The part of geoeq that a dotted name belongs to: ``geoeq.soft.levels`` -> ``geoeq.soft``."""
    return ".".join(module.split(".")[:2])


def imports(path: Path) -> set[str]:
    """Dotted names that a source file imports anywhere, inside functions included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: import by the dotted name, not relatively"
            assert node.module is not None
            whole = node.module == "geoeq"
            found |= {f"geoeq.{alias.name}" for alias in node.names} if whole else {node.module}
    return found


def test_the_walk_finds_every_file():
    (root,) = geoeq.__path__
    files = [path for folder in ("", "layers", "datasets") for path in (Path(root) / folder).rglob("*.py")]
    names = {".".join(("geoeq", *path.relative_to(root).with_suffix("").parts)) for path in files}
    assert {name.removesuffix(".__init__") for name in names} - {"geoeq"} == set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_module_imports_by_its_dotted_name(name):
    if name.startswith("geoeq.ops.triton_kernels."):
        pytest.importorskip("triton")
    assert importlib.import_module(name).__name__ == name


@pytest.mark.parametrize("name", MODULES)
def test_arrows(name):
    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    wanted = imports(Path(spec.origin))
    rooms = {room(module) for module in wanted if module.split(".")[0] == "geoeq"} - {"geoeq.__version__"}
    assert rooms <= MAY_IMPORT.get(room(name), CORE)
    if room(name) not in {"geoeq.forecast", "geoeq.bench", "geoeq.cli"}:
        assert not {module.split(".")[0] for module in wanted} & TRAINING_ONLY


@pytest.mark.parametrize(
    ("name", "forbidden"),
    [("geoeq", "torch"), ("geoeq.layers", "lightning"), ("geoeq.datasets", "lightning")],
)
def test_import_is_light(name, forbidden):
    code = f"import sys, {name}; sys.exit({forbidden!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
