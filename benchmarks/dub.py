"""Speed and memory of a whole dub: `python benchmarks/dub.py CLIP VOICE [seconds ...] [--once]`.

Makes looped inputs of the given lengths (10 s, 1 min and 10 min by default), dubs each in a process of
its own with an empty cache, and prints frames per second of wall-clock time, CPU seconds per second of
video, and the process's peak resident memory. A second run on the same clip follows, with the cache, unless `--once`.
"""

import json
import os
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import av

CHILD = """
import json, os, resource, sys, time
from lipsync_core import dub
began, cpu = time.monotonic(), time.process_time()
result = dub(sys.argv[1], sys.argv[2], sys.argv[3], overwrite=True)[0]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
print(json.dumps(dict(frames=result.frames, fps=float(result.frame_rate), mode=result.mode,
    wall=time.monotonic() - began, cpu=time.process_time() - cpu, peak=peak, seconds=result.seconds)))
"""


def looped(source, kind, seconds, target):
    """Repeats the packets of one stream until it lasts ``seconds``, without re-encoding."""
    with av.open(str(target), "w") as sink:
        out = None
        shift = 0
        while True:
            with av.open(str(source)) as container:
                stream = next(s for s in container.streams if s.type == kind)
                if out is None:
                    out = sink.add_stream_from_template(stream)
                    base = stream.time_base
                packets = [p for p in container.demux(stream) if p.dts is not None]
            first = min(p.dts for p in packets)
            length = max(p.pts + (p.duration or 1) for p in packets) - min(p.pts for p in packets)
            for packet in packets:
                if (packet.dts - first + shift) * base >= seconds:
                    return
                packet.pts += shift - first
                packet.dts += shift - first
                packet.stream = out
                sink.mux(packet)
            shift += length


def main():
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    words = [word for word in sys.argv[1:] if word != "--once"]
    clip, voice = map(Path, words[:2])
    lengths = [Fraction(word) for word in words[2:]] or [10, 60, 600]
    rounds = ("",) if "--once" in sys.argv else ("", " again")
    print(
        f"{'input':>8} {'frames':>7} {'fps':>7} {'x real':>7} {'cpu/s':>6} {'peak MiB':>9}  stages"
    )
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for seconds in lengths:
            long_clip, long_voice = folder / f"{seconds}.mp4", folder / f"{seconds}.mka"
            looped(clip, "video", seconds, long_clip)
            looped(voice, "audio", seconds, long_voice)
            for note in rounds:
                environment = os.environ | {"LIPSYNC_CACHE": str(folder / f"cache-{seconds}")}
                run = subprocess.run(
                    [sys.executable, "-c", CHILD, long_clip, long_voice, folder / "out.mp4"],
                    env=environment, capture_output=True, text=True, check=False,
                )  # fmt: skip
                if run.returncode:
                    raise SystemExit(run.stderr)
                told = json.loads(run.stdout.splitlines()[-1])
                length = told["frames"] / told["fps"]
                stages = ", ".join(f"{k} {v:.1f} s" for k, v in told["seconds"].items())
                print(
                    f"{float(seconds):6.0f} s {told['frames']:7d} {told['frames'] / told['wall']:7.1f}"
                    f" {length / told['wall']:7.2f} {told['cpu'] / length:6.2f} {told['peak']:9.0f}"
                    f"  {told['mode']}: {stages}{note}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
