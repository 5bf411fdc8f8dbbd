"""The result of a compilation."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, fx, nn

from graphprune.criteria.samples import SampleStream
from graphprune.deploy import ExportResult, TimingResult
from graphprune.errors import VerificationError
from graphprune.labels.dependencies import Dependencies
from graphprune.labels.keep_set import KeepSet
from graphprune.pass_manager.protocol import Pass
from graphprune.pass_manager.runner import Runner
from graphprune.passes import pipelines
from graphprune.plan.plan import Plan, on_device_of
from graphprune.program.example import Example
from graphprune.program.program import Program, device_of
from graphprune.program.tensors import Kept, stored_parameters, stored_tensors
from graphprune.repair.record import Repair
from graphprune.repair.samples import Split, split
from graphprune.report import Report
from graphprune.request.options import check_counts, check_seed, check_switches
from graphprune.saving.artifact import save as save_artifact
from graphprune.training.exchange import overwrite
from graphprune.verification.equivalence import MaskedProgram, verify_compact
from graphprune.verification.record import Verification


class Compiled:
    """A compact network with its plan and report; it can be proved, exported, timed and saved.

    Attributes:
        module: The compact module. It trains, evaluates, and has the state dict keys of the user's model.
        plan: What was kept. It can be replayed on a fresh instance of the model.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        plan: Plan,
        report: Callable[[], Report],
        original: Program,
        compact: Program,
        batch_size: int,
        runner: Runner | None = None,
    ) -> None:
        self.module, self.plan = module, plan.with_sizes(original.module)
        self._make_report, self._original, self._compact = report, original, compact
        self._batch_size, self._runner = batch_size, runner or Runner()

    @cached_property
    def _pruned(self) -> Report:
        return self._make_report()

    @property
    def report(self) -> Report:
        """Report of what was pruned, by group, and of the last repair."""
        return replace(self._pruned, repair=self._compact.get(Repair))

    def __repr__(self) -> str:
        """Shows every cost before and after pruning."""
        costs = ", ".join(f"{name} {before:,} -> {after:,}" for name, (before, after) in self.report.costs.items())
        return f"Compiled({self.report.model}: {costs})"

    def verify(self, seed: int = 0) -> Verification:
        """Proves that the compact module, with the weights that it has now, equals the masked dense one.

        The compact weights are put into their places among zeros in the dense program, so this also works after
        training.

        Raises:
            VerificationError: the two differ, or a dead weight is not zero; the message names the first node that
                differs, or the parameters.
        """
        self._check_masks()
        keep = KeepSet.of_indices(self._original[Dependencies], self.plan.kept)
        dense, compact = self._dense(), stored_tensors(self.module)
        values = {
            name: embedded(compact[name], tensor, name, self.plan.kept)
            for name, tensor in stored_tensors(dense.module).items()
        }
        program = replace(self._compact, example=on_device_of(self.module, self._compact.example))
        return verify_compact(MaskedProgram(dense, keep.dependencies.space, keep.labels, values), program, seed)

    def repair(self, data: Iterable[Any], *, samples: int = 2560, seed: int = 0) -> Repair:
        """Refits the weights of the compact module to the dense model, without training and without targets.

        The convolutions and linear layers are fitted one after the other, each by least squares on the inputs that it
        has in the compact module. One in five samples is held out. If the outputs on those do not come nearer to the
        dense model's, everything stays as it was.

        Args:
            data: Batches ``(inputs, target)``; the targets are not looked at.
            samples: Number of samples that are drawn from the data. Their inputs are in memory at a time; activations
                beyond 256 MiB lie in temporary files.
            seed: Chooses the positions of the activations that are fitted to.

        Returns:
            What was done, layer by layer; `report` shows it as well.

        Raises:
            InputError: the data is empty, holds fewer than five samples, or does not fit the model.
        """
        check_counts(samples=samples)
        check_seed(seed)
        return self._change_values(pipelines.refitting(self._dense(), self._split(data, samples), seed))

    def recalibrate(self, data: Iterable[Any], *, samples: int = 2560) -> Repair:
        """Sets the running statistics of batch norms to those of the compact module's own activations.

        `repair` does without: statistics that are taken after it undo a part of it. One in five samples is held out. If
        the outputs on those do not come nearer to the dense model's, everything stays as it was.

        Args:
            data: Batches ``(inputs, target)``; the targets are not looked at.
            samples: Number of samples that are drawn from the data. Their inputs are in memory at a time; activations
                beyond 256 MiB lie in temporary files.

        Returns:
            What was done, batch norm by batch norm; `report` shows it as well.

        Raises:
            InputError: the data is empty, holds fewer than five samples, or does not fit the model.
        """
        check_counts(samples=samples)
        return self._change_values(pipelines.recalibrating(self._dense(), self._split(data, samples)))

    def programs(self) -> tuple[Program, Program]:
        """The dense program, with its dependencies, and the compact one, both as they are now; not to be changed."""
        return self._dense(), replace(self._compact, module=self.module)

    def _split(self, data: Iterable[Any], samples: int) -> Split:
        return split(SampleStream(data, self._compact.example).draw(samples, device_of(self._compact)))

    def _change_values(self, pipeline: Sequence[Pass]) -> Repair:
        """Runs a pipeline that changes the values of tensors, and copies them into the module that the user holds."""
        program = replace(self._compact, module=self.module, example=on_device_of(self.module, self._compact.example))
        self._runner.forget()  # the user may have trained the module
        changed = self._runner.run(pipeline, program)
        self._runner.forget()
        overwrite(self.module, changed.module)
        self._compact = self._compact.knowing(changed[Repair])
        return changed[Repair]

    def _check_masks(self) -> None:
        """Refuses dead weights that are not zero; none is zeroed first, so weights that were set by hand count."""
        parameters = stored_parameters(self.module)
        alive = {
            name: int((parameters[name].detach()[~mask.to(parameters[name].device)] != 0).sum())
            for name, mask in self.plan.masks.items()
        }
        wrong = [f"{name}: {count} dead weights are not zero" for name, count in alive.items() if count]
        if wrong:
            raise VerificationError("\n".join(wrong))

    def export_onnx(
        self, path: str | Path, *, precision: str = "float32", data: Iterable[Any] | None = None, samples: int = 256
    ) -> ExportResult:
        """Writes the compact module as ONNX with a free batch size, checked and compared with torch.

        Args:
            path: The file to write.
            precision: ``"float32"``; ``"float16"``, which CUDA runs faster; or ``"int8"``, onnxruntime's static
                quantisation. Inputs and outputs of the file stay float32.
            data: Batches ``(inputs, target)``. INT8 is calibrated on all batches but the last, on which the error is
                measured; a single batch is split in half. Without data, random inputs like the example's are used.
            samples: Number of samples that are drawn from the data.

        Raises:
            ExportError: the file would not be valid or would not compute the same; nothing is written then.
            OptionError: the precision is unknown.
        """
        return self._exported(self.module, path, precision, self._calibration(data, samples))[ExportResult]

    def _exported(self, module: fx.GraphModule, path: str | Path, precision: str, data: Sequence[Example]) -> Program:
        """Exports a module as it is now; returns its program with what was measured on the file."""
        bare = Program(module, on_device_of(self.module, self._compact.example), self._compact.captured_by)
        return Runner().run(pipelines.exporting(Path(path), precision, data), bare)

    def _calibration(self, data: Iterable[Any] | None, samples: int) -> list[Example]:
        if data is None:
            return []
        device = device_of(self._compact)
        return [batch.inputs for batch in SampleStream(data, self._compact.example).draw(samples, device)]

    def benchmark(
        self,
        *,
        batch: int | None = None,
        provider: str = "auto",
        threads: int = 1,
        repeats: int = 30,
        precision: str = "float32",
        data: Iterable[Any] | None = None,
    ) -> TimingResult:
        """Times the dense and the compact network in onnxruntime, in turns.

        Args:
            batch: Number of samples in a run; by default that of the example input.
            provider: ``"auto"`` (CUDA where there is a device), ``"cpu"`` or ``"cuda"``.
            threads: Threads within an operator.
            repeats: Samples of each.
            precision: The precision of both; see `export_onnx`.
            data: For INT8; see `export_onnx`.

        Raises:
            OptionError: a number is not a whole number of at least 1, the precision or provider is unknown, or CUDA is
                requested where it cannot run.
            ExportError: a network cannot be exported to a valid ONNX file.
        """
        batch = self._batch_size if batch is None else batch
        check_counts(batch=batch, threads=threads, repeats=repeats)
        calibration = self._calibration(data, samples=256)
        with tempfile.TemporaryDirectory() as directory:
            dense, compact = Path(directory) / "dense.onnx", Path(directory) / "compact.onnx"
            self._exported(self._dense().module, dense, precision, calibration)
            exported = self._exported(self.module, compact, precision, calibration)
            timed = Runner().run(pipelines.timing(dense, batch, provider, threads, repeats), exported)
        return timed[TimingResult]

    def save(self, directory: str | Path, *, onnx: bool = True) -> Path:
        """Writes plan, weights, ONNX file and report into a directory; `graphprune.load` reads it.

        The directory appears only when it is complete, and replaces an artifact that was there.

        Args:
            directory: Target directory, which is created with its parents if it does not exist.
            onnx: Whether to write the ONNX file, without which `graphprune.load` needs the model. There can be no ONNX
                file of a network in bfloat16, or with an operator that ONNX or onnxruntime does not have.

        Raises:
            ArtifactError: the directory holds other files, which stay, or cannot be written.
            ExportError: the module cannot be exported to a valid ONNX file; nothing is written then.
        """
        check_switches(onnx=onnx)
        export = self.export_onnx if onnx else None
        return save_artifact(self.plan, self.module, self.report, export, directory)

    def _dense(self) -> Program:
        """The dense program, on the device and in the type that the compact module has now.

        Tensors that the two share have moved with the compact module; the others have not.
        """
        module, now = self._original.module, stored_tensors(self.module)
        places = {id(tensor): now[name] for name, tensor in stored_tensors(module).items()}
        tensors = [*module.parameters(), *module.buffers()]
        if all(_is_like(tensor, places[id(tensor)]) for tensor in tensors):
            return self._original
        moved = copy.deepcopy(module, {id(tensor): _moved(tensor, places[id(tensor)]) for tensor in tensors})
        return replace(self._original, module=moved)


def _is_like(tensor: Tensor, other: Tensor) -> bool:
    return tensor.device == other.device and tensor.dtype == other.dtype


def _moved(tensor: Tensor, like: Tensor) -> Tensor:
    moved = tensor.detach().to(like.device, like.dtype)
    return nn.Parameter(moved, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else moved


def embedded(compact: Tensor, dense: Tensor, name: str, kept: Kept) -> Tensor:
    """Puts a compact tensor into its places in a tensor of the dense shape, which is zero elsewhere."""
    result = compact.detach()
    for (owner, dim), indices in kept.items():
        if owner == name:
            shape = [*result.shape]
            shape[dim] = dense.shape[dim]
            result = result.new_zeros(shape).index_copy(dim, indices.to(result.device), result)
    return result
