"""A Ray Serve application that does nothing with an image: its latency is Serve's share of the endpoint's.

It has the shape of `/v1/segment`: an ingress reads the body, and one call by handle carries an image's pixels.
"""

import numpy as np
from fastapi import FastAPI, Request, Response
from ray import serve
from ray.serve.handle import DeploymentHandle

NAME = "noop"
_api = FastAPI()
_FEW = {"num_cpus": 0.05}


@serve.deployment(name="Noop", ray_actor_options=_FEW)
class _Noop:
    async def answer(self, image: np.ndarray) -> bytes:
        return b"{}"


@serve.deployment(name="NoopIngress", ray_actor_options=_FEW)
@serve.ingress(_api)
class _NoopIngress:
    def __init__(self, behind: DeploymentHandle, shape: tuple[int, int, int]) -> None:
        self._behind = behind
        self._image = np.zeros(shape, np.uint8)

    @_api.post("/")
    async def answer(self, request: Request) -> Response:
        await request.body()
        return Response(await self._behind.answer.remote(self._image))


def start_noop(longest_side: int) -> str:
    """Starts it in the running Serve, next to the endpoint; its images are (longest_side, longest_side, 3) uint8.

    Returns:
        The path that it answers POST at.
    """
    ingress = _NoopIngress.bind(_Noop.bind(), (longest_side, longest_side, 3))  # type: ignore[attr-defined]
    serve.run(ingress, name=NAME, route_prefix=f"/{NAME}", logging_config={"enable_access_log": False})
    return f"{NAME}/"
