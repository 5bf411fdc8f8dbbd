"""Peak memory and time of a step: what the allocator was asked for, and who runs when."""

from __future__ import annotations

import copy
import time
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from graphprune.errors import OptionError
from graphprune.research.metrics import time_inference, time_training, training_memory
from graphprune.research.metrics.memory import added_on_cpu

MIB = 2**20


def mlp(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def batch(device: str = "cpu") -> tuple[Tensor, Tensor]:
    return torch.randn(512, 64, device=device), torch.randint(10, (512,), device=device)


def test_allocations_by_hand() -> None:
    def work() -> None:
        first = torch.empty(MIB, dtype=torch.uint8)
        second = torch.empty(3 * MIB, dtype=torch.uint8)
        del first
        third = torch.empty(2 * MIB, dtype=torch.uint8)
        del second, third
        torch.empty(4 * MIB, dtype=torch.uint8)

    # second and third together; the allocator may round up to its alignment of 64 bytes
    assert 5 * MIB <= added_on_cpu(work) <= 5 * MIB + 1024


def check_memory(device: str) -> None:
    narrow, wide = (training_memory(mlp(width).to(device), batch(device)) for width in (256, 2048))
    for width, memory in ((256, narrow), (2048, wide)):
        weights = 4 * (64 * width + width + width * 10 + 10)
        # weights and two moments, each of which counts its steps in a scalar of its own
        assert 3 * weights <= memory.resident_bytes <= 3 * weights + 4 * 1024
        hidden = 4 * 512 * width
        # at least the gradients, and two of what is as large as the hidden layer (ReLU keeps its result, and the
        # gradient of it is there with it); at most five of them, temporary gradients, and a workspace
        assert weights + 2 * hidden - 4096 <= memory.added_bytes <= 3 * weights + 5 * hidden + 32 * MIB
    assert wide.peak_bytes > narrow.peak_bytes
    assert wide.to_dict()["peak_bytes"] == wide.resident_bytes + wide.added_bytes


def test_memory_of_a_step() -> None:
    check_memory("cpu")


@pytest.mark.cuda
def test_memory_of_a_step_on_cuda() -> None:
    check_memory("cuda")


def test_networks_stay_as_they_are() -> None:
    model = nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10)).eval()
    before = copy.deepcopy(model.state_dict())
    training_memory(model, batch())
    time_training({"it": model}, batch(), warmup=1, repeats=1)
    time_inference({"it": model}, batch()[0], warmup=1, repeats=1)
    assert not model.training and all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Slow(nn.Module):
    """Takes its time, more of it when it trains, and notes who ran."""

    ran: ClassVar[list[str]] = []

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.fc = name, nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        Slow.ran.append(self.name)
        time.sleep(0.02 if self.training else 0.005)
        out: Tensor = self.fc(x)
        return out


def test_times_are_apart_and_in_turns() -> None:
    models = {"a": Slow("a"), "b": Slow("b")}
    Slow.ran.clear()
    training = time_training(models, batch(), warmup=1, repeats=3)
    assert Slow.ran == ["a", "b"] + ["a", "b"] * 3
    inference = time_inference(models, batch()[0], warmup=2, repeats=3)
    assert Slow.ran[8:] == ["a", "a", "b", "b"] + ["a", "b"] * 3
    for name in models:
        # sleep never ends early
        assert len(training[name].samples) == 3 and training[name].median_ms >= 20
        assert 5 <= inference[name].median_ms < training[name].median_ms


@pytest.mark.cuda
def test_times_on_cuda() -> None:
    models = {"narrow": mlp(256).cuda(), "wide": mlp(65536).cuda()}
    for times in (time_training(models, batch("cuda")), time_inference(models, batch("cuda")[0])):
        assert 0 < times["narrow"].median_ms < times["wide"].median_ms


def test_what_cannot_be_timed_is_refused() -> None:
    with pytest.raises(OptionError, match="warmup and repeats of 1 or more"):
        time_inference({}, torch.zeros(1, 64))
    with pytest.raises(OptionError, match="on one device"):
        time_inference({"a": mlp(2), "b": mlp(2).to("meta")}, torch.zeros(1, 64))
    with pytest.raises(OptionError, match="the CPU and on CUDA"):
        training_memory(mlp(2).to("meta"), batch())
