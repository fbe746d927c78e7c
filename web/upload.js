// Buttons that bring the user's own files: one click, and the combo above holds the upload.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { say } from "./words.js";

const PICTURES = () => say("use_clip", "use my video or picture…");
const VOICE = () => say("use_voice", "use my voice…");
const BUTTONS = {
  LipSyncLoadSample: [
    ["clip", PICTURES, "video/*,image/*"],
    ["sound", VOICE, "audio/*,video/*"],
  ],
  LipSyncLoadAudio: [["file", VOICE, "audio/*,video/*"]],
};

export function addUploads(node) {
  const kind = node.comfyClass ?? node.type;
  for (const [field, label, accept] of BUTTONS[kind] ?? []) {
    const button = node.addWidget("button", label(), null, () => choose(node, field, accept));
    // Neither saved nor sent: it holds nothing.
    button.serialize = false;
    button.options ??= {};
    button.options.serialize = false;
  }
}

function choose(node, field, accept) {
  const input = document.createElement("input");
  input.type = "file";
  input.accept = accept;
  input.addEventListener("change", () => {
    if (input.files?.[0]) upload(node, field, input.files[0]);
  });
  input.click();
}

async function upload(node, field, file) {
  const body = new FormData();
  body.append("image", file);
  let answer;
  try {
    answer = await api.fetchApi("/upload/image", { method: "POST", body });
  } catch (error) {
    return complain(file, error.message);
  }
  if (answer.status !== 200) {
    const large = answer.status === 413;
    return complain(
      file,
      large
        ? say(
            "too_large",
            "the file is larger than this ComfyUI accepts; start it with --max-upload-size, or copy the file into its input folder",
          )
        : `${say("refused", "the server answered")} ${answer.status}`,
    );
  }
  const { name, subfolder } = await answer.json();
  const value = subfolder ? `${subfolder}/${name}` : name;
  const combo = node.widgets?.find((w) => w.name === field);
  if (!combo) return;
  const values = combo.options.values;
  if (Array.isArray(values) && !values.includes(value)) combo.options.values = [...values, value];
  combo.value = value;
  combo.callback?.(value);
  node.setDirtyCanvas?.(true, true);
}

function complain(file, reason) {
  app.extensionManager?.toast?.add({
    severity: "error",
    summary: `LipSync: ${file.name} ${say("not_uploaded", "was not uploaded")}`,
    detail: reason,
    life: 10000,
  });
}
