"""Deploys the application of a running endpoint again, with something changed.

    python -m experiments.endpoint_faults.redeploy ADDRESS --args http.retry_after_seconds=2

--args http.retry_after_seconds=2 is another configuration: every replica is replaced. --model meals runs/broken is
another checkpoint, without the check that `foodseg serve swap` does.
"""

import argparse

from ray.serve.schema import ServeDeploySchema

from foodseg.cluster.ray_internals.serve import connected_client, deploy, deployed_applications
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
        client = connected_client()
        if client is None:
            raise SystemExit(f"no endpoint runs on the cluster at {given.address}")
        application = find_application(deployed_applications(client), given.address)
        if given.args:
            config = parse_serve_config(with_values(application["args"], given.args))
            application = {**application, "args": config.model_dump(mode="json", exclude_unset=True)}
        if given.model:
            application = with_model(application, *given.model)
        deploy(client, ServeDeploySchema.model_validate({"applications": [application]}))


if __name__ == "__main__":
    main()
