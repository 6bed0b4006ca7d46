"""What every test runs under: fixed seeds, few threads, hypothesis without deadlines or chance."""

import os
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent

hypothesis.settings.register_profile("geoeq", deadline=None, max_examples=20, derandomize=True)
hypothesis.settings.load_profile("geoeq")


if not torch.cuda.is_available():  # before anything imports triton, the conftest of a folder among it
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_configure() -> None:
    torch.set_num_threads(1)  # as fast for sizes like these, and no stalls beside other work


@pytest.fixture(autouse=True)
def seed() -> int:
    """Every test starts from the same random state, whatever ran before it."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries that still use the global state
    return 0


@pytest.fixture(autouse=True)
def unchanged_defaults():
    """No test may leave another default dtype or determinism behind."""
    dtype, deterministic = torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_default_dtype(dtype)
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real recordings kept beside the repository; tests that need them are skipped elsewhere."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the folder ../shared/data is not beside this checkout")
    return folder
