// The exported graph in the browser, by onnxruntime-web on one thread: several need headers that a file has not.

import * as ort from "onnxruntime-web";

// Returns what is embedded in this page under an id: gzip in base64.
async function embedded(id) {
  const element = document.getElementById(id), text = atob(element.textContent);
  element.remove(); // tens of megabytes
  const bytes = new Uint8Array(text.length);
  for (let at = 0; at < bytes.length; at++) bytes[at] = text.charCodeAt(at);
  const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(unpacked).arrayBuffer());
}

// Returns async (values, height, width) => scores of `labels.js` without `fitted`, for values (3, height, width).
// settings: as web.py embeds them.
export async function openModel({ classes, stride, flip, conditioned, offsets }) {
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = await embedded("runtime");
  const session = await ort.InferenceSession.create(await embedded("graph"), { executionProviders: ["wasm"] });
  return async (values, height, width) => {
    const shown = flip ? [values, mirrored(values, width)] : [values], batch = shown.length;
    const image = new Float32Array(batch * values.length);
    shown.forEach((view, index) => image.set(view, index * values.length));
    const inputs = { image: new ort.Tensor("float32", image, [batch, 3, height, width]) };
    if (conditioned) {
      const all = new Uint8Array(batch * classes.length).fill(1);
      inputs.ingredients = new ort.Tensor("bool", all, [batch, classes.length]);
    }
    const { logits } = await session.run(inputs, ["logits"]);
    const [, , tall, wide] = logits.dims, size = classes.length * tall * wide;
    const found = logits.data.slice(0, size);
    if (flip) {
      const other = mirrored(logits.data.subarray(size), wide);
      for (let at = 0; at < size; at++) found[at] = (found[at] + other[at]) / 2;
    }
    if (offsets) for (let at = 0; at < size; at++) found[at] += offsets[Math.floor(at / (tall * wide))];
    return { values: found, classes: classes.length, height: tall, width: wide, stride };
  };
}

// Returns values of rows of `width` with the columns the other way round.
function mirrored(values, width) {
  const turned = new Float32Array(values.length);
  for (let row = 0; row < values.length; row += width) {
    for (let x = 0; x < width; x++) turned[row + x] = values[row + width - 1 - x];
  }
  return turned;
}
