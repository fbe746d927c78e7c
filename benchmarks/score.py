"""Speed and memory of a score: `python benchmarks/score.py CLIP [--engine NAME] [--report] [seconds ...]`.

Loops the clip with its own sound to the given lengths (1 and 10 minutes by default), scores each in a
process of its own, and prints seconds of clip per second of wall-clock time, CPU seconds per second of
clip, the process's peak resident memory, and the size of the report.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import av

CHILD = """
import json, pathlib, resource, sys, time
from lipsync_core.scoring import report
from lipsync_core.scoring.sync import examine
began, cpu = time.monotonic(), time.process_time()
found = examine(sys.argv[1], engine=sys.argv[2])
page = pathlib.Path(sys.argv[1]).with_suffix(".html")
if sys.argv[3] == "report":
    report.write(found, page)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
print(json.dumps(dict(duration=found.watched.duration, engine=found.score.engine,
    wall=time.monotonic() - began, cpu=time.process_time() - cpu, peak=peak,
    page=page.stat().st_size / 1e6 if page.exists() else 0, says=found.score.summary)))
"""


def looped(source, seconds, target):
    """Repeats a clip with its sound, both by the length of its picture, without re-encoding."""
    with av.open(str(target), "w") as sink:
        outs, shift, bases = {}, 0, {}
        while shift < seconds:
            with av.open(str(source)) as container:
                streams = [container.streams.video[0], container.streams.audio[0]]
                if not outs:
                    for stream in streams:
                        outs[stream.type] = sink.add_stream_from_template(stream)
                        bases[stream.type] = stream.time_base
                packets = [p for p in container.demux(*streams) if p.dts is not None]
                pictures = [p for p in packets if p.stream.type == "video"]
                base = bases["video"]
                first = min(p.dts for p in pictures) * base
                length = (max(p.pts + (p.duration or 1) for p in pictures)
                          - min(p.pts for p in pictures)) * base  # fmt: skip
                for packet in packets:
                    kind = packet.stream.type
                    if kind == "audio" and (packet.pts + packet.duration) * bases[kind] > length:
                        continue
                    if kind == "audio" and packet.pts < 0 and shift:
                        # what an encoder puts before the beginning overlaps the end of the last turn
                        continue
                    ticks = round((shift - first) / bases[kind])
                    packet.pts += ticks
                    packet.dts += ticks
                    packet.stream = outs[kind]
                    sink.mux(packet)
            shift += length


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clip", type=Path)
    parser.add_argument("seconds", nargs="*", type=int, default=[60, 600])
    parser.add_argument("--engine", default="embedded")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--keep", type=Path, help="a folder for the clips and pages")
    chosen = parser.parse_intermixed_args()
    with av.open(str(chosen.clip)) as container:
        if not container.streams.audio:
            raise SystemExit(f"{chosen.clip} has no sound")
    print(
        f"{'input':>8} {'engine':>10} {'x real':>7} {'cpu/s':>6} {'peak MiB':>9} {'page MB':>8}  verdict"
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.keep or temporary
        for seconds in chosen.seconds:
            video = Path(folder) / f"{seconds}.mp4"
            looped(chosen.clip, seconds, video)
            run = subprocess.run(
                [sys.executable, "-c", CHILD, video, chosen.engine,
                 "report" if chosen.report else ""],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if run.returncode:
                raise SystemExit(run.stderr)
            told = json.loads(run.stdout.splitlines()[-1])
            length = told["duration"]
            print(
                f"{seconds:6d} s {told['engine']:>10} {length / told['wall']:7.1f} "
                f"{told['cpu'] / length:6.2f} {told['peak']:9.0f} {told['page']:8.1f}  {told['says']}",
                flush=True,
            )


if __name__ == "__main__":
    main()
