// What the server can do: its models and their classes, SAM, CLIP; which parts of the page that shows.

import { call } from "./api.js";

const $ = (id) => document.getElementById(id);

export const server = { models: [], classes: [], sam: true, clip: false, clip_model: null };

export async function learnServer(key) {
  Object.assign(server, await call("v1/models", { key }));
  const standard = server.models.find((model) => model.default)?.name;
  const choices = server.models.map(({ name }) => new Option(name, name, name === standard, name === standard));
  $("model").replaceChildren(...choices);
  if (server.models.length) await learnModel(key);
  $("any-names").hidden = !server.clip;
  const trained = server.models.length ? "" : "There is no trained model here. ";
  $("any-names-note").textContent = `${trained}CLIP (${server.clip_model}) compares the picture with your names; it was not trained on food.`;
  $("guide-inputs").hidden = $("again").hidden = !server.models.length;
  $("model-choice").hidden = server.models.length < 2;
  $("refine").disabled = !server.sam;
  $("refine-note").textContent = server.sam ? "(slower)" : "(this server has no SAM)";
  if (!server.sam) $("stage-hint").textContent = "Outlining by a click needs SAM, which this server does not have.";
}

// The classes of the chosen model, and whether it can be conditioned on ingredients.
export async function learnModel(key) {
  const name = $("model").value;
  const { classes } = await call(`v1/classes?model=${encodeURIComponent(name)}`, { key });
  server.classes = classes.filter(({ id }) => id > 0);
  $("known").replaceChildren(...server.classes.map((item) => new Option(item.name)));
  const conditioned = server.models.find((model) => model.name === name)?.conditioned ?? true;
  $("guide-inputs").disabled = !conditioned;
  $("guide-note").hidden = conditioned;
}
