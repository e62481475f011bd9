"""``augmark list``: what can be named on the command line, a line each."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from rich.console import Console

from bench.presets import ABOUT
from training.presets import ABOUT as TRAINING_ABOUT

Kind = Literal["backends", "recipes", "ops", "models", "presets", "data"]
KINDS: tuple[Kind, ...] = get_args(Kind)
DATA = {
    "auto": "CIFAR-10 or an image folder under --data-root if there is one, with --download fetched; else synthetic",
    "cifar10": "the official files under --data-root; --download fetches them (170 MB)",
    "synthetic": "drawn shapes of ten classes, nothing to fetch",
    "FOLDER": "any folder with train/<class>/* and test/<class>/* (or val/<class>/*)",
}


def list_names(kind: Kind) -> Mapping[str, str]:
    """Return the names of a kind, each with a line on it; torch is imported only for those that need it."""
    match kind:
        case "data":
            return DATA
        case "presets":
            trained = {f"train, sweep --preset {name}": about for name, about in TRAINING_ABOUT.items()}
            return {f"run --preset {name}": about for name, about in ABOUT.items()} | trained
        case "models":
            from training.models import ABOUT as MODELS_ABOUT

            return {**MODELS_ABOUT, "NAME": "finetune: any of torchvision's classifiers, such as resnet50"}
        case "backends":
            return _list_backends()
        case "recipes":
            from augment import RECIPES

            return {name: " + ".join(op.name for op in recipe(32)) for name, recipe in RECIPES.items()}
        case "ops":
            from augment import OPS

            return {name: (inspect.getdoc(op) or "").partition("\n")[0].replace("``", "") for name, op in OPS.items()}


def _list_backends() -> Mapping[str, str]:
    import torch

    from augment import BACKENDS

    here = torch.device(torch.accelerator.current_accelerator() or "cpu")
    reasons = {name: backend.why_not(here) and backend.why_not(torch.device("cpu")) for name, backend in BACKENDS.items()}
    return {name: BACKENDS[name].about + (f" (not here: {reason})" if reason else "") for name, reason in reasons.items()}


def print_catalog(kinds: Sequence[Kind], console: Console) -> None:
    """Print the names of these kinds."""
    for kind in kinds or KINDS:
        names = list_names(kind)
        console.print(f"{kind} (--data)" if kind == "data" else kind, style="bold")
        width = max(map(len, names))
        for name, about in names.items():
            console.print(f"  {name:{width}}  {about}")
