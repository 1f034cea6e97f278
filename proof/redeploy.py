"""Deploys the application of a running endpoint again with something changed; `python -m proof.redeploy ADDRESS ...`.

--args http.retry_after_seconds=2 is another configuration: every replica is replaced. --model meals runs/broken is
another checkpoint, without the look at it that `foodseg serve swap` takes.
"""

import argparse

import ray
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

from foodseg.cluster.ray_session import ray_session
from foodseg.config.load import with_values
from foodseg.config.serve import parse_serve_config
from foodseg.serve.deploy_file import find_application, with_model


def main() -> None:
    """Returns as soon as Serve has taken the change."""
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("--args", action="append", default=[])
    parser.add_argument("--model", nargs=2)
    given = parser.parse_args()
    with ray_session(given.address, logical_cpus=0):
        client = _get_global_client()
        configs = ray.get(client._controller.get_app_configs.remote()).values()
        application = find_application([config.model_dump(exclude_unset=True) for config in configs], given.address)
        if given.args:
            config = parse_serve_config(with_values(application["args"], given.args))
            application = {**application, "args": config.model_dump(mode="json", exclude_unset=True)}
        if given.model:
            application = with_model(application, *given.model)
        client.deploy_apps(ServeDeploySchema.model_validate({"applications": [application]}), _blocking=False)


if __name__ == "__main__":
    main()
