"""Settings that every test shares: one thread, a fixed seed, hypothesis without surprises."""

from __future__ import annotations

import hypothesis
import pytest
import torch

torch.set_num_threads(1)

# No deadline: the first run of an op in torch can take a hundred times as long as the second.
hypothesis.settings.register_profile("graphprune", deadline=None, derandomize=True)
hypothesis.settings.load_profile("graphprune")


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Every test starts from the same random state, in whatever order the tests run."""
    torch.manual_seed(0)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked `cuda` where there is no device."""
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
