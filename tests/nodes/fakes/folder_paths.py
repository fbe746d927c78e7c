# ruff: noqa: PTH100, PTH103, PTH110, PTH112, PTH113, PTH118, PTH119, PTH120, PTH122, PTH208
"""Stand-in for ComfyUI's module of this name: what the bridge uses of it."""

import mimetypes
import os

models_dir = ""
folder_names_and_paths = {}
_folders = {}


def set_input_directory(path):
    _folders["input"] = path


def set_output_directory(path):
    _folders["output"] = path


def set_temp_directory(path):
    _folders["temp"] = path


def get_input_directory():
    return _folders["input"]


def get_output_directory():
    return _folders["output"]


def get_temp_directory():
    return _folders["temp"]


def get_annotated_filepath(name):
    for kind, folder in _folders.items():
        if name.endswith(f"[{kind}]"):
            return os.path.join(folder, name[: -len(kind) - 2].strip())
    return os.path.join(_folders["input"], name)


def exists_annotated_filepath(name):
    return os.path.exists(get_annotated_filepath(name))


def filter_files_content_types(files, kinds):
    return [f for f in files if (mimetypes.guess_type(f)[0] or "").split("/")[0] in kinds]


def get_filename_list(kind):
    paths, suffixes = folder_names_and_paths[kind]
    found = []
    for path in paths:
        if os.path.isdir(path):
            found += [f for f in os.listdir(path) if os.path.splitext(f)[1] in suffixes]
    return found


def get_full_path_or_raise(kind, name):
    for path in folder_names_and_paths[kind][0]:
        if os.path.isfile(os.path.join(path, name)):
            return os.path.join(path, name)
    raise FileNotFoundError(f"{name} in {kind}")


def get_save_image_path(prefix, output, width=0, height=0):
    folder = os.path.abspath(os.path.join(output, os.path.dirname(os.path.normpath(prefix))))
    if os.path.commonpath((os.path.abspath(output), folder)) != os.path.abspath(output):
        raise Exception("Saving image outside the output folder is not allowed.")
    name = os.path.basename(os.path.normpath(prefix))
    os.makedirs(folder, exist_ok=True)
    counter = 1 + sum(f.startswith(name + "_") for f in os.listdir(folder))
    return folder, name, counter, os.path.dirname(os.path.normpath(prefix)), prefix
