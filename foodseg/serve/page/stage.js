// The picture as a place to point at: with a mouse, a finger, or the arrow keys and a cross.

const STEP = 1 / 40, FINE_STEP = 1 / 400; // of the longer side, for one press of an arrow key

// size(): {width, height} of the picture, or null while there is nothing to point at.
// Tells onHover(point or null), onPick(point, how) with how = "anew", "adds", "takes" or null (nothing said), onEscape().
// Points are {x, y} in whole pixels of the picture.
export function watchStage(stage, cross, { size, onHover, onPick, onEscape }) {
  let at = null; // where the cross is

  const pointOf = (event) => {
    const { width, height } = size(), box = stage.getBoundingClientRect();
    return within({ x: ((event.clientX - box.left) / box.width) * width, y: ((event.clientY - box.top) / box.height) * height });
  };
  const within = ({ x, y }) => {
    const { width, height } = size();
    return { x: Math.max(0, Math.min(width - 1, Math.floor(x))), y: Math.max(0, Math.min(height - 1, Math.floor(y))) };
  };
  const howOf = (event) => (event.altKey ? "takes" : event.shiftKey ? "adds" : null);
  const hideCross = () => {
    at = null;
    cross.hidden = true;
  };

  stage.addEventListener("pointermove", (event) => {
    if (event.pointerType === "touch" || !size()) return; // a finger scrolls
    hideCross();
    onHover(pointOf(event));
  });
  stage.addEventListener("pointerleave", (event) => event.pointerType !== "touch" && size() && onHover(null));
  stage.addEventListener("click", (event) => {
    if (!size() || event.target.closest("button")) return;
    hideCross();
    onHover(pointOf(event));
    onPick(pointOf(event), howOf(event));
  });
  stage.addEventListener("blur", () => {
    if (at) onHover(null);
    hideCross();
  });
  stage.addEventListener("keydown", (event) => {
    if (!size() || event.target !== stage) return;
    const { width, height } = size();
    const step = Math.max(1, Math.round(Math.max(width, height) * (event.shiftKey ? FINE_STEP : STEP)));
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (moves[event.key]) {
      const [right, down] = moves[event.key];
      at = at ? within({ x: at.x + right, y: at.y + down }) : within({ x: width / 2, y: height / 2 });
      place(cross, at, size());
      cross.hidden = false;
      onHover(at, true);
    } else if ((event.key === "Enter" || event.key === " ") && at) {
      onPick(at, howOf(event));
    } else if (event.key === "Escape") {
      onEscape();
    } else {
      return;
    }
    event.preventDefault();
  });
}

// Puts an element of the stage over a point of the picture.
export function place(element, { x, y }, { width, height }) {
  element.style.left = `${(100 * (x + 0.5)) / width}%`;
  element.style.top = `${(100 * (y + 0.5)) / height}%`;
}

export function showPoints(holder, points, size) {
  holder.replaceChildren(
    ...points.map(([x, y, label]) => {
      const dot = document.createElement("i");
      dot.className = label ? "in" : "out";
      place(dot, { x, y }, size);
      return dot;
    }),
  );
}
