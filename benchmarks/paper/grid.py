"""The runs of a study, in the order in which they are made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from benchmarks.paper.named import method_of
from benchmarks.paper.studies import STUDIES, Scale, Setting, Sizes
from benchmarks.rows import Row
from graphprune.errors import OptionError
from graphprune.research.epochs import Precision

Key = tuple[Any, ...]


@dataclass(frozen=True)
class Run:
    """One point of a grid, which its fields tell from all others.

    Attributes:
        study: A key of `STUDIES`.
        network: See `Setting`.
        data: See `Setting`.
        samples: See `Setting`.
        epochs: See `Setting`.
        batch_size: See `Setting`.
        precision: See `Setting`.
        method: A name, see `method_of`.
        target: A share to remove or a penalty's weight, by the method; 0 where there is nothing to say.
        seed: Seed of initial weights and of everything drawn.
    """

    study: str
    network: str
    data: str
    samples: int | None
    epochs: int
    batch_size: int
    precision: Precision
    method: str
    target: float
    seed: int

    @property
    def key(self) -> Key:
        """Values of the fields, by which the run is found in a file."""
        return tuple(asdict(self).values())

    def __str__(self) -> str:
        return f"{self.study}: {self.network}, {self.data}, {self.method}, {self.target:g}, seed {self.seed}"


@dataclass(frozen=True)
class Choice:
    """Which runs of a study to make, and with which sizes; None stands for the study's own.

    Attributes:
        networks: Those of the study's networks that are run.
        methods: Any.
        datasets: Each with every network, also where the study has it with others.
        sparsities: Sparsities in the place of both kinds.
        lambdas: Lambdas in the place of all methods' own.
        seeds: Any.
        samples: Samples of every setting.
        epochs: Epochs of every setting.
        batch_size: Batch size of every setting.
    """

    networks: Sequence[str] | None = None
    methods: Sequence[str] | None = None
    datasets: Sequence[str] | None = None
    sparsities: Sequence[float] | None = None
    lambdas: Sequence[float] | None = None
    seeds: Sequence[int] | None = None
    samples: int | None = None
    epochs: int | None = None
    batch_size: int | None = None


def runs_of(study: str, scale: Scale, choice: Choice | None = None) -> list[Run]:
    """Returns all runs, those of the first seed first, so that an unfinished grid is still useful.

    Within a seed, runs are ordered by setting (network and data), then by method, with the dense network first as in
    all studies, then by target.

    Raises:
        OptionError: a method is unknown, or the study does not have a network.
    """
    choice = choice or Choice()
    sizes = STUDIES[study].scales[scale]
    own = {setting.network: None for setting in sizes.settings}
    if others := [network for network in choice.networks or () if network not in own]:
        raise OptionError(f"{study} at scale {scale} has no {', '.join(others)}; its networks are {', '.join(own)}")
    runs = [
        Run(study, **asdict(setting), method=method, target=at, seed=seed)
        for seed in (range(sizes.seeds) if choice.seeds is None else choice.seeds)
        for setting in _settings(sizes, choice)
        for method in choice.methods or sizes.methods
        for at in _targets(method, setting, sizes, choice)
    ]
    return list(dict.fromkeys(runs))


def left(runs: Iterable[Run], rows: Iterable[Row], again: bool = False) -> list[Run]:
    """Returns the runs that have no row yet.

    Args:
        runs: All.
        rows: Rows of a file.
        again: Whether rows with an error do not count.
    """
    names = [each.name for each in fields(Run)]
    done = {tuple(row.get(name) for name in names) for row in rows if not (again and "error" in row)}
    return [run for run in runs if run.key not in done]


def _settings(sizes: Sizes, choice: Choice) -> list[Setting]:
    given = {name: value for name in ("samples", "epochs", "batch_size")
             if (value := getattr(choice, name)) is not None}  # fmt: skip
    chosen = [replace(setting, **given) for setting in sizes.settings
              if choice.networks is None or setting.network in choice.networks]  # fmt: skip
    if choice.datasets is None:
        return chosen
    # the last setting of a network is the largest one; its sizes are used for other data
    by_network = {setting.network: setting for setting in chosen}
    own = {(setting.network, setting.data): setting for setting in chosen}
    return [
        own.get((network, data), replace(largest, data=data))
        for network, largest in by_network.items()
        for data in dict.fromkeys(choice.datasets)
    ]


def _targets(method: str, setting: Setting, sizes: Sizes, choice: Choice) -> Sequence[float]:
    kind = method_of(method, max(setting.epochs, 8)).target
    if kind == "nothing":
        return (0.0,)
    if kind == "lambda":
        names = (f"{method}, {setting.network}", method, "")
        return choice.lambdas or next((sizes.lambdas[name] for name in names if name in sizes.lambdas), ())
    return choice.sparsities or (sizes.nodes if kind == "node sparsity" else sizes.weights)
