// Masks as plain arrays: COCO run lengths to pixels and back, and the label map as a PNG file.
//
// Label maps are Uint16Array, row by row, 0 = background. Run lengths run down the columns, as pycocotools writes them:
// runs of 0 and 1 in turn, each written as groups of five bits (least first) in characters from "0" on, the sixth bit
// saying that more follow; from the fourth run on the difference to the run before the last is written.

const LARGEST_8BIT_ID = 254; // 255 means "ignore" in masks of 8 bits

export function decodeRuns(counts) {
  const runs = [];
  for (let place = 0; place < counts.length; ) {
    let value = 0, shift = 0, group;
    do {
      group = counts.charCodeAt(place++) - 48;
      value |= (group & 31) << shift;
      shift += 5;
    } while (group & 32);
    if (group & 16 && shift < 32) value |= -1 << shift; // the sign bit of the last group
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
  }
  return runs;
}

export function encodeRuns(runs) {
  let counts = "";
  runs.forEach((run, index) => {
    let value = index > 2 ? run - runs[index - 2] : run, more;
    do {
      const group = value & 31;
      value >>= 5;
      more = group & 16 ? value !== -1 : value !== 0;
      counts += String.fromCharCode(48 + (more ? group | 32 : group));
    } while (more);
  });
  return counts;
}

// Writes `value` into `pixels` (row by row, of the size that the mask states) wherever the mask is set.
export function fillMask(pixels, mask, value) {
  const [height, width] = mask.size;
  let row = 0, column = 0, set = false;
  for (const run of decodeRuns(mask.counts)) {
    for (let left = run; left > 0; ) {
      const step = Math.min(left, height - row);
      if (set) for (let at = row * width + column, k = 0; k < step; k++, at += width) pixels[at] = value;
      left -= step;
      row += step;
      if (row === height) {
        row = 0;
        column += 1;
      }
    }
    set = !set;
  }
}

// Returns the mask of one id of a label map.
export function maskOf(labels, id, width, height) {
  const runs = [];
  let set = false, run = 0;
  for (let column = 0; column < width; column++) {
    for (let at = column; at < width * height; at += width) {
      if ((labels[at] === id) !== set) {
        runs.push(run);
        run = 0;
        set = !set;
      }
      run += 1;
    }
  }
  runs.push(run);
  return { size: [height, width], counts: encodeRuns(runs) };
}

export function countIds(labels) {
  const counts = new Uint32Array(65536);
  for (let at = 0; at < labels.length; at++) counts[labels[at]] += 1;
  return counts;
}

// The colour of an id as the class table gives it: hues a golden ratio apart (foodseg/classes.py, `palette`).
export function colourOf(id) {
  const hue = ((id * 0.61803398875) % 1) * 6;
  const [value, saturation] = id % 2 ? [0.95, 0.75] : [0.75, 0.95];
  const channel = (offset) => {
    const turn = (offset + hue) % 6;
    return value - value * saturation * Math.max(0, Math.min(turn, 4 - turn, 1));
  };
  const digits = [5, 3, 1].map((offset) => Math.round(channel(offset) * 255).toString(16).padStart(2, "0"));
  return `#${digits.join("")}`;
}

export function rgbOf(colour) {
  const value = parseInt(colour.slice(1), 16);
  return [value >> 16, (value >> 8) & 255, value & 255];
}

// Returns the label map as a PNG whose pixels are ids: with the legend's colours as its palette, or 16 bit grey where
// 8 bits do not suffice. Written here because a canvas would write colours, not ids, and some browsers blur those.
export async function labelMapPng(labels, width, height, ingredients) {
  const wide = ingredients.some(({ id }) => id > LARGEST_8BIT_ID);
  const bytes = wide ? 2 : 1;
  const rows = new Uint8Array(height * (width * bytes + 1)); // each row starts with its filter: 0 = none
  for (let y = 0, out = 0, at = 0; y < height; y++) {
    out += 1;
    for (let x = 0; x < width; x++, at++) {
      if (wide) rows[out++] = labels[at] >> 8;
      rows[out++] = labels[at] & 255;
    }
  }
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint8(8, 8 * bytes);
  header.setUint8(9, wide ? 0 : 3); // colour type: grey or palette
  const chunks = [chunk("IHDR", new Uint8Array(header.buffer))];
  if (!wide) {
    const palette = new Uint8Array(3 * (1 + Math.max(0, ...ingredients.map(({ id }) => id))));
    for (const { id, colour } of ingredients) palette.set(rgbOf(colour), 3 * id);
    chunks.push(chunk("PLTE", palette));
  }
  const packed = new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate"));
  chunks.push(chunk("IDAT", new Uint8Array(await new Response(packed).arrayBuffer())), chunk("IEND", new Uint8Array()));
  return new Blob([Uint8Array.of(137, 80, 78, 71, 13, 10, 26, 10), ...chunks], { type: "image/png" });
}

function chunk(name, data) {
  const whole = new Uint8Array(12 + data.length);
  const view = new DataView(whole.buffer);
  view.setUint32(0, data.length);
  for (let k = 0; k < 4; k++) whole[4 + k] = name.charCodeAt(k);
  whole.set(data, 8);
  view.setUint32(8 + data.length, crc(whole.subarray(4, 8 + data.length)));
  return whole;
}

function crc(data) {
  let value = ~0;
  for (const byte of data) {
    value ^= byte;
    for (let k = 0; k < 8; k++) value = (value >>> 1) ^ (value & 1 ? 0xedb88320 : 0);
  }
  return ~value >>> 0;
}
