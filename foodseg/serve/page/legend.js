// The list of what was found - colour, name, share of the food, confidence; a click hides one, the pointer lights it up -
// and the list of what people say is there.

const UNSURE = 0.5; // below this mean confidence the list says so in words
const TRACE = 0.01; // what is unsure and less of the food than this is folded away, where there are several
const SEVERAL = 3;

// 0.4134 -> "41.3 %"; what is there is never shown as 0.
export function percent(share) {
  if (share > 0 && share < 0.0005) return "< 0.1 %";
  return `${(100 * share).toFixed(1)} %`;
}

// hidden: Set of ids, changed by clicks. light(id or null) and repaint() are called as the pointer or the focus moves
// and after a change of `hidden`.
export function showLegend(list, ingredients, hidden, { light, repaint }) {
  list.replaceChildren(
    ...ingredients.map((item) => {
      const row = document.createElement("li"), button = document.createElement("button");
      row.dataset.id = item.id;
      row.classList.toggle("trace", isTrace(item));
      const yours = item.confidence === null, sure = yours ? "yours" : `${Math.round(100 * item.confidence)} %`;
      const name = part("name", item.name);
      if (!yours && item.confidence < UNSURE) name.append(" ", part("unsure", "unsure"));
      button.append(part("swatch", ""), name, part("share", percent(item.share_of_food)), part("sure", sure), part("bar", ""));
      button.querySelector(".swatch").style.background = item.colour;
      const bar = document.createElement("i");
      bar.style.width = `${100 * item.share_of_food}%`;
      bar.style.background = item.colour;
      button.querySelector(".bar").append(bar);
      button.title = `${percent(item.share_of_image)} of the picture, ${item.pixels} pixels`;
      button.setAttribute("aria-label", `${item.name}, ${percent(item.share_of_food)} of the food, ${yours ? "named by you" : `confidence ${sure}`}`);
      const press = () => {
        button.setAttribute("aria-pressed", String(!hidden.has(item.id)));
      };
      press();
      button.addEventListener("click", () => {
        if (!hidden.delete(item.id)) hidden.add(item.id);
        press();
        repaint();
      });
      for (const name of ["pointerenter", "focus"]) button.addEventListener(name, () => light(item.id));
      for (const name of ["pointerleave", "blur"]) button.addEventListener(name, () => light(null));
      row.append(button);
      return row;
    }),
  );
}

// Folds the traces of the list away, or shows them; the button is there only where they are worth it, and its
// aria-expanded says which it is.
export function fold(list, button, ingredients, folded) {
  const count = ingredients.filter(isTrace).length, several = count >= SEVERAL;
  button.hidden = !several;
  button.setAttribute("aria-expanded", String(!folded));
  button.textContent = `${folded ? "Show" : "Fold"} ${count} traces`;
  list.classList.toggle("folded", folded && several);
}

function isTrace(item) {
  return item.confidence !== null && item.confidence < UNSURE && item.share_of_food < TRACE;
}

export function isFolded(button) {
  return button.getAttribute("aria-expanded") !== "true";
}

// One button for each name, which calls onDrop(name).
export function showGiven(list, names, onDrop) {
  list.replaceChildren(
    ...names.map((name) => {
      const row = document.createElement("li"), button = document.createElement("button");
      button.type = "button";
      button.textContent = name;
      button.setAttribute("aria-label", `${name}: take it from the list`);
      button.addEventListener("click", () => onDrop(name));
      row.append(button);
      return row;
    }),
  );
}

function part(name, text) {
  const element = document.createElement("span");
  element.className = name;
  element.textContent = text;
  return element;
}

// A name as people mean it.
export function tidy(text) {
  return text.trim().replace(/\s+/g, " ");
}
