// Text that a node reports, in a box that can be read and copied.
import { afterRun, elementWidget, refit } from "./element.js";
import { say } from "./words.js";

export function reportWidget(node, name) {
  const box = document.createElement("textarea");
  box.readOnly = true;
  box.spellcheck = false;
  box.placeholder = say("no_report", "Run the workflow to see the report here.");
  box.className = "comfy-multiline-input";
  box.style.cssText = "width:100%;height:100%;resize:none;font:12px/1.4 monospace;white-space:pre-wrap;";
  let lines = 0;
  const widget = elementWidget(
    node,
    name,
    "lipsync_report",
    box,
    () => Math.min(Math.max(lines * 17 + 16, 80), 420),
    (text) => {
      box.value = text;
      lines = text ? text.split("\n").length : 0;
    },
  );
  afterRun(node, (output) => {
    const text = [output.text ?? []].flat().join("\n");
    if (!text) return;
    widget.value = text;
    refit(node);
  });
  return widget;
}
