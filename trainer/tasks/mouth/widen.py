"""Grows a trained mouth network into the larger one of a recipe, so that training goes on where it was.

python -m trainer.tasks.mouth.widen SMALL.safetensors RECIPE.yaml OUT.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from lipsync_core.models.mouth import Mouth

FRESH, INTO_OLD = 0.5, 0.15
"""Of their usual first values: weights of new channels, and what new channels say to old ones."""


def _partners(old: list[int], new: list[int]) -> dict[int, int]:
    """New block -> old block of the same dilation, in order."""
    found: dict[int, int] = {}
    place = 0
    for number, dilation in enumerate(old):
        try:
            place = new.index(dilation, place) + 1
        except ValueError:
            raise SystemExit(
                f"the recipe's dilations {new} do not hold {old} in this order; put blocks in between only"
            ) from None
        found[place - 1] = number
    return found


def widen(small: dict[str, Tensor], model: Mouth, dilations: list[int]) -> dict[str, Tensor]:
    """The state of ``model`` (fresh, of ``dilations``) that hears about what ``small`` (its file's tensors) hears."""
    partners = _partners([int(d) for d in small["dilations"]], dilations)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for name, value in state.items():
        source = name
        if name.startswith("blocks."):
            _, number, kind = name.split(".")
            if int(number) not in partners:
                value.mul_(INTO_OLD)  # a block of its own hardly speaks at first
                continue
            source = f"blocks.{partners[int(number)]}.{kind}"
        old = small[source].float()
        if any(a > b for a, b in zip(old.shape, value.shape, strict=True)):
            raise SystemExit(
                f"{source} has {tuple(old.shape)}, the recipe only {tuple(value.shape)}"
            )
        if value.dim() == 3:
            value.mul_(FRESH)
            value[: old.shape[0], old.shape[1] :] *= INTO_OLD / FRESH
            value[: old.shape[0], : old.shape[1]] = old
        else:
            value[: old.shape[0]] = old
    return state


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("small", type=Path)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    recipe = yaml.safe_load(options.recipe.read_text(encoding="utf-8"))
    torch.manual_seed(recipe["seed"])
    dilations = list(recipe["model"]["dilations"])
    state = widen(load_file(options.small), Mouth(**recipe["model"]), dilations)
    state["dilations"] = torch.tensor(dilations, dtype=torch.int32)
    save_file(state, options.out)
    print(f"{sum(value.numel() for value in state.values())} weights in {options.out}")


if __name__ == "__main__":
    main()
