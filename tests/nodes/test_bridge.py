"""What comes out of other nodes, in every form it may have."""

from collections.abc import Mapping
from fractions import Fraction

import numpy as np
import pytest

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_frames_of_any_kind(bridge, channels, dtype):
    images = torch.full((2, 5, 7, channels), 0.5, dtype=dtype)
    images[1] = 2.0
    frames = bridge.frames(images)
    assert len(frames) == 2
    assert frames.size == (7, 5)
    assert frames[0].shape == (5, 7, 3)
    assert frames[0].dtype == np.uint8
    assert abs(int(frames[0][0, 0, 0]) - 128) <= 1
    assert frames[1].max() == 255


def test_frames_undefined_pixels_are_black(bridge):
    images = torch.full((1, 2, 2, 3), float("nan"))
    images[0, 0, 0] = -1.0
    assert not bridge.frames(images)[0].any()


def test_frames_round_trip(bridge):
    levels = torch.arange(256).float().div(255).reshape(1, 16, 16, 1).expand(-1, -1, -1, 3)
    frames = bridge.frames(levels)
    assert torch.equal(bridge.image(frames[0][None]), levels)


def test_single_picture_without_batch(bridge):
    assert len(bridge.frames(torch.zeros(4, 6, 3))) == 1


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (None, "connect an IMAGE"),
        (torch.zeros(0, 8, 8, 3), "holds no picture"),
        (torch.zeros(0, 3, 0, 0), "holds no picture"),
        (torch.zeros(2, 0, 8, 3), "8x0"),
        (torch.zeros(8), "1 dimensions"),
    ],
)
def test_frames_say_what_is_wrong(bridge, images, words):
    with pytest.raises(bridge.LipSyncError, match=words):
        bridge.frames(images)


class Lazy(Mapping):
    """Sound that is decoded when it is asked for, as some loaders hand it on."""

    def __init__(self, waveform):
        self._waveform = waveform

    def __getitem__(self, key):
        return {"waveform": self._waveform, "sample_rate": 16000}[key]

    def __iter__(self):
        return iter(("waveform", "sample_rate"))

    def __len__(self):
        return 2


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_sound_of_any_kind(bridge, channels):
    waveform = torch.rand(1, channels, 100, dtype=torch.float64) - 0.5
    sound = bridge.sound(Lazy(waveform))
    assert sound.samples.shape == (channels, 100)
    assert sound.samples.dtype == np.float32
    assert sound.rate == 16000
    back = bridge.audio(sound)
    assert torch.equal(back["waveform"], waveform.float())


def test_sound_batch_takes_the_first(bridge):
    waveform = torch.stack([torch.zeros(1, 10), torch.ones(1, 10)])
    assert not bridge.sound(Lazy(waveform)).samples.any()


@pytest.mark.parametrize(
    ("audio", "words"),
    [
        (None, "no sound track"),
        ("text", "no AUDIO"),
        ({"waveform": torch.zeros(1, 1, 0), "sample_rate": 16000}, "empty"),
        ({"waveform": torch.zeros(1, 1, 9), "sample_rate": 0}, "samples per second"),
    ],
)
def test_sound_says_what_is_wrong(bridge, audio, words):
    with pytest.raises(bridge.LipSyncError, match=words):
        bridge.sound(audio)


def test_masks_fit_the_frames(bridge):
    assert bridge.masks(torch.ones(5, 6), 3).shape == (3, 5, 6)
    assert bridge.masks(torch.ones(3, 5, 6, 1), 3).shape == (3, 5, 6)
    assert bridge.planes(None, 3) is None
    with pytest.raises(bridge.LipSyncError, match="2 masks for 3 frames"):
        bridge.masks(torch.ones(2, 5, 6), 3)


@pytest.mark.parametrize(
    ("fps", "exact"),
    [
        (25.0, Fraction(25)),
        (23.976, Fraction(24000, 1001)),
        (29.97, Fraction(30000, 1001)),
        (59.94, Fraction(60000, 1001)),
        (16.0, Fraction(16)),
        (12.5, Fraction(25, 2)),
    ],
)
def test_rates_are_exact(bridge, fps, exact):
    assert bridge.rate(fps) == exact


@pytest.mark.parametrize("point", ["", "  ", "10,20", "10.5,20@1.25", None])
def test_points_that_mean_something(bridge, point):
    assert bridge.valid_point(point) is True


@pytest.mark.parametrize("point", ["left", "10", "10,20,30", "10,x", "10,20@x", "nan,1"])
def test_points_that_mean_nothing(bridge, point):
    assert "x,y" in bridge.valid_point(point)


def test_scratch_is_gone_however_it_ends(bridge):
    places = []

    def interrupted():
        with bridge.scratch() as folder:
            places.append(folder)
            (folder / "part").write_bytes(b"x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not places[0].exists()


def test_names_outside_the_folders_are_refused(bridge, comfy_folder):
    with pytest.raises(bridge.LipSyncError, match="not in the input folder"):
        bridge.input_path("nobody.mp4")
    with pytest.raises(Exception, match="outside"):
        bridge.save_name("../../elsewhere/x", ".mp4", (8, 8))


def test_pick_shares_memory_for_a_held_picture(bridge):
    images = torch.rand(3, 4, 4, 3)
    assert bridge.pick(images, [0, 1, 2]) is images
    assert torch.equal(bridge.pick(images, [2, 0, 2]), images[[2, 0, 2]])
    held = bridge.pick(images[:1], [0] * 50)
    assert held.shape[0] == 50
    assert held.untyped_storage().nbytes() == images.untyped_storage().nbytes()


def test_canvas_keeps_what_is_not_painted(bridge):
    from lipsync_pack.lipsync_core.staged import Patch

    images = torch.rand(2, 8, 8, 4)
    canvas = bridge.Canvas(images)
    mask = np.zeros((3, 3), np.float32)
    mask[1, 1] = 1
    canvas.put(Patch(index=1, x=2, y=4, rgb=np.full((3, 3, 3), 255, np.float32), mask=mask))
    assert torch.equal(canvas.images[0], images[0])
    changed = canvas.changed[1] > 0
    assert int(changed.sum()) == 1
    assert torch.equal(canvas.images[1][~changed], images[1][~changed])
    assert torch.equal(canvas.images[1, 5, 3, :3], torch.ones(3))
    assert canvas.images[1, 5, 3, 3] == images[1, 5, 3, 3]


def test_progress_cancels_at_every_call(bridge):
    import comfy.model_management as memory

    step = bridge.progress()
    step(1, 100)
    memory.interrupt_current_processing(True)
    with pytest.raises(memory.InterruptProcessingException):
        step(2, 100)


def test_shapes_of_trim_windows(bridge):
    class Trimmed:
        def get_active_trim_window(self):
            return 1.5, 2.0

    class Whole:
        def get_active_trim_window(self):
            return 0.0, 0.0

    assert bridge.trim_window(Trimmed()) == (Fraction(3, 2), Fraction(7, 2))
    assert bridge.trim_window(Whole()) == (None, None)
    assert bridge.trim_window(object()) == (None, None)


def test_cancel_is_heard_while_a_library_loads(bridge, monkeypatch, tmp_path):
    """A library that takes long to import does not keep anybody waiting; it is there afterwards."""
    import sys
    import time

    (tmp_path / "slow_to_load.py").write_text("import time\ntime.sleep(1)\nloaded = True\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    class Pressed(Exception):
        pass

    def cancel():
        raise Pressed

    monkeypatch.setattr(bridge, "check_cancel", cancel)
    began = time.monotonic()
    with pytest.raises(Pressed):
        bridge.import_listening("slow_to_load")
    assert time.monotonic() - began < 0.9
    monkeypatch.setattr(bridge, "check_cancel", lambda: None)
    bridge.import_listening("slow_to_load")
    assert sys.modules["slow_to_load"].loaded
    bridge.import_listening("not_here_at_all")
