// Before and after in one picture: the border between them follows the pointer, both run together.
import { api } from "../../scripts/api.js";
import { afterRun, elementWidget, parsed, refit } from "./element.js";
import { say } from "./words.js";

const HEIGHT = 260;
const STILL = /\.(png|jpe?g|webp|gif|bmp)$/i;

export function compareWidget(node, name) {
  const root = document.createElement("div");
  root.style.cssText = "position:relative;width:100%;height:100%;overflow:hidden;border-radius:6px;background:#111;display:none;";
  const layer = (from) => {
    const box = document.createElement("div");
    box.style.cssText = `position:absolute;inset:0;${from};`;
    root.append(box);
    return box;
  };
  const after = layer("z-index:1");
  const before = layer("z-index:2;clip-path:inset(0 50% 0 0)");
  const line = document.createElement("div");
  line.style.cssText = "position:absolute;z-index:3;top:0;bottom:0;left:50%;width:2px;background:#fff;pointer-events:none;";
  const label = (text, side) => {
    const tag = document.createElement("span");
    tag.textContent = text;
    tag.style.cssText = `position:absolute;z-index:4;top:6px;${side}:6px;font:11px sans-serif;color:#fff;background:#0008;padding:2px 6px;border-radius:4px;pointer-events:none;`;
    root.append(tag);
  };
  root.append(line);
  label(say("before", "before"), "left");
  label(say("after", "after"), "right");

  const show = (box, file, sound) => {
    const url = api.apiURL(`/view?${new URLSearchParams(file)}`);
    const still = STILL.test(file.filename);
    const picture = document.createElement(still ? "img" : "video");
    picture.style.cssText = "width:100%;height:100%;object-fit:contain;";
    if (!still) {
      Object.assign(picture, { loop: true, playsInline: true, muted: !sound, preload: "metadata" });
    }
    picture.src = url;
    box.replaceChildren(picture);
    return still ? null : picture;
  };
  let players = [];
  root.addEventListener("pointermove", (event) => {
    const frame = root.getBoundingClientRect();
    const part = Math.min(Math.max((event.clientX - frame.left) / frame.width, 0), 1) * 100;
    before.style.clipPath = `inset(0 ${100 - part}% 0 0)`;
    line.style.left = `${part}%`;
  });
  root.addEventListener("click", () => {
    const [first] = players;
    if (!first) return;
    const play = first.paused;
    for (const player of players) {
      player.currentTime = first.currentTime;
      if (play) player.play().catch(() => {});
      else player.pause();
    }
  });

  const shown = () => root.style.display !== "none";
  const widget = elementWidget(
    node,
    name,
    "lipsync_compare",
    root,
    () => (shown() ? HEIGHT : 0),
    (value) => {
      const pair = parsed(value);
      root.style.display = pair ? "" : "none";
      root.style.minHeight = pair ? `${HEIGHT}px` : "0";
      root.title = say("compare", "Move the pointer to compare, click to play or stop.");
      players = pair
        ? [show(after, pair.after, true), show(before, pair.before, false)].filter(Boolean)
        : [];
    },
  );
  afterRun(node, (output) => {
    const [first] = output.lipsync_before ?? [];
    const [last] = output.images ?? [];
    widget.value = first && last ? JSON.stringify({ before: first, after: last }) : "";
    refit(node);
  });
  return widget;
}
