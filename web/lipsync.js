// Registers what LipSync adds to the page. Every node works without any of it.
import { app } from "../../scripts/app.js";
import { compareWidget } from "./compare.js";
import { reportWidget } from "./report.js";
import { addUploads } from "./upload.js";
import { waveWidget } from "./wave.js";
import { learn } from "./words.js";

app.registerExtension({
  name: "LipSync",

  // Before any node is made: buttons get their words when their node does.
  async init() {
    await learn();
  },

  getCustomWidgets() {
    return {
      LIPSYNC_REPORT: (node, name) => ({ widget: reportWidget(node, name) }),
      LIPSYNC_WAVE: (node, name) => ({ widget: waveWidget(node, name) }),
      LIPSYNC_COMPARE: (node, name) => ({ widget: compareWidget(node, name) }),
    };
  },

  nodeCreated(node) {
    addUploads(node);
  },
});
