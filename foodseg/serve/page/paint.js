// Paints ids over the picture: a tint for each ingredient, a darker line where it ends, and the outline of a selection.

import { rgbOf } from "./masks.js";

const FINEST = 1600; // canvas pixels along the longer side: finer is not seen, and costs memory on a phone
const COARSEST = 1400; // below this, outlines of a small picture would look like stairs

const cells = new WeakMap(); // label map -> per canvas pixel 2 * id + (1 at an edge), as colours change far more often
const veils = new WeakMap(); // selection -> per canvas pixel: nothing, inside, its white line, its dark line

// What is painted, per pixel of the picture:
//   labels: Uint16Array (height * width); colours: Map id -> "#rrggbb" of those shown; lit: id that is highlighted, or null;
//   selected: Uint8Array (height * width) of 0 and 1, or undefined; opacity: 0 to 1.
// Both arrays are never changed once they were painted.
export function paint(canvas, { labels, width, height, colours, lit, selected, opacity }) {
  const longest = Math.max(width, height);
  const scale = longest < COARSEST ? Math.ceil(COARSEST / longest) : Math.min(1, FINEST / longest);
  const wide = Math.max(1, Math.round(width * scale)), tall = Math.max(1, Math.round(height * scale));
  const thick = Math.max(1, Math.round(Math.max(wide, tall) / 600));
  if (canvas.width !== wide || canvas.height !== tall) Object.assign(canvas, { width: wide, height: tall });

  const paints = new Uint32Array(2 * 65536); // by cell; 0 = transparent
  for (const [id, colour] of colours) {
    const [red, green, blue] = rgbOf(colour);
    const strength = lit === null ? 1 : lit === id ? 1.25 : 0.25;
    paints[2 * id] = packed(red, green, blue, Math.min(1, opacity * strength));
    paints[2 * id + 1] = packed(0.6 * red, 0.6 * green, 0.6 * blue, lit === null || lit === id ? 1 : 0.4);
  }
  if (!cells.has(labels)) cells.set(labels, cellsOf(sample(labels, width, height, wide, tall), wide, tall, thick));
  const out = new ImageData(wide, tall);
  const pixels = new Uint32Array(out.data.buffer), own = cells.get(labels);
  for (let at = 0; at < pixels.length; at++) pixels[at] = paints[own[at]];
  if (selected) {
    if (!veils.has(selected)) veils.set(selected, veilOf(sample(selected, width, height, wide, tall), wide, tall, 2 * thick));
    const veil = veils.get(selected);
    // a light veil with a white line inside and a dark one around it: seen on any picture and beside any tint
    const covers = [0, packed(255, 255, 255, 0.45), packed(255, 255, 255, 1), packed(20, 24, 22, 1)];
    for (let at = 0; at < pixels.length; at++) if (veil[at]) pixels[at] = covers[veil[at]];
  }
  canvas.getContext("2d").putImageData(out, 0, 0);
}

function cellsOf(ids, wide, tall, thick) {
  return Uint32Array.from(ids, (id, at) => (id ? 2 * id + atEdge(ids, at, wide, tall, thick) : 0));
}

function veilOf(selected, wide, tall, thick) {
  return selected.map((inside, at) => {
    const edge = atEdge(selected, at, wide, tall, thick);
    return inside ? (edge ? 2 : 1) : edge ? 3 : 0;
  });
}

// Returns values for each canvas pixel: of the nearest pixel, or, where a picture is blown up, the value with the largest
// bilinear weight around it, which turns stairs into slopes and never invents a value.
function sample(values, width, height, wide, tall) {
  const sampled = new values.constructor(wide * tall);
  const columns = spots(width, wide), rows = spots(height, tall), blown = wide > width;
  for (let y = 0, at = 0; y < tall; y++) {
    const upper = rows.first[y] * width, lower = rows.second[y] * width, down = rows.weight[y];
    for (let x = 0; x < wide; x++, at++) {
      const left = columns.first[x], right = columns.second[x], across = columns.weight[x];
      if (!blown) {
        sampled[at] = values[(down < 0.5 ? upper : lower) + (across < 0.5 ? left : right)];
        continue;
      }
      const a = values[upper + left], b = values[upper + right], c = values[lower + left], d = values[lower + right];
      sampled[at] = a === b && a === c && a === d ? a : heaviest(a, b, c, d, across, down);
    }
  }
  return sampled;
}

// For each of `count` places along a side of `size` pixels: the two pixels around it and the weight of the second.
function spots(size, count) {
  const first = new Uint32Array(count), second = new Uint32Array(count), weight = new Float32Array(count);
  for (let place = 0; place < count; place++) {
    const at = Math.max(0, ((place + 0.5) * size) / count - 0.5);
    first[place] = Math.floor(at);
    second[place] = Math.min(size - 1, first[place] + 1);
    weight[place] = at - first[place];
  }
  return { first, second, weight };
}

function heaviest(a, b, c, d, across, down) {
  const corners = [[a, (1 - across) * (1 - down)], [b, across * (1 - down)], [c, (1 - across) * down], [d, across * down]];
  let best = a, most = -1;
  for (const [value] of corners) {
    let sum = 0;
    for (const [other, weight] of corners) if (other === value) sum += weight;
    if (sum > most) [best, most] = [value, sum];
  }
  return best;
}

function atEdge(values, at, wide, tall, thick) {
  const x = at % wide, value = values[at], down = thick * wide;
  return (
    (x >= thick && values[at - thick] !== value) ||
    (x + thick < wide && values[at + thick] !== value) ||
    (at >= down && values[at - down] !== value) ||
    (at + down < wide * tall && values[at + down] !== value)
  );
}

// As a canvas keeps it in memory: red first, so red is the lowest byte of a number on every machine browsers run on.
function packed(red, green, blue, alpha) {
  return ((Math.round(alpha * 255) << 24) | (Math.round(blue) << 16) | (Math.round(green) << 8) | Math.round(red)) >>> 0;
}
