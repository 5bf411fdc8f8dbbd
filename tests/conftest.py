"""Settings that every test shares: one thread, a fixed seed, no settings of the terminal or the user."""

from __future__ import annotations

import os
from collections.abc import Iterator

import hypothesis
import pytest
import torch

torch.set_num_threads(1)

# No deadline: the first run of an op in torch can take a hundred times as long as the second.
hypothesis.settings.register_profile("graphprune", deadline=None, derandomize=True)
hypothesis.settings.load_profile("graphprune")


# What a user's terminal asks for, which libraries read when they are imported or asked for a width.
for _name in (
    "COLUMNS",
    "LINES",
    "NO_COLOR",
    "FORCE_COLOR",
    "CLICOLOR",
    "CLICOLOR_FORCE",
    "TTY_COMPATIBLE",
    "PY_COLORS",
):
    os.environ.pop(_name, None)
os.environ["TERM"] = "dumb"


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Latencies that the user has measured before do not count, and none are left behind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAPHPRUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Every test starts from the same random state, in whatever order the tests run."""
    torch.manual_seed(0)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked `cuda` where there is no device."""
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
