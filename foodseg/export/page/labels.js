// From class scores on the model's grid to the label map of the picture, as predict/image_logits.py.
//
// scores: {values: Float32Array (classes, height, width), classes, height, width, stride, fitted: [height, width] of the
// picture in pixels of the model's input}. Scores are resized bilinearly (half-pixel centres); what a model says of the
// padding is not seen.

const SAMPLED = 40_000; // pixels whose confidence is computed: a mean over so many is that of all, to the percent shown

// Returns Uint16Array (height * width): the id with the greatest score at each pixel, the first of equal ones.
export function labelMap(scores, height, width) {
  const { values, classes } = scores, plane = scores.height * scores.width;
  const rows = taps(height, scores.fitted[0] / (scores.stride * height), scores.height);
  const columns = taps(width, scores.fitted[1] / (scores.stride * width), scores.width);
  const labels = new Uint16Array(height * width), known = new Map();
  for (let y = 0, at = 0; y < height; y++) {
    const upper = rows.low[y] * scores.width, lower = rows.high[y] * scores.width, down = rows.blend[y];
    for (let x = 0; x < width; x++, at++) {
      const left = columns.low[x], right = columns.high[x], across = columns.blend[x];
      const corners = [upper + left, upper + right, lower + left, lower + right];
      let ids = known.get(corners[0]);
      if (!ids) known.set(corners[0], (ids = contenders(values, plane, classes, corners)));
      let best = ids[0], greatest = -Infinity;
      for (let k = 0; ids.length > 1 && k < ids.length; k++) {
        const score = blended(values, ids[k] * plane, corners, across, down);
        if (score > greatest) [best, greatest] = [ids[k], score];
      }
      labels[at] = best;
    }
  }
  return labels;
}

// Returns the mean confidence by id, Map: the greatest softmax probability of scores / temperature, over pixels spread
// evenly over the picture; of an id that none of them has, at its first pixel.
export function confidences(scores, labels, height, width, temperature) {
  const rows = taps(height, scores.fitted[0] / (scores.stride * height), scores.height);
  const columns = taps(width, scores.fitted[1] / (scores.stride * width), scores.width);
  const sums = new Map(), counts = new Map();
  const add = (x, y) => {
    const id = labels[y * width + x];
    sums.set(id, (sums.get(id) ?? 0) + confidence(scores, rows, columns, x, y, temperature));
    counts.set(id, (counts.get(id) ?? 0) + 1);
  };
  const step = Math.max(1, Math.ceil(Math.sqrt((height * width) / SAMPLED)));
  for (let y = step >> 1; y < height; y += step) for (let x = step >> 1; x < width; x += step) add(x, y);
  for (let at = 0; at < labels.length; at++) if (!counts.has(labels[at])) add(at % width, Math.floor(at / width));
  return new Map([...sums].map(([id, sum]) => [id, sum / counts.get(id)]));
}

function confidence({ values, classes, height, width }, rows, columns, x, y, temperature) {
  const upper = rows.low[y] * width, lower = rows.high[y] * width, left = columns.low[x], right = columns.high[x];
  const corners = [upper + left, upper + right, lower + left, lower + right];
  const all = new Float64Array(classes);
  for (let id = 0; id < classes; id++) all[id] = blended(values, id * height * width, corners, columns.blend[x], rows.blend[y]);
  const greatest = Math.max(...all);
  return 1 / all.reduce((sum, score) => sum + Math.exp((score - greatest) / temperature), 0);
}

// Returns the ids that are the best somewhere between four neighbours: of the class whose least neighbour is greatest the
// score is at least that one, and a class whose greatest neighbour is lower is out.
function contenders(values, plane, classes, [a, b, c, d]) {
  let least = -Infinity;
  const greatest = new Float32Array(classes);
  for (let id = 0, at = 0; id < classes; id++, at += plane) {
    const one = values[at + a], two = values[at + b], three = values[at + c], four = values[at + d];
    least = Math.max(least, Math.min(one, two, three, four));
    greatest[id] = Math.max(one, two, three, four);
  }
  const ids = [];
  for (let id = 0; id < classes; id++) if (greatest[id] >= least) ids.push(id);
  return ids;
}

function blended(values, at, [a, b, c, d], across, down) {
  const left = values[at + a] + down * (values[at + c] - values[at + a]);
  const right = values[at + b] + down * (values[at + d] - values[at + b]);
  return left + across * (right - left);
}

// For each of `count` new samples the two old ones of `size` around it, and the share of the second.
function taps(count, scale, size) {
  const low = new Uint32Array(count), high = new Uint32Array(count), blend = new Float64Array(count);
  for (let place = 0; place < count; place++) {
    const at = Math.min(size - 1, Math.max(0, (place + 0.5) * scale - 0.5));
    low[place] = Math.floor(at);
    high[place] = Math.min(size - 1, low[place] + 1);
    blend[place] = at - low[place];
  }
  return { low, high, blend };
}
