// The voice as a picture: its swing, where there is speech, how far the mouth opens; two handles trim it.
import { api } from "../../scripts/api.js";
import { afterRun, elementWidget, parsed, refit } from "./element.js";
import { say } from "./words.js";

const HEIGHT = 96;
const GRIP = 7;
const COLOURS = {
  ground: "#1b1d22",
  speech: "rgba(88, 190, 120, 0.22)",
  swing: "#7fa7d6",
  opening: "#f2a65a",
  outside: "rgba(10, 10, 12, 0.65)",
  handle: "#f4f4f4",
  text: "#c9ccd3",
};

export function waveWidget(node, name) {
  const root = document.createElement("div");
  root.style.cssText = "display:flex;flex-direction:column;width:100%;gap:4px;";
  const canvas = document.createElement("canvas");
  canvas.style.cssText = `width:100%;height:${HEIGHT}px;border-radius:6px;cursor:ew-resize;touch-action:none;`;
  canvas.title = say(
    "wave",
    "Green: speech. Blue: sound. Orange: how far the mouth opens. Drag the ends to trim.",
  );
  const player = document.createElement("audio");
  player.controls = true;
  player.preload = "metadata";
  player.style.cssText = "width:100%;height:28px;display:none;";
  root.append(canvas, player);

  let voice = null;
  const field = (wanted) => node.widgets?.find((w) => w.name === wanted);
  const range = () => {
    const start = Math.min(Number(field("start")?.value) || 0, voice.duration);
    const duration = Number(field("duration")?.value) || 0;
    const end = duration > 0 ? Math.min(start + duration, voice.duration) : voice.duration;
    return [start, end];
  };
  const put = (wanted, value) => {
    const widget = field(wanted);
    if (!widget) return;
    widget.value = Math.round(value * 100) / 100;
    widget.callback?.(widget.value);
  };

  const paint = () => {
    const width = canvas.clientWidth || 240;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = width * ratio;
    canvas.height = HEIGHT * ratio;
    const c = canvas.getContext("2d");
    c.scale(ratio, ratio);
    c.fillStyle = COLOURS.ground;
    c.fillRect(0, 0, width, HEIGHT);
    c.font = "11px sans-serif";
    if (!voice) {
      c.fillStyle = COLOURS.text;
      c.fillText(say("no_voice", "Run the workflow to see the voice here."), 10, HEIGHT / 2 + 4);
      return;
    }
    const x = (seconds) => (seconds / voice.duration) * width;
    c.fillStyle = COLOURS.speech;
    for (const [from, to] of voice.speech) c.fillRect(x(from), 0, x(to) - x(from), HEIGHT);
    const top = Math.max(...voice.peaks, 0.05);
    c.fillStyle = COLOURS.swing;
    const step = width / voice.peaks.length;
    voice.peaks.forEach((peak, i) => {
      const tall = Math.max((peak / top) * (HEIGHT - 16), 1);
      c.fillRect(i * step, (HEIGHT - tall) / 2, Math.max(step - 0.3, 0.5), tall);
    });
    c.strokeStyle = COLOURS.opening;
    c.lineWidth = 1.2;
    c.beginPath();
    voice.opening.forEach((open, i) => {
      c.lineTo(((i + 0.5) / voice.opening.length) * width, HEIGHT - 3 - open * (HEIGHT - 20));
    });
    c.stroke();
    const [start, end] = range();
    c.fillStyle = COLOURS.outside;
    c.fillRect(0, 0, x(start), HEIGHT);
    c.fillRect(x(end), 0, width - x(end), HEIGHT);
    c.fillStyle = COLOURS.handle;
    for (const at of [x(start), x(end)]) {
      c.fillRect(Math.min(Math.max(at - 1, 0), width - 2), 0, 2, HEIGHT);
      c.fillRect(Math.min(Math.max(at - 4, 0), width - 8), HEIGHT / 2 - 9, 8, 18);
    }
    c.fillStyle = COLOURS.text;
    const of = say("of", "of");
    c.fillText(`${start.toFixed(2)} – ${end.toFixed(2)} s ${of} ${voice.duration.toFixed(2)} s`, 8, 13);
  };

  let held = null;
  const seconds = (event) => {
    const box = canvas.getBoundingClientRect();
    return Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1) * voice.duration;
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (!voice) return;
    const [start, end] = range();
    const at = seconds(event);
    const reach = (GRIP / canvas.clientWidth) * voice.duration * 2;
    const near = Math.abs(at - start) <= Math.abs(at - end) ? "start" : "end";
    if (Math.abs(at - (near === "start" ? start : end)) > reach) return;
    held = near;
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!held) return;
    const [start, end] = range();
    const at = seconds(event);
    if (held === "start") {
      const first = Math.min(at, end - 0.05);
      put("start", first);
      put("duration", end >= voice.duration - 0.005 ? 0 : end - first);
    } else {
      const last = Math.max(at, start + 0.05);
      put("duration", last >= voice.duration - 0.005 ? 0 : last - start);
    }
    paint();
  });
  for (const event of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(event, () => (held = null));
  }
  new ResizeObserver(() => paint()).observe(canvas);

  const widget = elementWidget(
    node,
    name,
    "lipsync_wave",
    root,
    () => HEIGHT + (player.style.display === "none" ? 4 : 36),
    (value) => {
      voice = parsed(value);
      paint();
    },
  );
  afterRun(node, (output) => {
    const found = output.lipsync_wave?.[0];
    if (!found) return;
    const { file, ...picture } = found;
    widget.value = JSON.stringify(picture);
    if (file) {
      player.src = api.apiURL(`/view?${new URLSearchParams(file)}`);
      player.style.display = "";
    }
    refit(node);
  });
  for (const wanted of ["start", "duration"]) {
    // Numbers typed into the fields move the handles.
    queueMicrotask(() => {
      const number = field(wanted);
      if (!number) return;
      const before = number.callback;
      number.callback = function (...args) {
        before?.apply(this, args);
        if (!held) paint();
      };
    });
  }
  return widget;
}
