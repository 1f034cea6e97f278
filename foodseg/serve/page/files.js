// Files that come in (chosen, photographed, dropped, pasted) and files that go out.

const HEAVY = 4 * 2 ** 20; // bytes
const LONGEST = 2048; // pixels of the longer side of what was too heavy

// Tells onFile(file) about each picture; `inputs` are file inputs, `curtain` is shown while something is dragged in.
export function watchFiles(inputs, curtain, onFile) {
  const take = (files) => files.length && onFile(files[0]);
  for (const input of inputs) {
    input.addEventListener("change", () => {
      take(input.files);
      input.value = ""; // so that the same picture can be chosen again
    });
  }
  addEventListener("paste", (event) => take(event.clipboardData.files));
  addEventListener("dragover", (event) => {
    event.preventDefault();
    curtain.hidden = false;
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) curtain.hidden = true; // left the window, not only an element of it
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    curtain.hidden = true;
    take(event.dataTransfer.files);
  });
}

// Returns the picture as it is, or smaller where it is too heavy for a telephone's connection: models look at about a
// thousand pixels a side anyway. What the browser cannot read goes as it is: the server says what is wrong with it.
export async function sendable(file) {
  if (file.size <= HEAVY) return file;
  try {
    const bitmap = await createImageBitmap(file); // upright
    const scale = Math.min(1, LONGEST / Math.max(bitmap.width, bitmap.height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.round(bitmap.width * scale);
    canvas.height = Math.round(bitmap.height * scale);
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
    return Object.assign(new File([blob], file.name, { type: blob.type }), { shrunk: true });
  } catch {
    return file;
  }
}

// Saves a blob beside the picture's name: "lunch.jpg" and "json" give "lunch.json".
export function save(blob, picture, ending) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${picture.replace(/\.[^.]*$/, "") || "picture"}.${ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // a browser may still be reading it
}
