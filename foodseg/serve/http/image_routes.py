"""The routes that take an image: segment, prompt, zero-shot, classify-regions.

Each decodes, calls backends and encodes.

routes = ImageRoutes(Services(config, backends, secret))
router.add_api_route("/v1/segment", routes.segment, methods=["POST"])
"""

import asyncio
from functools import partial
from typing import Annotated

import numpy as np
from fastapi import File, Form, Request, Response, UploadFile

from foodseg.serve.http.codec import (
    DecodedImage,
    decoded_size,
    region,
    segment_answer,
    to_decoded,
    wanted_labels,
    zero_shot_answer,
)
from foodseg.serve.http.region_codec import read_masks, rechecked_infos, region_answer
from foodseg.serve.http.schema import (
    MAX_FIELD,
    ApiError,
    ImageInfo,
    MaskFormat,
    PromptAnswer,
    RefineBy,
    RegionFormat,
    parse_box,
    parse_name_list,
    parse_points,
)
from foodseg.serve.http.services import Services, id_of, json_of, key_of
from foodseg.serve.http.signed_ids import ImageId, image_expired, seal, unseal
from foodseg.serve.model_lookup import ingredient_ids
from foodseg.serve.protocols import ImageExpired, Labelled, ModelState, RefineBackend, SamBackend
from foodseg.serve.recheck import look_again

EMBEDDINGS = 3  # tries for one image: while replicas change, its prompt may reach another replica than its embedding

ImageUpload = Annotated[UploadFile, File(description="JPEG, PNG or WebP")]
MaybeImageUpload = Annotated[UploadFile | None, File(description="JPEG, PNG or WebP; or give image_id")]
MasksUpload = Annotated[
    UploadFile,
    File(description="PNG with one value for each region, 0 elsewhere; or JSON: a COCO document, RLEs or polygons"),
]
Text = Annotated[str, Form(max_length=MAX_FIELD)]


class ImageRoutes:
    """One method for each path."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def segment(
        self,
        request: Request,
        image: ImageUpload,
        model: Text = "",
        ingredients: Text = "",
        refine: Annotated[RefineBy, Form()] = "none",
        recheck: Annotated[bool, Form()] = False,
        format: Annotated[MaskFormat, Form()] = "rle",
        pixels_per_cm: Annotated[float | None, Form(gt=0, lt=1e6, allow_inf_nan=False)] = None,
    ) -> Response:
        """Segments the ingredients: areas, shares, confidences and masks.

        `ingredients`: names between commas or a JSON list, for models that can be conditioned on them. `refine` aligns
        the borders with SAM's masks: with `vote` a mask takes the id that most of its pixels have, with `soft` the id
        with the greatest mean logit. `recheck=true`: a region classifier, which sees what is around a region, looks
        again at those of low confidence. `pixels_per_cm` adds areas in square centimetres.
        """
        services = self._services
        refiner = services.refine() if refine in ("vote", "sam") else None
        sam = services.sam() if refine == "soft" else None
        regions = services.regions() if recheck else None
        if regions is not None and refiner is not None:
            raise ApiError(
                422, "recheck_after_vote", "recheck=true does not go with refine=vote, which redraws the label map "
                "where the class scores are gone", "send refine=soft or none",
            )  # fmt: skip
        state, model_id = await services.names.find(model)
        look = None if regions is None else services.second_look(regions, state)
        provided = await services.in_thread(partial(ingredient_ids, ingredients, state)) if ingredients else None
        decoded = await services.read(image)
        masks = [] if sam is None else await self._masks(sam, decoded)
        labelling = services.backends.segmenter.segment(decoded.image, model_id, provided, masks, look)
        # the digest of the pixels, which takes milliseconds, is computed meanwhile
        labelled, image_id = await asyncio.gather(labelling, services.seal(request, decoded))
        refined = bool(masks)
        if refiner is not None:
            voted = await self._vote(refiner, decoded, labelled, state)
            labelled, refined = voted or labelled, voted is not None
        looked = None
        if regions is not None and services.config.regions is not None:
            looked = await look_again(decoded.image, labelled, regions, services.config.regions.seconds)
        labelled, found = looked if looked is not None else (labelled, None)
        size = (decoded.height, decoded.width)
        encode = partial(
            segment_answer, labelled, state.classes, size, format, request_id=id_of(request), image_id=image_id,
            refined=refined, pixels_per_cm=pixels_per_cm,
            rechecked=None if found is None else rechecked_infos(found, state.classes, size),
        )  # fmt: skip
        return json_of(await services.in_thread(encode))

    async def prompt(
        self,
        request: Request,
        image: MaybeImageUpload = None,
        image_id: Text = "",
        points: Text = "",
        box: Text = "",
        format: Annotated[RegionFormat, Form()] = "rle",
    ) -> Response:
        """Masks for points and a box, best first, on an image or on the `image_id` of an earlier answer.

        `points`: JSON `[[x, y, 1 = in or 0 = out], ...]`; `box`: JSON `[x0, y0, x1, y1]`; in pixels of the image.
        """
        sam = self._services.sam()
        if image is None and not image_id:
            raise ApiError(422, "no_image", "neither image nor image_id was sent", "send one of them")
        decoded = None if image is None else await self._services.read(image)
        found = unseal(image_id, self._services.secret, key_of(request)) if decoded is None else None
        height, width = (found.height, found.width) if found else (decoded.height, decoded.width)  # type: ignore[union-attr]
        clicks, frame = parse_points(points, width, height), parse_box(box, width, height)
        if not clicks and frame is None:
            raise ApiError(422, "no_prompt", "neither points nor a box were sent", "click on the image")
        size, decoded_hw = (height, width), decoded_size(height, width, self._services.config.image)
        clicks, frame = to_decoded(clicks, frame, size, decoded_hw)
        for again in reversed(range(1 if decoded is None else EMBEDDINGS)):
            digest = found.digest if found else await sam.embed(decoded.image)  # type: ignore[union-attr]
            try:
                masks = await sam.prompt(digest, clicks, frame)
                break
            except ImageExpired:
                if not again:
                    raise image_expired() from None
        regions = await self._services.in_thread(lambda: [region(mask, size, format) for mask in masks])
        public = seal(ImageId(digest, height, width), self._services.secret, key_of(request))
        info = ImageInfo(width=width, height=height, id=public)
        return json_of(PromptAnswer(request_id=id_of(request), image=info, masks=regions))

    async def zero_shot(
        self,
        request: Request,
        image: ImageUpload,
        names: Text,
        model: Text = "",
        masks: Annotated[bool, Form()] = False,
        dense: Annotated[bool, Form()] = True,
        refine: Annotated[RefineBy, Form()] = "none",
        format: Annotated[MaskFormat, Form()] = "rle",
    ) -> Response:
        """Where any names are on the image, and how well they fit it as a whole.

        With `dense=false` only the latter. `masks=true`: how well they fit each region that SAM finds. `refine`: as for
        /v1/segment, of the label map. `model`: one with an open vocabulary (`/v1/models`) makes it instead of CLIP.
        """
        namer = None if not model else await self._services.names.open_vocabulary(model)
        clip = self._services.clip() if namer is None or masks else self._services.backends.clip
        how = "vote" if refine == "sam" else refine
        sam = self._services.sam() if masks or (dense and how != "none") else None
        wanted = parse_name_list(names, "names")
        labels = wanted_labels(wanted)
        decoded = await self._services.read(image)
        size = (decoded.height, decoded.width)
        scores = [] if clip is None else await clip.scores(decoded.image, labels)
        found = [] if sam is None else await sam.masks(decoded.image, self._services.config.refine.seconds)
        outlines = [mask.mask for mask in found]
        rows = await clip.mask_scores(decoded.image, outlines, labels) if clip and masks and found else []
        drawn, labelled = outlines if how != "none" else [], None
        if dense and namer is not None:
            labelled = await self._services.backends.segmenter.label_names(decoded.image, namer, wanted, drawn, how)
        elif dense and clip is not None:
            labelled = await clip.label(decoded.image, wanted, drawn, how)
        info = ImageInfo(width=decoded.width, height=decoded.height, id=await self._services.seal(request, decoded))
        encode = partial(
            zero_shot_answer, labelled, labels, size, format, request_id=id_of(request), image=info, scores=scores,
            masks=list(zip(found, rows, strict=True)) if masks else None, refined=how != "none" and bool(found),
        )  # fmt: skip
        return json_of(await self._services.in_thread(encode))

    async def classify_regions(self, request: Request, image: ImageUpload, masks: MasksUpload) -> Response:
        """What is in regions whose masks you have: a class for each, in their order, those of a PNG by their values.

        Masks are of the image as it was sent, upright. A region classifier sees what is around a region, too.
        """
        services = self._services
        regions = services.regions()
        decoded = await services.read(image)
        data, size = await masks.read(), (decoded.height, decoded.width)
        height, width = decoded.image.shape[:2]
        given = await services.in_thread(partial(read_masks, data, size, (height, width)))
        logits = await regions.logits(decoded.image, [each.region for each in given])
        info = ImageInfo(width=decoded.width, height=decoded.height, id=await services.seal(request, decoded))
        return json_of(region_answer(logits, given, regions.card, request_id=id_of(request), image=info))

    async def _masks(self, sam: SamBackend, decoded: DecodedImage) -> list[np.ndarray]:
        """Returns SAM's masks of an image, as far as they are found in time."""
        return [found.mask for found in await sam.masks(decoded.image, self._services.config.refine.seconds)]

    async def _vote(
        self, refine: RefineBackend, decoded: DecodedImage, labelled: Labelled, state: ModelState
    ) -> Labelled | None:
        """Returns the refined label map; None if its own deadline has passed: the answer has refined: false then."""
        try:
            voting = refine.vote(decoded.image, labelled, state.classes)
            return await asyncio.wait_for(voting, self._services.config.refine.seconds)
        except asyncio.TimeoutError:
            return None
