"""A drawn face that obeys its voice, for tests that must not need a real one."""

from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from lipsync_core.faces.detect.given import Given
from lipsync_core.media.audio import MemoryVoice, VoiceFile
from lipsync_core.scoring import embedded
from lipsync_core.scoring.motion import watch
from lipsync_core.scoring.sync import judge
from lipsync_core.types import Audio

RATE, FPS, SIDE = 16_000, 25, 128
POINTS = np.array([[44, 46], [84, 46], [64, 66], [50, 92], [78, 92]], np.float32)


def syllables(seconds, seed=2):
    random = np.random.default_rng(seed)
    knots = random.uniform(0, 1, int(seconds * 5) + 2) ** 2
    return np.interp(np.arange(int(seconds * RATE)) / RATE * 5, np.arange(len(knots)), knots)


def obedient(sound, count):
    """Openings 0..12 px of ``count`` frames of a mouth that does what a voice asks for."""
    voice = MemoryVoice(Audio(samples=sound[None], rate=RATE))
    curves = embedded.expected(embedded.hear(voice), np.arange(count) / FPS)
    path = np.cumsum(curves[:, :2] / curves[:, :2].std(0) @ [0.5, 0.5])
    return 12 * (path - path.min()) / np.ptp(path)


def draw_clip(path, *, late=0.0, seconds=8.0, faces=1, moving=True):
    """A textured face whose chin falls as the sound asks; the sound comes ``late`` seconds late."""
    random = np.random.default_rng(0)
    swell = syllables(seconds)
    sound = (random.standard_normal(len(swell)) * swell * 0.3).astype(np.float32)
    openings = obedient(sound, int(seconds * FPS))
    sound = np.roll(sound, round(late * RATE))
    skin = random.uniform(80, 200, (SIDE // 4, SIDE // 4))
    # smooth, so that flow can follow parts of a pixel
    skin = cv2.GaussianBlur(np.kron(skin, np.ones((4, 4))), (0, 0), 1.5)
    with av.open(str(path), "w") as out:
        video = out.add_stream("mpeg4", rate=FPS)
        video.width, video.height, video.pix_fmt = SIDE * faces, SIDE, "yuv420p"
        video.bit_rate = 4_000_000
        voice = out.add_stream("pcm_s16le", rate=RATE)
        voice.layout = "mono"
        for index in range(int(seconds * FPS)):
            rows = np.arange(SIDE, dtype=float)
            rows[92:] -= np.minimum(openings[index] * moving, rows[92:] - 92)
            low = np.clip(rows.astype(int), 0, SIDE - 2)
            part = (rows - low)[:, None]
            moved = skin[low] * (1 - part) + skin[low + 1] * part
            face = np.repeat(moved[..., None], 3, 2)
            still = np.repeat(skin[..., None], 3, 2)
            image = np.concatenate([face] + [still] * (faces - 1), axis=1).astype(np.uint8)
            out.mux(video.encode(av.VideoFrame.from_ndarray(image)))
        out.mux(video.encode(None))
        frame = av.AudioFrame.from_ndarray(
            (np.clip(sound, -1, 1) * 32767).astype(np.int16)[None], format="s16", layout="mono"
        )
        frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        out.mux(voice.encode(frame))
        out.mux(voice.encode(None))
    return path


def examine_drawn(path):
    watched = watch(path, detector=Given(points=POINTS[None]))
    voice = VoiceFile(path)
    return judge(
        watched, watched.people.tracks[0], embedded.hear(voice), watched.begins - voice.begins
    )


@pytest.fixture(scope="session")
def drawn_clip():
    """``drawn_clip(path, late=, seconds=, faces=)`` writes a clip."""
    return draw_clip


@pytest.fixture(scope="session")
def drawn_watch():
    """``drawn_watch(path)`` looks at it."""
    return lambda path: watch(path, detector=Given(points=POINTS[None]))


@pytest.fixture(scope="session")
def examined():
    """``examined(path)`` scores it with the embedded estimate."""
    return examine_drawn
