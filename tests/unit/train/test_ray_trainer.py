"""Whether processes that decode fit beside the workers: on a cluster without CPUs for them a thread does it."""

import pytest

from foodseg.config import parse_config
from foodseg.train.ray_trainer import with_decoders_that_fit, worker_resources


@pytest.mark.parametrize(
    ("workers", "cpus", "settings", "decoders"),
    [
        (1, [3], {}, 1),  # the worker, its process, and reading
        (1, [2], {}, 0),
        (2, [5], {}, 1),
        (2, [4], {}, 0),
        (2, [2, 2], {}, 0),
        (2, [2, 3], {}, 1),
        (2, [7], {"resources_per_worker": {"CPU": 2}}, 1),
        (2, [6], {"resources_per_worker": {"CPU": 2}}, 0),
        ([1, 2], [4], {}, 0),  # else one worker, not two
        ([1, 2], [2], {}, 0),
        ([1, 2], [5], {}, 1),
        (4, [4], {}, 1),  # has no room in any case: the user hears of what was wanted
    ],
)
def test_decoders(workers: int | list[int], cpus: list[int], settings: dict[str, object], decoders: int) -> None:
    config = parse_config({"scaling": {"num_workers": workers, **settings}, "data": {"uri": "d"}})
    nodes = [{"CPU": float(each)} for each in cpus]
    found = with_decoders_that_fit(config, nodes)
    assert found.decoders == decoders
    own = settings.get("resources_per_worker", {"CPU": 1})
    assert worker_resources(found, nodes)["CPU"] >= own["CPU"] + decoders  # type: ignore[index]


@pytest.mark.parametrize("data", [{"decode_processes": 1}, {"decode_processes": 0}, {"decode": "cluster"}])
def test_what_is_set_stays(data: dict[str, object]) -> None:
    config = parse_config({"scaling": {"num_workers": 2}, "data": {"uri": "d", **data}})
    assert with_decoders_that_fit(config, [{"CPU": 4.0}]) is config


def test_a_gpu_of_a_node_of_few_cpus() -> None:
    config = parse_config({"scaling": {"num_workers": 2, "use_gpu": True}, "data": {"uri": "d"}})
    assert with_decoders_that_fit(config, [{"CPU": 4.0, "GPU": 2.0}]).decoders == 0
    assert with_decoders_that_fit(config, [{"CPU": 8.0, "GPU": 2.0}]).decoders == 1
