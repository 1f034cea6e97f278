"""`foodseg export --web`: an exported ONNX graph as one HTML file that runs it, opened by a double click.

    page = web_page(described, graph, web_runtime())      # bytes of index.html

Everything is inside: the graph, onnxruntime-web, and JavaScript of `page/` and of the served page (`serve/page/`),
which draws what was found. Its Content-Security-Policy lets it fetch nothing and send nothing. A page of several files
would need a server, since browsers refuse modules and WebAssembly to pages of file://.
"""

import base64
import gzip
import json
import re
from importlib import resources

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

import foodseg
from foodseg.checkpoint.exported import ExportedModel
from foodseg.config.evaluation import EvalConfig
from foodseg.errors import UserError
from foodseg.export.web_runtime import WebRuntime
from foodseg.predict.predictor import logit_offsets

PAGE = "index.html"
_IMPORT = re.compile(r'from "(\.[./\w]*/(\w+\.js))"')
_START = "export/page/app.js"


def require_web(config: EvalConfig) -> None:
    """Refuses settings that the page does not compute: it shows the whole image once, and perhaps mirrored.

    Raises:
        UserError: names the first of them.
    """
    wrong = {
        "eval.window": (config.window is not None, "null"),
        "eval.scales": (len(config.scales) > 1, "[1.0]"),
        "eval.ingredients": (config.ingredients != "vocabulary", "vocabulary"),
    }
    for key, (refused, right) in wrong.items():
        if refused:
            raise UserError(f"--web: the page does not compute {key} as this model is set: add --set {key}={right}")


def web_page(described: ExportedModel, graph: bytes, runtime: WebRuntime) -> bytes:
    """Returns the page.

    Args:
        described: the content of model.json. graph: of model.onnx.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    template = environment.from_string(_text("export/page/index.html"))
    modules = {**page_modules(), "onnxruntime-web": runtime.module}
    addresses = {name: f"data:text/javascript;base64,{_base64(text.encode())}" for name, text in modules.items()}
    page = template.render(
        style=Markup(_text("serve/page/style.css")),
        settings=_embedded(_settings(described, runtime.version)),
        runtime=_base64(gzip.compress(runtime.wasm, mtime=0)),
        graph=_base64(gzip.compress(graph, mtime=0)),
        modules=_embedded({"imports": addresses}),
    )
    return page.encode()


def page_modules() -> dict[str, str]:
    """Returns the page's own modules, app.js and all that it imports, by the names that they import each other under.

    A module inside a page has no address that others could be relative to: `./paint.js` becomes `foodseg/paint.js`.
    """
    found: dict[str, str] = {}
    waiting = [_START]
    while waiting:
        path = waiting.pop()
        name = f"foodseg/{path.rpartition('/')[2]}"
        if name in found:
            continue
        text = _text(path)
        waiting += [_joined(path, relative) for relative, _ in _IMPORT.findall(text)]
        found[name] = _IMPORT.sub(r'from "foodseg/\2"', text)
    return found


def _settings(described: ExportedModel, runtime: str) -> dict[str, object]:
    """Returns what the page has to know: parts of model.json, and what `eval` makes of them."""
    tree, shown = described.to_json(), described.config.eval
    size = described.to_json()["size"]
    assert isinstance(size, dict)
    if shown.longest_side is not None:
        size = {**size, "longest_side": shown.longest_side * shown.scales[0]}
    offsets = logit_offsets(shown, described.class_pixels)
    model = {
        "step": described.step,
        "data": described.data,
        "precision": described.precision,
        "foodseg": foodseg.__version__,
    }
    origin = f"Trained on {described.data}, step {described.step}; {described.precision}, ONNX Runtime Web {runtime}."
    return {
        "classes": list(described.classes.names),
        "size": size,
        "mean": list(described.graph.mean),
        "stride": described.graph.stride,
        "conditioned": described.graph.conditioned,
        "flip": shown.flip,
        "offsets": None if offsets is None else offsets.tolist(),
        "temperature": tree["temperature"],
        "model": model,
        "about": origin,
    }


def _text(path: str) -> str:
    return (resources.files("foodseg") / path).read_text(encoding="utf-8")


def _joined(path: str, relative: str) -> str:
    """Returns the path that an import of a module means, both relative to foodseg/."""
    parts = path.split("/")[:-1]
    for part in relative.split("/"):
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def _embedded(value: object) -> Markup:
    """Returns JSON that may stand in a script element: no `<` can end it."""
    return Markup(json.dumps(value).replace("<", "\\u003c"))


def _base64(data: bytes) -> Markup:
    return Markup(base64.b64encode(data).decode())
