"""Train Recipe: what a training run shall be, as a file for the trainer, and the command that starts it there."""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..lipsync_core.errors import SettingsError
from . import bridge, choices, sockets
from .bridge import Schema, io, option, output, ui

FOLDER = "lipsync_train"
"""Below ComfyUI's output folder."""
PACK = Path(__file__).parents[1]
FROM_SCRATCH = ("tiny_listener", "tiny_vae")
"""Recipes that take no weights to begin with."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
KEY = re.compile(r"\w+(\.\w+)*")
EXPONENT = re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$")
"""Numbers for the trainer that plain YAML 1.1 takes for words, such as 1e-5."""


class TrainRecipe(bridge.Node):
    """Writes a recipe; training itself is the command line's."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return Schema(
            node_id="LipSyncTrainRecipe",
            display_name="LipSync Train Recipe",
            category=bridge.CATEGORY,
            description=(
                "Writes the recipe of a training run and shows the command that starts it. Nothing is trained here: runs "
                "take hours to weeks, go on after a crash and use several GPUs, so they belong to a terminal of their own."
            ),
            search_aliases=[
                "train latentsync",
                "fine-tune",
                "finetune lip sync",
                "training config",
                "syncnet training",
            ],
            is_output_node=True,
            not_idempotent=True,
            inputs=[
                option(
                    io.Combo,
                    "recipe",
                    options=list(choices.RECIPES),
                    default="stage2",
                    tooltip=(
                        "What to begin with. stage1, stage2: LatentSync's UNet, without and with motion; curriculum: both in "
                        "one run; syncnet: the judge of mouth and sound; tiny: everything at a size for two processor cores."
                    ),
                ),
                option(
                    io.String,
                    "name",
                    default="my_run",
                    tooltip=(
                        "Name of the file and of the run: letters, digits, - and _. A file that is there already is never "
                        "replaced: if it says the same it is taken, else the new one gets a number."
                    ),
                ),
                option(
                    io.String,
                    "data",
                    default="",
                    multiline=True,
                    tooltip=(
                        "Folders that python -m lipsync_core.preprocess made, one a line, as the training machine finds "
                        "them: whole paths, or from the pack's folder on. They are only written down."
                    ),
                ),
                option(
                    io.String,
                    "init",
                    default="",
                    tooltip=(
                        "Weights to begin with: sd15, latentsync-1.6, or a file such as "
                        "runs/my_run/weights/stage1.safetensors. Empty: what the recipe says."
                    ),
                ),
                option(
                    io.Int,
                    "steps",
                    default=0,
                    min=0,
                    max=100_000_000,
                    tooltip="Steps of the optimizer, of every stage of the recipe. 0: what the recipe says.",
                ),
                option(
                    io.Int,
                    "batch",
                    default=0,
                    min=0,
                    max=4096,
                    tooltip=(
                        "Samples of each process at a time, in every stage; as many as the memory holds. 0: what the recipe "
                        "says."
                    ),
                ),
                option(
                    io.Float,
                    "learning_rate",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=1e-7,
                    round=1e-8,
                    tooltip="Learning rate of every stage, such as 0.00001. 0: what the recipe says.",
                ),
                option(
                    io.Int,
                    "processes",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="Processes that train together, one for each GPU; changes the command alone.",
                ),
                option(
                    io.String,
                    "validation",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip=(
                        "The same of people who are not in data, one folder a line. Empty: every twentieth source of data is "
                        "kept for it."
                    ),
                ),
                option(
                    io.String,
                    "overrides",
                    default="",
                    multiline=True,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Any setting of the trainer, key=value, one a line, such as stages.stage2.accumulate=4 or "
                        "run.ema=0.999. They count more than what is chosen above."
                    ),
                ),
                option(
                    sockets.Report,
                    "report_text",
                    optional=True,
                    tooltip="The command and the recipe appear here after a run.",
                ),
            ],
            outputs=[
                output(
                    io.String, "recipe_file", "The file, in lipsync_train in the output folder."
                ),
                output(
                    io.String,
                    "yaml",
                    "What the file says: the recipe it begins with, and what differs.",
                ),
                output(io.String, "command", "What to run in the pack's folder."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> Any:
        # The file may be gone without any input having changed.
        return time.time()

    @classmethod
    def execute(
        cls,
        recipe: str,
        name: str,
        data: str,
        init: str = "",
        steps: int = 0,
        batch: int = 0,
        learning_rate: float = 0.0,
        processes: int = 1,
        validation: str = "",
        overrides: str = "",
        report_text: Any = None,
    ) -> io.NodeOutput:
        if recipe not in choices.RECIPES:
            raise SettingsError(
                f"there is no recipe '{recipe[:80]}'; choose one of {', '.join(choices.RECIPES)}"
            )
        if init.strip() and recipe in FROM_SCRATCH:
            raise SettingsError(f"init is given, but {recipe} begins from scratch; leave it empty")
        stage = {"steps": steps, "batch": batch, "optimizer.learning_rate": learning_rate}
        chosen = {
            "data.train": _lines(data),
            "data.validation": _lines(validation),
            "model.init": init.strip(),
            **{f"stages.{s}.{k}": v for s in choices.RECIPES[recipe] for k, v in stage.items()},
        }
        said = [(key, value) for key, value in chosen.items() if value]
        layer = _layer(recipe, said + [_setting(line) for line in _lines(overrides)])
        path = bridge.keep_text(
            FOLDER,
            _checked(name.strip()),
            ".yaml",
            lambda free: _yaml({"base": f"{recipe}.yaml", "name": free, **layer}),
        )
        text = path.read_text(encoding="utf-8")
        command = _command(path, processes)
        told = f'In the folder {PACK}\n(once: pip install -e ".[train]")\n\n{command}\n\n{path}\n{text}'
        return io.NodeOutput(str(path), text, command, ui=ui.PreviewText(told))


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _checked(name: str) -> str:
    if not NAME.fullmatch(name):
        raise SettingsError(
            f"name '{name[:80]}' cannot be used; take letters, digits, - and _, 64 at most, and "
            "begin with a letter or digit"
        )
    # A file of that name would be taken for its own base; some systems do not tell cases apart.
    if name.lower() in choices.RECIPES:
        raise SettingsError(f"name '{name}' is a recipe that comes along; choose another")
    return name


def _setting(line: str) -> tuple[str, Any]:
    """Key and value of one ``key=value``, the value read as YAML."""
    import yaml

    key, sign, value = (part.strip() for part in line.partition("="))
    if not sign or not KEY.fullmatch(key):
        raise SettingsError(
            f"overrides: '{line[:80]}' is no setting; write key=value, as stages.stage2.batch=4"
        )
    first = key.partition(".")[0]
    if first not in choices.RECIPE_PARTS:
        raise SettingsError(
            f"overrides: there is no setting {key} here; all begin with one of "
            f"{', '.join(choices.RECIPE_PARTS)}, as stages.stage2.batch=4"
        )
    try:
        return key, yaml.load(value, _dialect(yaml.SafeLoader))
    # ValueError: what looks like a date and is none
    except (yaml.YAMLError, ValueError) as error:
        raise SettingsError(
            f"overrides: the value of '{line[:80]}' cannot be read; write words and numbers as they "
            "are, [a, b] for lists, {a: 1} for sections"
        ) from error


def _layer(recipe: str, said: list[tuple[str, Any]]) -> dict[str, Any]:
    """The settings as sections, later ones over earlier ones."""
    named = {"data", "data.train"} & {key for key, _ in said}
    if not named and recipe not in choices.RECIPES_WITHOUT_DATA:
        raise SettingsError(
            f"data is empty, but {recipe} learns from clips; name a folder that "
            "python -m lipsync_core.preprocess made"
        )
    layer: dict[str, Any] = {}
    for key, value in said:
        for part in reversed(key.split(".")):
            value = {part: value}
        layer = _merged(layer, value)
    stages = choices.RECIPES[recipe]
    given = layer.get("stages")
    for stage in given if isinstance(given, Mapping) else ():
        if stage not in stages:
            raise SettingsError(
                f"overrides: {recipe} has no stage {stage}; there is {', '.join(stages)}"
            )
    return layer


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(under)
    for key, value in over.items():
        below = result.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            value = _merged(below, value)
        result[key] = value
    return result


def _dialect(kind: Any) -> Any:
    """A loader or dumper of PyYAML's that knows numbers as the trainer's does."""
    known = type("Dialect", (kind,), {})
    known.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, list("-+.0123456789"))
    return known


def _yaml(layer: Mapping[str, Any]) -> str:
    import yaml

    return yaml.dump(
        dict(layer),
        Dumper=_dialect(yaml.SafeDumper),
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=None,
        width=1000,
    )


def _command(path: Path, processes: int) -> str:
    start = "python" if processes <= 1 else f"accelerate launch --num_processes {processes}"
    return f"{start} -m trainer {_quoted(str(path))}"


def _quoted(path: str) -> str:
    """For the shells of this system; double quotes do for all but letters that few paths have."""
    if os.name != "nt" and set(path) & set('"$`\\!'):
        return shlex.quote(path)
    return f'"{path}"'
