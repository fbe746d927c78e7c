from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class FolderType(str, Enum):
    input = "input"
    output = "output"
    temp = "temp"


class _Input:
    widget = ()

    def __init__(
        self, id, display_name=None, optional=False, tooltip=None, lazy=None, extra_dict=None
    ):
        self.id, self.optional, self.tooltip, self.default = id, optional, tooltip, None
        self.extra_dict = extra_dict or {}


class _Output:
    def __init__(self, id=None, display_name=None, tooltip=None, is_output_list=False):
        self.id, self.display_name, self.tooltip = id, display_name, tooltip


def Custom(io_type):
    kind = type(io_type, (), {"io_type": io_type})
    kind.Input = type("Input", (_Input,), {"io_type": io_type})
    kind.Output = type("Output", (_Output,), {"io_type": io_type})
    return kind


def _widget(io_type, *known):
    class Input(_Input):
        def __init__(self, id, optional=False, tooltip=None, default=None, **options):
            unknown = set(options) - set(known)
            if unknown:
                raise TypeError(f"{io_type} input knows no {', '.join(sorted(unknown))}")
            super().__init__(id, optional=optional, tooltip=tooltip)
            self.default, self.options = default, options

    # What a caller may ask of the signature, as the real classes answer it.
    import inspect

    kinds = inspect.Parameter
    names = ("id", "optional", "tooltip", "default", *known)
    Input.__signature__ = inspect.Signature([kinds(n, kinds.KEYWORD_ONLY) for n in names])
    Input.io_type = io_type
    kind = type(io_type, (), {"io_type": io_type, "Input": Input})
    kind.Output = type("Output", (_Output,), {"io_type": io_type})
    return kind


_number = ("min", "max", "step", "control_after_generate", "display_mode", "socketless")
Boolean = _widget("BOOLEAN", "label_on", "label_off", "socketless")
Int = _widget("INT", *_number)
Float = _widget("FLOAT", *_number, "round")
String = _widget("STRING", "multiline", "placeholder", "dynamic_prompts", "socketless")
Combo = _widget("COMBO", "options", "control_after_generate", "upload", "image_folder", "remote")
Image, Mask, Audio, Video = (Custom(name) for name in ("IMAGE", "MASK", "AUDIO", "VIDEO"))


class MultiType:
    class Input(_Input):
        def __init__(self, id, types, optional=False, tooltip=None):
            super().__init__(id, optional=optional, tooltip=tooltip)
            self.io_type = ",".join(kind.io_type for kind in types)


@dataclass
class Schema:
    node_id: str
    display_name: str = None
    category: str = "sd"
    inputs: list = field(default_factory=list)
    outputs: list = field(default_factory=list)
    description: str = ""
    is_output_node: bool = False
    not_idempotent: bool = False


class _Hidden:
    prompt = extra_pnginfo = unique_id = None


class ComfyNode:
    hidden = None

    @classmethod
    def GET_SCHEMA(cls):
        return cls.define_schema()

    @classmethod
    def PREPARE_CLASS_CLONE(cls, hidden):
        return type(cls.__name__, (cls,), {"hidden": _Hidden()})

    @classmethod
    def EXECUTE_NORMALIZED(cls, **inputs):
        return cls.execute(**inputs)


class NodeOutput:
    def __init__(self, *args, ui=None, expand=None, block_execution=None):
        self.args = args
        self.ui = ui

    @property
    def result(self):
        return self.args or None
