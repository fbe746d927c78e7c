// Opens every template of the pack in a running ComfyUI's page, runs one, and says what it saw.
// node page.mjs URL PACK FOLDER RENDERER RUN CHROMIUM PLAYWRIGHT
//   FOLDER: the templates' JSON files; RENDERER: classic or vue; RUN: name of the template to run;
//   PLAYWRIGHT: a folder with node_modules/playwright-core. One JSON object goes to stdout.
import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";

const [url, pack, folder, renderer, run, executablePath, playwright] = process.argv.slice(2);
const { chromium } = createRequire(path.join(path.resolve(playwright), "here.js"))("playwright-core");
const seen = { renderer, frontend: "", templates: [], errors: [], run: null, videos: [] };
const ours = (text) => text.includes(`/extensions/${pack}/`) || /\bLipSync/.test(text);

const settings = {
  "Comfy.TutorialCompleted": true,
  "Comfy.VueNodes.Enabled": renderer === "vue",
  "Comfy.Workflow.ShowMissingNodesWarning": true,
};
await fetch(`${url}/api/settings`, {
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(settings),
});

const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--mute-audio"],
});
try {
  const page = await browser.newPage({ viewport: { width: 1600, height: 1000 } });
  page.setDefaultTimeout(90_000);
  page.on("pageerror", (error) => {
    if (ours(`${error.stack ?? error}`)) seen.errors.push(`${error.stack ?? error}`);
  });
  page.on("console", (message) => {
    if (message.type() !== "error") return;
    const text = `${message.text()} ${message.location().url ?? ""}`;
    if (ours(text)) seen.errors.push(text);
  });
  await page.goto(url, { waitUntil: "domcontentloaded" });
  await page.waitForFunction(() => window.app?.vueAppReady && window.app.graph && window.LiteGraph);
  await page.waitForFunction(() => window.app.extensions?.some(({ name }) => name === "LipSync"));
  await page.waitForTimeout(1500);
  seen.frontend = await page.evaluate(() => window.__COMFYUI_FRONTEND_VERSION__ ?? "");

  const open = async (name) => {
    // From the server, as the template browser fetches it.
    const answer = await fetch(`${url}/api/workflow_templates/${pack}/${name}.json`);
    if (!answer.ok) throw new Error(`template ${name}: ${answer.status}`);
    const graph = await answer.json();
    await page.evaluate(([graph, name]) => window.app.loadGraphData(graph, true, true, name), [graph, name]);
    await page.waitForTimeout(800);
    return page.evaluate(async () => {
      const prompt = (await window.app.graphToPrompt()).output;
      const nodes = window.app.graph.nodes ?? window.app.graph._nodes;
      const known = window.LiteGraph.registered_node_types;
      const virtual = new Set(["Note", "MarkdownNote", "Reroute", "PrimitiveNode"]);
      const shown = (element) => element.getClientRects().length > 0;
      return {
        prompt,
        nodes: nodes.length,
        drawn: document.querySelectorAll("[data-node-id]").length,
        missing: nodes.filter((n) => n.has_errors || !(n.type in known || virtual.has(n.type))).map((n) => n.type),
        dialogs: [...document.querySelectorAll("[role=dialog], .comfy-missing-nodes")]
          .filter(shown)
          .map((element) => element.innerText.slice(0, 300)),
      };
    });
  };

  const listed = (await (await fetch(`${url}/api/workflow_templates`)).json())[pack] ?? [];
  const names = fs.readdirSync(folder).filter((file) => file.endsWith(".json")).map((file) => file.slice(0, -5));
  for (const name of names.sort()) {
    const found = await open(name);
    const graph = JSON.parse(fs.readFileSync(path.join(folder, `${name}.json`), "utf8"));
    seen.templates.push({ name, listed: listed.includes(name), wanted: graph.nodes.length, ...found });
  }

  await open(run);
  const posted = page.waitForResponse(
    (answer) => answer.request().method() === "POST" && new URL(answer.url()).pathname.endsWith("/prompt"),
  );
  await page.evaluate(() => window.app.queuePrompt(0, 1));
  const { prompt_id: id } = await (await posted).json();
  const end = Date.now() + 120_000;
  while (!seen.run && Date.now() < end) {
    const entry = (await (await fetch(`${url}/api/history/${id}`)).json())[id];
    seen.run = entry?.status.status_str ?? null;
    await page.waitForTimeout(300);
  }
  await page
    .waitForFunction(() => [...document.querySelectorAll("video")].some((video) => video.readyState >= 2), null, {
      timeout: 30_000,
    })
    .catch(() => {});
  seen.videos = await page.evaluate(async () => {
    const watch = async (video) => {
      video.muted = true;
      const start = video.currentTime;
      const refused = await video.play().then(() => null, String);
      for (let i = 0; i < 50 && video.currentTime <= start + 0.2; i++) {
        await new Promise((done) => setTimeout(done, 200));
      }
      const played = video.currentTime - start;
      video.pause();
      return { src: video.currentSrc, width: video.videoWidth, seconds: video.duration, played, refused };
    };
    const all = [];
    for (const video of document.querySelectorAll("video")) all.push(await watch(video));
    return all;
  });
} finally {
  await browser.close();
}
console.log(JSON.stringify(seen));
