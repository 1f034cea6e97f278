// Requests to the HTTP API of the server that sent this page. Addresses are relative, so that a route prefix works.

const MOST_TRIES = 5; // of a request that the server answers with "later" (429 or 503 with Retry-After)

// What went wrong, in words for people. `code` and `requestId` are the server's, null where it said nothing.
export class ApiError extends Error {
  constructor(status, code, message, hint, requestId) {
    super(message);
    Object.assign(this, { status, code, hint, requestId });
  }
}

// Calls one route and returns its JSON. Where the server is busy it waits as long as Retry-After says and asks again.
//   form: FormData for a POST, left out for a GET; key: API key or ""; onWait(error, seconds): told before each wait.
export async function call(path, { form, key, signal, onWait = () => {} }) {
  const headers = { Accept: "application/json" };
  if (key) headers.Authorization = `Bearer ${key}`;
  for (let attempt = 1; ; attempt++) {
    let answer, text;
    try {
      answer = await fetch(path, { method: form ? "POST" : "GET", body: form, headers, signal, cache: "no-store" });
      text = await answer.text();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, null, "The server cannot be reached.", "Check your connection and that the server runs, then try again.", null);
    }
    const body = parsed(text);
    if (answer.ok && body?.request_id) return body; // every answer of ours has one
    const error = refusal(answer, body), wait = Number(answer.headers.get("Retry-After"));
    const later = (answer.status === 429 || answer.status === 503) && wait > 0;
    if (!later || attempt === MOST_TRIES) throw error;
    onWait(error, wait);
    await pause(1000 * wait, signal);
  }
}

// Says what an answer that is no success means, also where something between here and the server made it.
function refusal(answer, body) {
  const requestId = answer.headers.get("X-Request-Id");
  if (body?.error?.message) {
    const { code, message, hint } = body.error;
    return new ApiError(answer.status, code, sentence(message), sentence(hint ?? ""), requestId);
  }
  const [message, hint] =
    answer.status === 413
      ? ["The picture is too large for this server.", "Try a smaller copy of it."]
      : answer.ok
        ? ["The server's answer cannot be read.", "Something between here and the server may have replaced it."]
        : [`The server answered with status ${answer.status} and no explanation.`, "Try again in a moment."];
  return new ApiError(answer.status, null, message, hint, requestId);
}

// The API speaks in phrases for programs and people alike; a page shows sentences.
function sentence(text) {
  return text && text[0].toUpperCase() + text.slice(1) + (/[.?!]$/.test(text) ? "" : ".");
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("cancelled", "AbortError"));
    });
  });
}

// Labels a picture. options: {model, ingredients: [names], refine: bool} and those of `call`.
export function segment(file, { model, ingredients, refine, ...rest }) {
  const form = new FormData();
  form.append("image", file);
  form.append("format", "rle");
  if (model) form.append("model", model);
  if (ingredients.length) form.append("ingredients", JSON.stringify(ingredients));
  if (refine) form.append("refine", "vote");
  return call("v1/segment", { form, ...rest });
}

// Looks for any names on a picture, with CLIP. options: {names, refine: bool} and those of `call`.
export function zeroShot(file, { names, refine, ...rest }) {
  const form = new FormData();
  form.append("image", file);
  form.append("names", JSON.stringify(names));
  if (refine) form.append("refine", "vote");
  return call("v1/zero-shot", { form, ...rest });
}

// Outlines what is under points [[x, y, 1 = in or 0 = out], ...]. The picture is named by its id, and sent (again) only
// where the server no longer remembers it; the answer carries the id to use from then on.
export async function prompt(file, imageId, points, rest) {
  const ask = (name, value) => {
    const form = new FormData();
    form.append(name, value);
    form.append("points", JSON.stringify(points));
    return call("v1/prompt", { form, ...rest });
  };
  if (imageId) {
    try {
      return await ask("image_id", imageId);
    } catch (error) {
      if (error.code !== "image_expired") throw error;
    }
  }
  return ask("image", file);
}
