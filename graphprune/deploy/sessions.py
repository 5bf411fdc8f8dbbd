"""Sessions of onnxruntime on a provider that is known to run, with inputs and outputs that stay on the device."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from graphprune.errors import ArtifactError, InputError, OptionError

_log = logging.getLogger(__name__)

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

_ERRORS_ONLY = 3
"""Severity of onnxruntime's own log: 0 verbose, 1 info, 2 warning, 3 error, 4 fatal."""


@dataclass(frozen=True)
class NodePlacement:
    """Where the nodes of one optimised model ran.

    Attributes:
        nodes: Number of nodes that ran, after onnxruntime's fusions.
        on_cpu: Number of nodes that ran on the CPU provider.
        cpu_ops: Operators of the nodes on the CPU provider, sorted, each once.
    """

    nodes: int
    on_cpu: int
    cpu_ops: tuple[str, ...]

    @property
    def cpu_share(self) -> float:
        """Share of the nodes that ran on the CPU provider, in [0, 1]."""
        return self.on_cpu / self.nodes if self.nodes else 0.0


def choose_provider(requested: str) -> tuple[str, str]:
    """Choose the execution provider for a request; say why it is not CUDA (empty where it is).

    Args:
        requested: "auto" (CUDA where there is a device, else the CPU), "cpu" or "cuda".

    Raises:
        OptionError: If the name is unknown, or CUDA is requested where it cannot run.
    """
    if requested not in ("auto", "cpu", "cuda"):
        raise OptionError(f"provider={requested!r} is unknown; use 'auto', 'cpu' or 'cuda'")
    if requested == "cpu":
        return CPU, "the CPU was asked for"
    obstacle = _cuda_obstacle()
    if not obstacle:
        return CUDA, ""
    if requested == "cuda":
        raise OptionError(f"provider='cuda' cannot run here: {obstacle}; use provider='auto' or provider='cpu'")
    return CPU, obstacle


MOST_THREADS = 16
"""Threads on each core at most: with more a run takes minutes, and says nothing."""


def open_session(path: Path, provider: str, threads: int, profile_prefix: str | None = None) -> Any:
    """Open a session whose first provider is really the requested one.

    Args:
        path: The ONNX file.
        provider: `CPU` or `CUDA`.
        threads: Number of threads within an operator, 1 or more; operators run one after the other.
        profile_prefix: Start of the path that a profile is written to; None for no profile.

    Raises:
        ArtifactError: If the file is missing or is not a valid model.
        OptionError: If onnxruntime quietly dropped the provider, or there are many more threads than cores.
    """
    cores = os.cpu_count() or 1
    if threads > MOST_THREADS * cores:
        raise OptionError(f"threads={threads}: this machine has {cores} cores; onnxruntime would wait for itself")
    if not path.is_file():
        raise ArtifactError(f"there is no ONNX file at {path}")
    if provider == CUDA:
        _preload_cuda_libraries()
    providers = [CUDA, CPU] if provider == CUDA else [CPU]
    try:
        session = onnxruntime.InferenceSession(
            path, _session_options(threads, profile_prefix), providers=providers, enable_fallback=0
        )
    except Exception as error:  # onnxruntime's exceptions have no common base below Exception
        raise ArtifactError(f"onnxruntime cannot load {path} on {provider}: {error}") from error
    really = session.get_providers()
    if really[0] != provider:
        raise OptionError(
            f"onnxruntime was asked for {provider} and opened {path.name} on {', '.join(really)}; install the CUDA and "
            "cuDNN versions that this onnxruntime was built for, or use provider='cpu'"
        )
    return session


class BoundSession:
    """A session with its inputs on the device, ready to run again and again.

    Raises:
        InputError: If the names of `feeds` are not those of the model's inputs, or the first run refuses the arrays.
    """

    def __init__(self, session: Any, feeds: Mapping[str, NDArray[Any]]) -> None:
        self._session = session
        wanted = [node.name for node in session.get_inputs()]
        if sorted(wanted) != sorted(feeds):
            raise InputError(f"the model's inputs are {sorted(wanted)}, the feeds {sorted(feeds)}; give exactly these")
        device = "cuda" if session.get_providers()[0] == CUDA else "cpu"
        self._binding = session.io_binding()
        # Kept here as well: the values own the memory, and not every onnxruntime keeps what is bound alive.
        self._inputs = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), device, 0)
            for name, array in feeds.items()
        }
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for output in session.get_outputs():
            self._binding.bind_output(output.name, device, 0)
        try:
            self.run()
        except Exception as error:  # onnxruntime's exceptions have no common base below Exception
            shapes = {name: f"{array.dtype} {array.shape}" for name, array in feeds.items()}
            raise InputError(f"onnxruntime cannot run the model on the feeds {shapes}: {error}") from error

    def run(self) -> None:
        """Run once; return when the outputs are complete on the device."""
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()


def node_placement(path: Path, provider: str, threads: int, feeds: Mapping[str, NDArray[Any]]) -> NodePlacement:
    """Profile one run and read from it which provider ran each node.

    Raises:
        ArtifactError: If the file is missing or is not a valid model.
        InputError: If the feeds do not fit the model.
        OptionError: If the requested provider ran no node at all.
    """
    with tempfile.TemporaryDirectory() as scratch:
        session = open_session(path, provider, threads, profile_prefix=str(Path(scratch) / "profile"))
        BoundSession(session, feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    placement = _placement_of(events)
    if provider != CPU and placement.on_cpu == placement.nodes:
        raise OptionError(f"{provider} ran none of the {placement.nodes} nodes of {path.name}; use provider='cpu'")
    return placement


def _placement_of(events: list[dict[str, Any]]) -> NodePlacement:
    """Count each node once, even where a loop ran it many times."""
    ran = {
        (event["name"], event["args"]["op_name"], event["args"]["provider"])
        for event in events
        if event["cat"] == "Node" and event["args"].get("provider")
    }
    on_cpu = [op for _, op, provider in ran if provider == CPU]
    return NodePlacement(nodes=len(ran), on_cpu=len(on_cpu), cpu_ops=tuple(sorted(set(on_cpu))))


def _session_options(threads: int, profile_prefix: str | None) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile_prefix
    return options


def _cuda_obstacle() -> str:
    """Why CUDA cannot run here; empty where it can. Opens no session, which would print warnings."""
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    if CUDA not in onnxruntime.get_available_providers():
        return "the installed onnxruntime has no CUDA provider (the package onnxruntime-gpu has)"
    return ""


def _preload_cuda_libraries() -> None:
    """Load the CUDA libraries that pip installed; the loader does not find them by itself."""
    preload = getattr(onnxruntime, "preload_dlls", None)  # since onnxruntime 1.21
    if preload is None:
        return
    said = io.StringIO()
    with contextlib.redirect_stdout(said), warnings.catch_warnings():
        # Messages about libraries that could not be loaded do not matter: the provider is checked after opening.
        warnings.simplefilter("ignore")
        preload()
    if said.getvalue():
        _log.debug("preload_dlls: %s", said.getvalue().strip())
