"""Stand-in for the part of ComfyUI's node API that the pack uses, as 0.3.64 has it."""

from . import io, ui


class ComfyExtension:
    async def on_load(self):
        pass


class _VideoInput:
    def get_stream_source(self):
        raise NotImplementedError


class Input:
    Video = _VideoInput


class _VideoFromFile(_VideoInput):
    def __init__(self, file):
        self.file = file

    def get_stream_source(self):
        return self.file

    def get_components(self):
        raise NotImplementedError

    def get_container_format(self):
        return "mov,mp4,m4a,3gp,3g2,mj2"

    def get_dimensions(self):
        import av

        with av.open(str(self.file)) as container:
            stream = container.streams.video[0]
            return stream.width, stream.height

    def save_to(self, path, format="auto", codec="auto", metadata=None):
        import shutil

        shutil.copyfile(self.file, path)


class InputImpl:
    VideoFromFile = _VideoFromFile


__all__ = ["ComfyExtension", "Input", "InputImpl", "io", "ui"]
