"""Speed and memory of a whole dub: `python benchmarks/dub.py CLIP VOICE [seconds ...] [--once]`.

Makes looped inputs of the given lengths (10 s, 1 min and 10 min by default), dubs each in a process of
its own with an empty cache, and prints frames per second of wall-clock time, CPU seconds per second of
video, and the process's peak resident memory. A second run on the same clip follows, with the cache, unless `--once`.

Before each run the same clip is decoded once and encoded with x264's preset veryfast, with nothing in between: `plain`
is what share of that speed the dub has. Where cores are shared it hangs less on the hour than frames per second do.
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

PLAIN = """
import sys, time, av
began = time.monotonic()
with av.open(sys.argv[1]) as source, av.open(sys.argv[2], "w") as sink:
    stream = source.streams.video[0]
    stream.thread_type = "AUTO"
    out = sink.add_stream("libx264", rate=stream.average_rate, options={"preset": "veryfast", "crf": "18"})
    out.width, out.height, out.pix_fmt = stream.width, stream.height, stream.pix_fmt
    for count, frame in enumerate(source.decode(stream), start=1):
        frame.pict_type = 0
        sink.mux(out.encode(frame))
    sink.mux(out.encode(None))
print(count / (time.monotonic() - began))
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


def told_by(script, *words, environment=None):
    """The last line that ``script`` prints in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-c", script, *words],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if run.returncode:
        raise SystemExit(run.stderr)
    return run.stdout.splitlines()[-1]


def main():
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    words = [word for word in sys.argv[1:] if word != "--once"]
    clip, voice = map(Path, words[:2])
    lengths = [Fraction(word) for word in words[2:]] or [10, 60, 600]
    rounds = ("",) if "--once" in sys.argv else ("", " again")
    print(
        f"{'input':>8} {'frames':>7} {'fps':>7} {'plain':>6} {'x real':>7} {'cpu/s':>6} {'peak MiB':>9}  stages"
    )
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for seconds in lengths:
            long_clip, long_voice = folder / f"{seconds}.mp4", folder / f"{seconds}.mka"
            looped(clip, "video", seconds, long_clip)
            looped(voice, "audio", seconds, long_voice)
            for note in rounds:
                plain = float(told_by(PLAIN, long_clip, folder / "plain.mp4"))
                environment = os.environ | {"LIPSYNC_CACHE": str(folder / f"cache-{seconds}")}
                told = json.loads(
                    told_by(
                        CHILD, long_clip, long_voice, folder / "out.mp4", environment=environment
                    )
                )
                fps = told["frames"] / told["wall"]
                length = told["frames"] / told["fps"]
                stages = ", ".join(f"{k} {v:.1f} s" for k, v in told["seconds"].items())
                print(
                    f"{float(seconds):6.0f} s {told['frames']:7d} {fps:7.1f} {fps / plain:6.2f}"
                    f" {length / told['wall']:7.2f} {told['cpu'] / length:6.2f} {told['peak']:9.0f}"
                    f"  {told['mode']}: {stages}{note}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
