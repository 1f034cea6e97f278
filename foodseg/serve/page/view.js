// What was found, as every page of foodseg shows it: colours over the picture, the list, the name under the pointer.

import { save } from "./files.js";
import { fold, isFolded, percent, showLegend } from "./legend.js";
import { labelMapPng } from "./masks.js";
import { paint } from "./paint.js";
import { place } from "./stage.js";

const $ = (id) => document.getElementById(id);

// plate: what `plateOf` or `plateOfLabels` returned, null while there is nothing to see; selected: Uint8Array of 0 and 1,
// the pixels of an outline, or undefined.
export const view = { plate: null, selected: undefined };
let lit = null; // id that is highlighted
const hidden = new Set(); // ids

// Empties the page for a picture at this address.
export function showPicture(url) {
  view.plate = null;
  view.selected = undefined;
  hidden.clear();
  $("picture").src = url;
  showWork(true);
  $("result").hidden = true;
  $("overlay").hidden = true;
}

export function showWork(begun) {
  $("start").hidden = begun;
  $("work").hidden = !begun;
}

// note: one more sentence of the summary, where something was found.
export function showPlate(plate, note = "") {
  view.plate = plate;
  $("stage").style.setProperty("--ratio", plate.width / plate.height);
  showLegend($("legend"), plate.ingredients, hidden, { light, repaint });
  fold($("legend"), $("traces"), plate.ingredients, isFolded($("traces")));
  $("summary").textContent = summary() + (plate.ingredients.length ? note : "");
  $("result").hidden = false;
  $("overlay").hidden = false;
  repaint();
}

export function summary() {
  const { ingredients } = view.plate, count = ingredients.length;
  if (!count) return "No ingredient found on this picture.";
  const food = ingredients.reduce((sum, item) => sum + item.share_of_image, 0);
  return `${count} ingredient${count === 1 ? "" : "s"}; food covers ${percent(food)} of the picture.`;
}

// The summary and the largest ingredients, for those who cannot see them.
export function announceResult() {
  const largest = view.plate.ingredients.slice(0, 3).map(({ name, share_of_food }) => `${name} ${percent(share_of_food)}`);
  announce([$("summary").textContent, ...largest].join(" "));
}

export function announce(text) {
  $("announce").textContent = text;
}

export function repaint() {
  const { plate, selected } = view;
  if (!plate) return;
  const visible = plate.ingredients.filter(({ id }) => !hidden.has(id));
  $("toggle-all").textContent = visible.length ? "Hide all" : "Show all";
  $("toggle-all").hidden = !plate.ingredients.length;
  const colours = new Map(visible.map(({ id, colour }) => [id, colour]));
  const opacity = $("opacity").value / 100;
  paint($("overlay"), { ...plate, colours, lit: colours.has(lit) ? lit : null, selected, opacity });
}

function light(id) {
  if (lit === id) return;
  lit = id;
  repaint();
  for (const row of $("legend").children) row.classList.toggle("lit", Number(row.dataset.id) === id);
}

// point: {x, y} in pixels of the picture, or null; aloud: it is announced, too.
export function hover(point, aloud) {
  const { plate } = view;
  const item = point && plate.ingredients.find(({ id }) => id === plate.labels[point.y * plate.width + point.x]);
  light(item?.id ?? null);
  $("tip").hidden = !item;
  if (aloud) announce(item ? `${item.name} ${percent(item.share_of_food)}` : "no food");
  if (!item) return;
  $("tip-colour").style.background = item.colour;
  $("tip-text").textContent = `${item.name} ${percent(item.share_of_food)}`;
  place($("tip"), point, plate);
  const left = point.x > plate.width / 2, room = left ? point.x / plate.width : 1 - point.x / plate.width;
  $("tip").style.maxWidth = `calc(${100 * room}% - 14px)`;
  $("tip").classList.toggle("left", left);
  $("tip").classList.toggle("below", point.y < plate.height / 4);
}

// Saves the label map beside the picture's name; rejects where the browser cannot write it.
export async function saveMask(picture) {
  const { labels, width, height, ingredients } = view.plate;
  save(await labelMapPng(labels, width, height, ingredients), picture, "mask.png");
}

export function watchView() {
  $("picture").addEventListener("load", () => {
    $("stage").style.setProperty("--ratio", $("picture").naturalWidth / $("picture").naturalHeight);
  });
  $("opacity").addEventListener("input", () => {
    $("opacity-value").textContent = `${$("opacity").value} %`;
    repaint();
  });
  $("toggle-all").addEventListener("click", () => {
    const ids = view.plate.ingredients.map(({ id }) => id);
    const hide = ids.some((id) => !hidden.has(id));
    ids.forEach((id) => (hide ? hidden.add(id) : hidden.delete(id)));
    showLegend($("legend"), view.plate.ingredients, hidden, { light, repaint });
    repaint();
  });
  $("traces").addEventListener("click", () => fold($("legend"), $("traces"), view.plate.ingredients, !isFolded($("traces"))));
}
