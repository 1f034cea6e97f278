// The page: takes a picture, shows what is on it, lets people correct it and take the result home.
//
//   api.js    requests, and what their errors mean       plate.js  the answer with corrections on top of it
//   masks.js  run lengths, label maps, PNG               paint.js  ids over the picture
//   view.js   what was found, on the screen              legend.js the lists of ingredients
//   stage.js  pointing at the picture                    files.js  pictures in, results out
//   server.js what the server can do

import { ApiError, prompt, segment, zeroShot } from "./api.js";
import { save, sendable, watchFiles } from "./files.js";
import { percent, showGiven, tidy } from "./legend.js";
import { answerOf, NOT_FOOD, outlined, plateOf } from "./plate.js";
import { learnModel, learnServer, server } from "./server.js";
import { showPoints, watchStage } from "./stage.js";
import { announce, announceResult, hover, repaint, saveMask, showPicture, showPlate, showWork, summary, view, watchView } from "./view.js";

const $ = (id) => document.getElementById(id);
const KEY = "foodseg-key"; // in the tab's own storage: gone when the tab is closed

let picture = null, opening = null; // {file, url, id}; which picture is coming in
let answer = null;
let edits = [], given = []; // corrections, and names that the person gave
let wanted = []; // any names that CLIP looks for; none = the trained model answers
let selection = null; // {points, masks, chosen, pixels}
let asked = null; // points of the outline that is under way
let running = null; // AbortController of the request under way

// --- what the server can do ---

async function learn() {
  try {
    await learnServer(key());
  } catch (error) {
    fail(error, learn);
  }
}

function key() {
  return sessionStorage.getItem(KEY) ?? "";
}

// --- a picture comes in ---

async function open(chosen) {
  const own = (opening = {});
  const file = await sendable(chosen);
  if (opening !== own) return; // another picture came meanwhile
  if (picture) URL.revokeObjectURL(picture.url);
  picture = { file, url: URL.createObjectURL(file), id: null };
  answer = null;
  edits = [];
  showPicture(picture.url);
  give([]);
  drop();
  wanted = [];
  if (server.models.length || !server.clip) look();
  else $("wanted").focus({ preventScroll: true });
}

async function look() {
  const options = { model: $("model").value, ingredients: given, refine: $("refine").checked && !$("refine").disabled };
  const names = wanted;
  const ask = names.length
    ? (rest) => zeroShot(picture.file, { names, refine: options.refine, ...rest })
    : (rest) => segment(picture.file, { ...options, ...rest });
  const found = await run("Looking at the picture", look, ask);
  $("again-empty").hidden = Boolean(found || view.plate || running);
  if (!found) return;
  answer = { ...found, ingredients: found.ingredients ?? [] };
  edits = names.length ? [] : edits; // ids are those of other names now
  picture.id = answer.image.id;
  drop();
  show();
  const late = options.refine && !answer.refined;
  const outlined = late ? ", SAM took too long: outlines are the model's own" : answer.refined ? ", outlines by SAM" : "";
  const model = answer.model ? `Model ${answer.model.name} ${answer.model.sha.slice(0, 12)}` : `CLIP ${server.clip_model}, not trained on food`;
  $("made-by").textContent = `${model}${outlined}`;
  announceResult();
}

// Does one thing at a time: cancels what was under way, shows what is, says what went wrong. Returns null if nothing came.
async function run(what, again, request) {
  running?.abort();
  const own = (running = new AbortController());
  $("problem").hidden = true;
  $("busy-text").textContent = `${what} ...`;
  $("busy").hidden = false;
  announce(what);
  const onWait = (error, seconds) => {
    $("busy-text").textContent = `${error.message} Trying again in ${seconds} s.`;
    announce($("busy-text").textContent);
  };
  try {
    return await request({ key: key(), signal: own.signal, onWait });
  } catch (error) {
    if (error.name !== "AbortError") fail(error, again);
    return null;
  } finally {
    if (running === own) {
      running = null;
      $("busy").hidden = true;
    }
  }
}

function fail(error, again) {
  const [message, hint, request] =
    error instanceof ApiError
      ? [error.message, error.hint, error.requestId && `Request ${error.requestId}`]
      : ["This page made a mistake.", String(error), ""];
  $("problem-message").textContent = message;
  const locked = error.status === 401;
  const useful = (hint ?? "").replace(/[;,.]? *(for example: )?curl .*/s, "").replace(/.*\/v1\/.*/s, "").trim().replace(/([^.!?])$/, "$1."); // routes: for programs
  $("problem-hint").textContent = locked ? "Type the key that you were given. It stays in this tab." : useful;
  $("problem-request").textContent = request ?? "";
  const hopeless = [400, 413, 415, 422].includes(error.status); // the same again would end the same
  $("key-form").hidden = !locked;
  $("problem-retry").hidden = locked || hopeless || !again;
  $("problem-retry").onclick = () => {
    $("problem").hidden = true;
    again();
  };
  $("key-form").onsubmit = async (event) => {
    event.preventDefault();
    sessionStorage.setItem(KEY, $("key").value.trim());
    $("problem").hidden = true;
    await learn();
    if ($("problem").hidden && again !== learn) again();
  };
  $("problem").hidden = false;
  if (locked) $("key").focus();
  else $("problem").scrollIntoView({ block: "nearest" });
}

// --- what is on it ---

function show() {
  const plate = plateOf(answer, answer.model ? server.classes : [], edits);
  showPlate(plate, picture.file.shrunk ? ` It was sent at ${plate.width} x ${plate.height} pixels.` : "");
  $("undo").hidden = !edits.length;
}

// --- outline something and name it ---

async function outline(point, how) {
  const wanted = how ?? document.querySelector("input[name=how]:checked").value;
  const before = wanted === "anew" ? [] : (asked ?? selection?.points ?? []);
  const points = [...before, [point.x, point.y, wanted === "takes" && before.length ? 0 : 1]];
  asked = points;
  showPoints($("points"), points, view.plate);
  const request = (rest) => prompt(picture.file, picture.id, points, rest);
  const found = await run("Outlining", () => outline(point, wanted), request);
  if (asked !== points) return; // a later click has this one's points too, or the outline was dropped
  asked = null;
  if (!found || !view.plate) {
    showPoints($("points"), selection?.points ?? [], view.plate ?? { width: 1, height: 1 });
    return;
  }
  picture.id = found.image.id;
  hover(null); // nothing in front of the outline
  const opens = !selection;
  selection = { points, masks: found.masks, chosen: 0, pixels: null };
  choose(0);
  $("selection").hidden = false;
  if (opens) $("name").value = "";
  if (!matchMedia("(pointer: coarse)").matches) $("name").focus({ preventScroll: true }); // a telephone's keyboard would hide it
  $("selection").scrollIntoView({ block: "nearest", behavior: "smooth" });
}

function choose(index) {
  const mask = selection.masks[index];
  const { pixels, most } = outlined(mask.mask, view.plate);
  Object.assign(selection, { chosen: index, pixels });
  view.selected = pixels;
  const taken = view.plate.ingredients.find(({ id }) => id === most)?.name ?? "not food";
  $("selection-text").textContent = `Taken for ${taken} so far; ${percent(mask.share_of_image)} of the picture.`;
  $("other").hidden = selection.masks.length < 2;
  $("other").textContent = `Other size ${index + 1}/${selection.masks.length}`;
  announce(`Outlined. ${$("selection-text").textContent}`);
  repaint();
}

function name(text) {
  const places = [];
  selection.pixels.forEach((set, at) => set && places.push(at));
  edits.push({ pixels: Uint32Array.from(places), name: text });
  drop();
  show();
  announce(text === NOT_FOOD ? "Taken off the plate." : `Named ${text}. ${summary()}`);
}

function drop() {
  selection = asked = null;
  view.selected = undefined;
  $("selection").hidden = true;
  $("points").replaceChildren();
  document.querySelector("input[name=how][value=anew]").checked = true;
  repaint();
}

// --- names that the person gives ---

function give(names) {
  given = [...new Set(names.map(tidy).filter(Boolean))];
  showGiven($("given"), given, (name) => {
    give(given.filter((other) => other !== name));
    $("ingredient").focus();
  });
}

// --- take it home ---

async function takeMask() {
  try {
    await saveMask(picture.file.name);
  } catch (error) {
    fail(new ApiError(0, null, "This browser cannot write the mask.", `Download the JSON instead: it holds the same. (${error})`, null));
  }
}

// --- who calls what ---

watchFiles([$("choose"), $("photograph")], $("drop-here"), open);
watchStage($("stage"), $("cross"), { size: () => view.plate, onHover: hover, onPick: outline, onEscape: drop });
$("another").addEventListener("click", () => $("choose").click());
watchView();
$("picture").addEventListener("error", () => showWork(false)); // no picture: the server says what else it is
$("undo").addEventListener("click", () => {
  edits.pop();
  drop();
  show();
});
$("cancel").addEventListener("click", () => running?.abort());
$("problem-close").addEventListener("click", () => ($("problem").hidden = true));
$("other").addEventListener("click", () => choose((selection.chosen + 1) % selection.masks.length));
$("name-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = tidy($("name").value);
  if (text) name(text);
  else $("name").focus();
});
$("any-names-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const names = [...new Set($("wanted").value.split(",").map(tidy).filter(Boolean))];
  if (!names.length) return $("wanted").focus();
  wanted = names;
  look();
});
$("not-food").addEventListener("click", () => name(NOT_FOOD));
$("drop").addEventListener("click", drop);
$("selection").addEventListener("keydown", (event) => event.key === "Escape" && drop());
$("guide").addEventListener("submit", (event) => {
  event.preventDefault();
  give([...given, ...$("ingredient").value.split(",")]);
  $("ingredient").value = "";
});
$("model").addEventListener("change", function change() {
  learnModel(key()).catch((error) => fail(error, change));
});
for (const id of ["again", "again-empty"]) {
  $(id).addEventListener("click", () => {
    if ($("ingredient").value.trim()) $("guide").requestSubmit(); // typed, but not added yet
    if (server.models.length) wanted = [];
    look();
  });
}
$("save-mask").addEventListener("click", takeMask);
$("save-json").addEventListener("click", () => {
  const found = answerOf(answer, view.plate, edits);
  save(new Blob([JSON.stringify(found, null, 1)], { type: "application/json" }), picture.file.name, "json");
});

addEventListener("unhandledrejection", (event) => fail(event.reason)); // ours too are said plainly
learn();
