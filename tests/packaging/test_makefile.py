"""The targets that a stranger meets first."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*arguments: str, folder: Path = ROOT, **more: str) -> subprocess.CompletedProcess[str]:
    # An outer make hands its own variables down to the makes inside it.
    own = {"MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "MFLAGS"}
    environment = {key: value for key, value in os.environ.items() if key not in own} | more
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_without_a_target_make_lists_them():
    listed = make().stdout
    assert all(f"  {target} " in listed for target in ("install", "forecast", "test", "lint", "scatter"))


@pytest.mark.parametrize(
    ("python", "found"),
    [("no-such-python", "there is no no-such-python"), ("./old", "./old is Python 3.9.1")],
)
def test_a_missing_or_old_python_is_named_in_one_line(checkout, python, found):
    script(checkout / "old", '[ "$1" = --version ] && echo Python 3.9.1 || exit 1')
    result = make("install", f"PYTHON={python}", folder=checkout)
    message, *rest = result.stderr.strip().splitlines()
    assert result.returncode != 0
    assert message.startswith("geoeq needs Python 3.10 to 3.13")
    assert found in message
    assert all(line.startswith("make") for line in rest)
    assert not (checkout / ".venv").exists()


def test_a_failed_install_is_tried_again_and_a_good_one_is_not(checkout):
    (checkout / ".venv" / "bin").mkdir(parents=True)
    environment = checkout / ".venv" / "bin" / "python"
    script(environment, 'echo "$@" >> calls; [ -z "$FAIL" ] || [ "$3" != install ]')
    assert make("install", folder=checkout, FAIL="yes").returncode != 0
    assert make("install", folder=checkout).returncode == 0
    calls = (checkout / "calls").read_text()
    assert calls.count("-m pip install") == 2
    assert make("install", folder=checkout).returncode == 0
    assert (checkout / "calls").read_text() == calls


def test_installing_for_tests_covers_training(checkout):
    (checkout / ".venv" / "bin").mkdir(parents=True)
    script(checkout / ".venv" / "bin" / "python", 'echo "$@" >> calls')
    assert make("test", folder=checkout).returncode == 0
    assert make("forecast", "ARGS=--help", folder=checkout).returncode == 0
    calls = (checkout / "calls").read_text()
    assert calls.count("-m pip install") == 1
    assert "-m geoeq compare --config configs/nbody.yaml --help" in calls
