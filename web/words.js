// What the widgets say, in the language of the page; English where there is no translation.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

let words = {};

/** Fetches the translations; before that, and where it fails, everything is said in English. */
export async function learn() {
  const language = app.extensionManager?.setting?.get("Comfy.Locale");
  if (!language || language === "en") return;
  try {
    const answer = await api.fetchApi("/i18n");
    const all = answer.ok ? await answer.json() : {};
    words = all[language]?.lipsync ?? {};
  } catch {
    // Without translations the widgets work the same.
  }
}

/** The text called `key` in `locales/<language>/main.json`, else `english`. */
export function say(key, english) {
  return words[key] ?? english;
}
