"""How well the estimate without weights finds offsets: `python benchmarks/sync.py CLIP... [--seed N]`.

The clips must be in sync (GRID: about 3 s each). Every sound is really moved by -400..+400 ms, every face
is paired with every other voice, and three clips in a row make 8 s. Prints, for 3 s and 8 s: shifts found
within a frame among all and among the accepted, the share accepted, and foreign voices accepted.
"""

import argparse
from pathlib import Path

import numpy as np

from lipsync_core.faces.detect import pick
from lipsync_core.media.audio import MemoryVoice, VoiceFile
from lipsync_core.scoring import embedded
from lipsync_core.scoring.motion import MouthMotion, watch
from lipsync_core.types import Audio

RATE = 16_000
FRAME = 45
"""Milliseconds that count as within one frame, as in the prototype's table."""


def moved(sound, milliseconds):
    count = round(abs(milliseconds) * RATE / 1000)
    still = np.zeros(count, np.float32)
    if milliseconds >= 0:
        return np.concatenate([still, sound[: len(sound) - count]])
    return np.concatenate([sound[count:], still])


def hear(sound):
    return embedded.hear(MemoryVoice(Audio(samples=sound[None], rate=RATE)))


def joined(motions, frames):
    fields = {}
    for name in ("speed", "opening", "width", "gap"):
        parts = [getattr(motion, name).copy() for motion in motions]
        if name == "speed":
            for part in parts:
                part[0] = np.nan
        fields[name] = np.concatenate(parts)[:frames]
    return MouthMotion(**fields)


def report(title, own, foreign):
    errors = np.array([abs(found.late_ms - truth) for found, truth in own])
    sure = np.array([found.confidence >= embedded.ACCEPT for found, _ in own])
    wrong = np.array([found.confidence >= embedded.ACCEPT for found in foreign])
    among = f"{(errors[sure] <= FRAME).mean():.1%}" if sure.any() else "-"
    print(
        f"{title}: {len(own)} shifts, within a frame {(errors <= FRAME).mean():.1%}, "
        f"accepted {sure.mean():.1%}, within a frame among accepted {among}; "
        f"{len(foreign)} foreign voices, accepted {wrong.mean():.1%}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--draws", type=int, default=60)
    chosen = parser.parse_args()
    detector = pick("auto")
    motions, times, sounds = [], [], []
    for clip in chosen.clips:
        watched = watch(clip, detector=detector)
        motions.append(max(watched.motions, key=lambda motion: motion.seen.sum()))
        times.append(watched.times)
        sounds.append(np.concatenate(list(VoiceFile(clip).blocks(RATE))))
    own, foreign, exact = [], [], []
    for voice, sound in enumerate(sounds):
        for shift in range(-400, 401, 100):
            heard = hear(moved(sound, shift))
            for face, motion in enumerate(motions):
                found = embedded.match(motion, times[face], heard)
                if face == voice:
                    own.append((found, shift))
                    exact.append(found.late_ms - shift)
                elif shift % 200 == 0:
                    foreign.append(found)
    print(f"{len(sounds)} clips; median error {np.median(exact):+.0f} ms, "
          f"median distance {np.median(np.abs(exact)):.0f} ms")  # fmt: skip
    report("one clip", own, foreign)
    if len(sounds) < 6:
        return
    random = np.random.default_rng(chosen.seed)
    own, foreign = [], []
    length = 3 * RATE
    whole = [np.pad(sound, (0, max(0, length - len(sound))))[:length] for sound in sounds]
    frames = np.arange(200) / 25
    for _ in range(chosen.draws):
        faces = random.choice(len(sounds), 3, replace=False)
        motion = joined([motions[i] for i in faces], 200)
        shift = int(random.integers(-10, 11)) * 40
        sound = np.concatenate([whole[i] for i in faces])
        heard = hear(moved(sound, shift)[: 8 * RATE])
        own.append((embedded.match(motion, frames, heard), shift))
        while True:
            voices = random.choice(len(sounds), 3, replace=False)
            if (voices != faces).all():
                break
        sound = np.concatenate([whole[i] for i in voices])
        foreign.append(embedded.match(motion, frames, hear(moved(sound, shift)[: 8 * RATE])))
    report("three in a row, 8 s (draws from the same clips: optimistic)", own, foreign)


if __name__ == "__main__":
    main()
