"""Does the endpoint do what the documents say, and how fast and large is it? `python -m experiments endpoint`."""

import json
import re
import shutil
from typing import Any

import cv2
import httpx
import yaml
from pycocotools import mask as coco

from experiments.endpoint.page_images import photograph_page
from experiments.endpoint_process import Endpoint, MemorySamples
from experiments.foodmix_runs import train_plain
from experiments.item_queue import ROOT, Bench, Item, ItemError
from experiments.served_meals import deploy_tree, is_free, meal_files, meals
from foodseg.data.image_io import decode_image

DOCUMENT = ROOT / "docs" / "serve.md"  # its first section; the others need CLIP or a conditioned model
README_PORT = 8000  # of its curl lines
README_ADDRESS = f"http://127.0.0.1:{README_PORT}"
PAGE_MEALS = 3
MEALS = 16  # images that the benchmark goes through
PHOTOGRAPH = (3000, 4000)  # height, width: twelve megapixels


def readme_curl(bench: Bench) -> dict[str, Any]:
    """The curl lines of docs/serve.md word for word; three real meals on the page, on a screen and on a telephone."""
    shown = meal_files(bench, PAGE_MEALS)
    kitchen = bench.work / "serve-kitchen"
    shutil.rmtree(kitchen, ignore_errors=True)
    kitchen.mkdir(parents=True)
    shutil.copyfile(shown[0], kitchen / "lunch.jpg")
    port = README_PORT if is_free(README_PORT) else None
    with Endpoint(bench, "readme", deploy_tree(bench, train_plain(bench, 0), port)) as endpoint:
        answers = []
        for block in curl_blocks(DOCUMENT.read_text(encoding="utf-8")):
            command = block.replace(README_ADDRESS, endpoint.url.rstrip("/"))
            printed = bench.run(["bash", "-euo", "pipefail", "-c", f"cd '{kitchen}'\n{command}"], shown=[command])
            answers += json_objects(printed)
        broken = [answer["error"] for answer in answers if "error" in answer]
        if broken:
            raise ItemError(f"a line of docs/serve.md was refused: {broken[0]}")
        page = photograph_page(endpoint.url, shown, bench.work / "serve-page")
    height, width = decode_image(shown[0].read_bytes()).shape[:2]
    first = next(answer for answer in answers if "ingredients" in answer)
    checked = _masks_of_size(first, height, width)
    label_map = cv2.imread(str(kitchen / "lunch.ids.png"), cv2.IMREAD_UNCHANGED)
    if label_map is None or label_map.shape != (height, width):
        raise ItemError("the PNG of docs/serve.md is not a label map of the image's size")
    return {
        "lines": sum(command.count("curl ") for command in bench.commands),
        "address_of_the_readme": port == README_PORT,
        "answers": len(answers),
        "ingredients": [one["name"] for one in first["ingredients"]],
        "masks_that_pycocotools_decodes": checked,
        "page": page,
    }


def bench_serve(bench: Bench, seconds: float = 40.0) -> dict[str, Any]:
    """What HTTP and Ray add to the same functions in one process; clicks; refine=sam. On an idle machine."""
    config = bench.work / "bench-serve.yaml"
    config.write_text(yaml.safe_dump(deploy_tree(bench, train_plain(bench, 0)), sort_keys=False), encoding="utf-8")
    images = bench.work / "bench-meals"
    shutil.rmtree(images, ignore_errors=True)
    images.mkdir()
    for meal in meal_files(bench, MEALS):
        shutil.copyfile(meal, images / meal.name)
    return bench.foodseg("bench", "serve", config, "--images", images, "--seconds", seconds)


def twelve_megapixels(bench: Bench) -> dict[str, Any]:
    """Memory that the whole endpoint takes more while it answers about a photograph of twelve megapixels."""
    small = meals(bench, 2)
    pixels = cv2.resize(decode_image(small[0])[:, :, ::-1], PHOTOGRAPH[::-1])
    large = {ending: cv2.imencode(f".{ending}", pixels)[1].tobytes() for ending in ("jpg", "png", "webp")}
    requests = [("v1/segment", {"format": form}) for form in ("rle", "polygons", "png")]
    requests += [("v1/prompt", {"points": "[[100, 100, 1]]"}), ("v1/segment", {"refine": "sam"})]
    figures: dict[str, Any] = {}
    with (
        Endpoint(bench, "photograph", deploy_tree(bench, train_plain(bench, 0))) as endpoint,
        httpx.Client(base_url=endpoint.url, timeout=120) as client,
    ):

        def ask(path: str, data: bytes, fields: dict[str, str]) -> dict[str, Any]:
            answer = client.post(path, files={"image": ("meal", data)}, data=fields).raise_for_status().json()
            assert isinstance(answer, dict)
            return answer

        # with a small image first: models, kernels and pools are not what is measured
        for path, fields in 2 * requests:
            ask(path, small[1], fields)
        before = endpoint.memory()["all"]
        for ending, data in large.items():
            for path, fields in requests:
                with MemorySamples(endpoint) as samples:
                    answer = ask(path, data, fields)
                if (answer["image"]["height"], answer["image"]["width"]) != PHOTOGRAPH:
                    raise ItemError(f"the answer is about another size: {answer['image']}")
                figures[" ".join([ending, path, *fields.values()])] = round(samples.peak - before)
    most = max(figures.values())
    if most > 1024:
        raise ItemError(f"an answer about twelve megapixels took {most} MiB: {figures}")
    return {"mib_before": round(before), "most_added_mib": most, "added_mib": figures}


ITEMS: list[Item] = [
    ("readme_curl", readme_curl),
    ("bench_serve", bench_serve),
    ("twelve_megapixels", twelve_megapixels),
]


def curl_blocks(text: str) -> list[str]:
    """Returns the shell blocks of the first section of a Markdown text that ask the endpoint with curl."""
    section = "\n## ".join(text.split("\n## ")[:2])
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return [block for language, block in blocks if language == "sh" and "curl " in block and README_ADDRESS in block]


def json_objects(printed: str) -> list[dict[str, Any]]:
    """Returns the JSON objects in what commands printed, one behind the other with or without line breaks."""
    decoder, found, at = json.JSONDecoder(), [], printed.find("{")
    while at >= 0:
        try:
            value, end = decoder.raw_decode(printed, at)
        except ValueError:
            end = at + 1
        else:
            found.append(value)
        at = printed.find("{", end)
    return found


def _masks_of_size(answer: dict[str, Any], height: int, width: int) -> int:
    """Returns how many masks pycocotools decodes to the image's size and to the pixels that the answer says."""
    for one in answer["ingredients"]:
        mask = coco.decode(one["mask"])
        if mask.shape != (height, width) or int(mask.sum()) != one["pixels"]:
            raise ItemError(f"the mask of {one['name']} is not what the answer says")
    return len(answer["ingredients"])
