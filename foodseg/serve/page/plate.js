// What is on the plate: a label map; of a server's answer with the corrections of the person at the screen on top of it.

import { colourOf, countIds, fillMask, maskOf } from "./masks.js";

export const NOT_FOOD = ""; // the name of a correction that takes a region off the plate

// answer: of /v1/segment with format=rle. classes: [{id, name, colour}] that the model knows.
// edits: [{pixels: Uint32Array of places in the label map, name}], in the order they were made.
// Returns {labels: Uint16Array, width, height, ingredients}: largest first, `confidence` null where a person named it.
export function plateOf(answer, classes, edits) {
  const { width, height } = answer.image;
  const labels = new Uint16Array(width * height);
  const known = new Map();
  for (const ingredient of answer.ingredients) {
    fillMask(labels, ingredient.mask, ingredient.id);
    known.set(ingredient.id, ingredient);
  }
  for (const { pixels, name } of edits) {
    const id = name === NOT_FOOD ? 0 : idOf(name, known, classes);
    for (const at of pixels) labels[at] = id;
  }
  return plateOfLabels(labels, width, height, [...known.values()]);
}

// labels: Uint16Array of ids, row by row. known: [{id, name, colour, confidence}] of all ids that may be in it.
// Returns {labels, width, height, ingredients} as `plateOf`.
export function plateOfLabels(labels, width, height, known) {
  const counts = countIds(labels);
  const food = labels.length - counts[0];
  const ingredients = known
    .filter(({ id }) => counts[id] > 0)
    .map(({ id, name, colour, confidence }) => ({
      id, name, colour, confidence, pixels: counts[id],
      share_of_food: counts[id] / food, share_of_image: counts[id] / labels.length,
    }))
    .sort((one, other) => other.pixels - one.pixels || one.id - other.id);
  return { labels, width, height, ingredients };
}

// Returns the id of a name, whatever its case; a name that nobody knows gets the next free id and joins `known`.
function idOf(name, known, classes) {
  const same = (item) => item.name.toLowerCase() === name.toLowerCase();
  const found = [...known.values()].find(same) ?? classes.find(same);
  const id = found?.id ?? 1 + Math.max(0, ...known.keys(), ...classes.map((item) => item.id));
  if (!known.has(id)) {
    known.set(id, { id, name: found?.name ?? name, colour: found?.colour ?? colourOf(id), confidence: null });
  }
  return id;
}

// Returns the pixels of a mask as Uint8Array of 0 and 1, and the id that most of them have on the plate.
export function outlined(mask, { labels }) {
  const pixels = new Uint8Array(labels.length), votes = new Map();
  fillMask(pixels, mask, 1);
  pixels.forEach((set, at) => set && votes.set(labels[at], (votes.get(labels[at]) ?? 0) + 1));
  const [most] = [...votes].sort((one, other) => other[1] - one[1])[0] ?? [0];
  return { pixels, most };
}

// Returns the answer to save: as it came where nothing was corrected, else with `edited` and masks and numbers anew.
export function answerOf(answer, plate, edits) {
  if (!edits.length) return answer;
  const ingredients = plate.ingredients.map((item) => ({
    ...item, mask: maskOf(plate.labels, item.id, plate.width, plate.height),
  }));
  return { ...answer, edited: true, ingredients };
}
