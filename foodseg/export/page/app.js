// A page with a model in it: takes a picture, labels it here, shows what is on it. It fetches and sends nothing.
//
//   pixels.js  the picture as the model is shown it      model.js  the graph, run by onnxruntime-web
//   labels.js  scores to ids                             and, of the served page: view.js, plate.js, files.js, ...

import { save, watchFiles } from "../../serve/page/files.js";
import { colourOf } from "../../serve/page/masks.js";
import { plateOfLabels } from "../../serve/page/plate.js";
import { watchStage } from "../../serve/page/stage.js";
import { announce, announceResult, hover, saveMask, showPicture, showPlate, showWork, view, watchView } from "../../serve/page/view.js";
import { confidences, labelMap } from "./labels.js";
import { openModel } from "./model.js";
import { decode, prepare } from "./pixels.js";

const $ = (id) => document.getElementById(id);
const settings = JSON.parse($("settings").textContent);

let model = null; // a promise of it
let picture = null; // {file, url}, the last one that came

// --- a picture comes in ---

async function open(file) {
  if (picture) URL.revokeObjectURL(picture.url);
  const own = (picture = { file, url: URL.createObjectURL(file) });
  $("problem").hidden = true;
  showPicture(own.url);
  $("made-by").textContent = "";
  busy("Looking at the picture");
  try {
    const image = await decode(file).catch(() => {
      throw new Unreadable();
    });
    const run = await model;
    await shown();
    if (picture !== own) return; // another one came meanwhile
    const started = performance.now();
    const { values, height, width, fitted } = prepare(image, settings.size, settings.mean);
    const prepared = performance.now();
    const scores = { ...(await run(values, height, width)), fitted };
    const computed = performance.now();
    const labels = labelMap(scores, image.height, image.width);
    const sure = confidences(scores, labels, image.height, image.width, settings.temperature);
    const known = settings.classes.map((name, id) => ({ id, name, colour: colourOf(id), confidence: sure.get(id) ?? 0 }));
    const plate = plateOfLabels(labels, image.width, image.height, known.slice(1));
    const ended = performance.now();
    if (picture !== own) return;
    showPlate(plate);
    const [all, network] = [ended - started, computed - prepared].map((time) => `${Math.round(time)} ms`);
    $("made-by").textContent = `${settings.about} Took ${all}, of which the network ${network}.`;
    announceResult();
  } catch (error) {
    if (picture === own) fail(error);
  } finally {
    if (picture === own) $("busy").hidden = true;
  }
}

class Unreadable extends Error {}

function busy(text) {
  $("busy-text").textContent = `${text} ...`;
  $("busy").hidden = false;
  announce(text);
}

// Resolves when what was changed is on the screen: the model keeps this thread busy.
function shown() {
  return new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
}

function fail(error) {
  const unreadable = error instanceof Unreadable;
  $("problem-message").textContent = unreadable ? "This browser cannot read the file as a picture." : "The model cannot run in this browser.";
  $("problem-hint").textContent = unreadable
    ? "JPEG, PNG and WebP are read."
    : `It needs a current browser with WebAssembly, and memory for the model. (${error?.message ?? error})`;
  $("problem").hidden = false;
  showWork(false);
}

// --- take it home ---

function result() {
  const { width, height, ingredients } = view.plate;
  const found = ingredients.map(({ colour, ...item }) => item);
  return { image: picture.file.name, height, width, temperature: settings.temperature, ingredients: found, model: settings.model };
}

// --- who calls what ---

watchView();
watchFiles([$("choose"), $("photograph")], $("drop-here"), open);
watchStage($("stage"), $("cross"), { size: () => view.plate, onHover: hover, onPick: () => {}, onEscape: () => {} });
$("another").addEventListener("click", () => $("choose").click());
$("problem-close").addEventListener("click", () => ($("problem").hidden = true));
$("save-mask").addEventListener("click", () => saveMask(picture.file.name));
$("save-json").addEventListener("click", () => {
  save(new Blob([JSON.stringify(result(), null, 1)], { type: "application/json" }), picture.file.name, "json");
});
addEventListener("unhandledrejection", (event) => fail(event.reason));

model = openModel(settings);
model.then(() => ($("state").textContent = "The model is loaded. JPEG, PNG or WebP."), fail);
