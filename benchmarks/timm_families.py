"""Finds the smallest timm model of each family, by parameters, and writes `benchmarks/timm_families.json`.

Models are built on the meta device, without memory for their weights. This takes about five minutes.
"""

from __future__ import annotations

import json
import warnings

import timm
import torch

from benchmarks.models import FAMILIES


def parameters_of(name: str) -> float:
    """Returns the number of parameters of a model; infinity if it cannot be built without a download."""
    try:
        with torch.device("meta"):
            model = timm.create_model(name)
    except Exception:  # each architecture may fail in its own way
        return float("inf")
    return sum(parameter.numel() for parameter in model.parameters())


def main() -> None:
    """Writes the list."""
    warnings.simplefilter("ignore")
    families = timm.list_modules()
    smallest = {family: min(timm.list_models(module=family), key=parameters_of) for family in families}
    FAMILIES.write_text(json.dumps({"timm": timm.__version__, "smallest": smallest}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
