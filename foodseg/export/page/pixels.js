// A picture as the model is shown it: decoded, resized and padded as foodseg's own commands do (data/image_io.py,
// predict/canvas.py), not as a canvas would resize it, so that both give the same ids.

const DECODED_WHOLE = 1024; // a JPEG with a longer side is decoded at a reduced scale, as predict/predictor.py says
const DCT = 8; // side of a JPEG's blocks

// Returns {data: Uint8ClampedArray of RGBA, width, height, jpeg}: upright, colours as stored, transparent parts on white.
export async function decode(file) {
  const start = new Uint8Array(await file.slice(0, 2).arrayBuffer());
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  const { width, height } = bitmap;
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return { data: context.getImageData(0, 0, width, height).data, width, height, jpeg: start[0] === 0xff && start[1] === 0xd8 };
}

// image: as `decode` returns it. size: of model.json: {longest_side: null or pixels, multiple, canvas: null or [height, width]}.
// mean: [red, green, blue] in [0, 1], what it is padded with.
// Returns {values: Float32Array (3, height, width) in [0, 1], height, width, fitted: [height, width] of the picture in it}.
export function prepare(image, size, mean) {
  const fitted = fit(image.height, image.width, size.longest_side ?? Math.max(image.height, image.width));
  const [tall, wide] = fitted;
  const [height, width] = size.canvas ?? fitted.map((side) => Math.ceil(side / size.multiple) * size.multiple);
  const { data } = resized(reduced(image, fitted), tall, wide);
  const values = new Float32Array(3 * height * width);
  for (let channel = 0; channel < 3; channel++) {
    const plane = values.subarray(channel * height * width, (channel + 1) * height * width).fill(mean[channel]);
    for (let y = 0; y < tall; y++) {
      for (let x = 0; x < wide; x++) plane[y * width + x] = data[4 * (y * wide + x) + channel] / 255;
    }
  }
  return { values, height, width, fitted };
}

function fit(height, width, longest) {
  const factor = longest / Math.max(height, width);
  return [height, width].map((side) => Math.max(1, roundEven(side * factor)));
}

// As Python rounds: a half to the even neighbour.
function roundEven(value) {
  const below = Math.floor(value);
  return value - below === 0.5 ? below + (below % 2) : Math.round(value);
}

// A large JPEG at the smallest of 1/8, 2/8, ... of its size that is not below `fitted`, as libjpeg decodes it: of each
// block of 8 x 8 pixels the n x n lowest frequencies.
function reduced(image, [height, width]) {
  if (!image.jpeg || Math.max(image.height, image.width) <= DECODED_WHOLE) return image;
  const scaled = (side, n) => Math.ceil((side * n) / DCT);
  let n = 1;
  while (n < DCT && (scaled(image.height, n) < height || scaled(image.width, n) < width)) n++;
  if (n === DCT) return image;
  const rows = frequencyTaps(image.height, scaled(image.height, n), n);
  return resampled(image, frequencyTaps(image.width, scaled(image.width, n), n), rows);
}

// As OpenCV: bilinear with half-pixel centres, by area where a side shrinks to less than half.
function resized(image, height, width) {
  if (image.height === height && image.width === width) return image;
  const taps = 2 * height < image.height || 2 * width < image.width ? areaTaps : linearTaps;
  return resampled(image, taps(image.width, width), taps(image.height, height));
}

// Taps say for each new sample along a side where its old samples begin, and their weights.

function linearTaps(size, count) {
  return Array.from({ length: count }, (_, place) => {
    const at = Math.min(size - 1, Math.max(0, ((place + 0.5) * size) / count - 0.5)), start = Math.floor(at);
    return { start, weights: at > start ? [1 - (at - start), at - start] : [1] };
  });
}

function areaTaps(size, count) {
  const scale = size / count;
  return Array.from({ length: count }, (_, place) => {
    const from = place * scale, to = Math.min(size, from + scale), start = Math.floor(from + 1e-6), weights = [];
    for (let at = start; at < to - 1e-6; at++) weights.push((Math.min(to, at + 1) - Math.max(from, at)) / (to - from));
    return { start, weights };
  });
}

function frequencyTaps(size, count, n) {
  const norm = (u, side) => Math.sqrt((u ? 2 : 1) / side), wave = (u, at, side) => Math.cos(((2 * at + 1) * u * Math.PI) / (2 * side));
  const kernels = Array.from({ length: n }, (_, place) =>
    Array.from({ length: DCT }, (_, at) => {
      let sum = 0;
      for (let u = 0; u < n; u++) sum += norm(u, n) * norm(u, DCT) * wave(u, place, n) * wave(u, at, DCT);
      return sum * Math.sqrt(n / DCT);
    }),
  );
  return Array.from({ length: count }, (_, place) => ({ start: DCT * Math.floor(place / n), weights: kernels[place % n] }));
}

// Returns the image with new columns and rows; what taps say of samples beyond the border is that of the last one.
function resampled({ data, width, height }, columns, rows) {
  const wide = columns.length, tall = rows.length;
  const lines = new Float32Array(height * wide * 3);
  for (let y = 0; y < height; y++) {
    for (let x = 0, out = 3 * y * wide; x < wide; x++, out += 3) {
      const { start, weights } = columns[x];
      for (let k = 0; k < weights.length; k++) {
        const from = 4 * (y * width + Math.min(width - 1, start + k)), weight = weights[k];
        for (let channel = 0; channel < 3; channel++) lines[out + channel] += weight * data[from + channel];
      }
    }
  }
  const made = new Uint8ClampedArray(4 * tall * wide); // rounds, a half to even
  const sums = new Float32Array(3 * wide);
  for (let y = 0; y < tall; y++) {
    const { start, weights } = rows[y];
    sums.fill(0);
    for (let k = 0; k < weights.length; k++) {
      const from = 3 * wide * Math.min(height - 1, start + k), weight = weights[k];
      for (let at = 0; at < sums.length; at++) sums[at] += weight * lines[from + at];
    }
    for (let x = 0; x < wide; x++) {
      for (let channel = 0; channel < 3; channel++) made[4 * (y * wide + x) + channel] = sums[3 * x + channel];
    }
  }
  return { data: made, width: wide, height: tall };
}
