"""The pages that the benchmarks print, and their JSON."""

import json
from dataclasses import replace

from foodseg.bench.markdown import bench_markdown
from foodseg.bench.results import (
    BareRate,
    BenchModel,
    Clicks,
    DataBench,
    ImageFacts,
    Latency,
    LoaderRate,
    MachineFacts,
    MemoryPeaks,
    Refined,
    Runs,
    ServeBench,
    ServeFigures,
    Sides,
    StreamRate,
    TrainBench,
    TrainShare,
)

MACHINE = MachineFacts(2, "Xeon", 0.25, {"foodseg": "0.1.0", "ray": "2.60.0"})
ON = ["cores", "processor", "load_before", "versions"]
BARE = Latency(requests=60, requests_per_second=5.0, p50_ms=200.0, p90_ms=210.0, p99_ms=220.0)
SERVED = replace(BARE, requests_per_second=4.5, p50_ms=212.4, p99_ms=250.0)


def test_data() -> None:
    result = DataBench(
        stream=StreamRate(1500.0, 20.1, 30_150, 7.25, {"decoders": 1100.4, "consumer": 60.0}),
        memory=MemoryPeaks(310.0, 900.4, {"python3": 310.0}),
        bare=BareRate(2000.0, 1000.2, "threads", 2, 20.0, {"threads 1": 1100.0}),
        loader=LoaderRate(1600.0, 20.2, 2),
        data="foodmix@v1-abc",
        config_hash="abc",
        train=404,
        images=ImageFacts(512.0, 384.0, 38_000, 400),
        longest_side=300,
        crop=256,
        batch=8,
        niceness=15,
        machine=MACHINE,
    )
    page = bench_markdown(result)
    assert "| foodseg's stream | 1500.0 |  |" in page
    assert "| bare loop, 2 threads | 2000.0 | 0.750 |" in page
    assert "| torch DataLoader, 2 workers | 1600.0 | 0.938 |" in page
    assert "404 images, median 512 x 384 pixels, 38 kB, scaled to 300 and cropped to 256" in page
    assert "- memory of the stream: 900 MiB in all its processes together, 310 MiB in the largest" in page
    assert "- versions: foodseg 0.1.0, ray 2.60.0" in page
    cpu = "- CPU an image, microseconds: bare loop 1000, the stream 160 more: decoders 1100, consumer 60"
    assert cpu in page
    plain = json.loads(json.dumps(result.to_json()))
    assert list(plain) == ["benchmark", "stream", "bare", "loader", "share_of_bare", "share_of_loader",
                           "cpu_microseconds_over_bare", "data", "config_hash",
                           "images", "longest_side", "crop", "batch", "niceness", *ON]  # fmt: skip
    assert list(plain["stream"]) == ["images_per_second", "seconds", "images", "seconds_to_first_batch",
                                     "cpu_microseconds",
                                     "largest_process_mib", "all_processes_mib", "processes_mib"]  # fmt: skip
    assert plain["bare"] == {"images_per_second": 2000.0, "cpu_microseconds": 1000.2, "kind": "threads",
                             "count": 2, "seconds": 20.0, "trials": {"threads 1": 1100.0}}  # fmt: skip
    assert list(plain["loader"]) == ["images_per_second", "seconds", "workers"]
    assert plain["images"] == {"train": 404, "median_longest_side": 512.0, "median_shortest_side": 384.0,
                               "mean_encoded_bytes": 38_000, "in_memory": 400}  # fmt: skip
    assert plain["share_of_bare"] == 0.75


def test_train() -> None:
    figures = TrainShare(19.0, 20.0, 0.95, Runs((18.5, 19.5), (20.0, 20.0)))
    result = TrainBench(
        memory=figures,
        end_to_end=figures,
        steady_share=0.97,
        steps=40,
        rounds=2,
        workers=2,
        threads_per_worker=1,
        global_batch=8,
        crop=256,
        backbone="resnet18",
        data="foodmix@v1-abc",
        config_hash="abc",
        machine=MACHINE,
    )
    page = bench_markdown(result)
    assert "| in memory | 19.00 | 20.00 | 0.950 |" in page
    assert "share 0.970" in page
    assert "- runs end to end: foodseg 18.50, 19.50; bare 20.00, 20.00" in page
    assert "2 processes with 1 threads each, 40 updates of 8 images" in page
    plain = json.loads(json.dumps(result.to_json()))
    assert list(plain) == ["benchmark", "memory", "end_to_end", "steps", "rounds", "workers", "threads_per_worker",
                           "global_batch", "crop", "backbone", "data", "config_hash", *ON]  # fmt: skip
    assert plain["memory"] == {"foodseg": 19.0, "bare": 20.0, "share": 0.95,
                               "runs": {"foodseg": [18.5, 19.5], "bare": [20.0, 20.0]}}  # fmt: skip
    assert plain["end_to_end"] == {**plain["memory"], "steady_share": 0.97}


def test_serve() -> None:
    figures = ServeFigures(
        concurrency={1: Sides(BARE, SERVED, BARE), 8: Sides(BARE, SERVED)},
        requests_per_second=4.5,
        share_of_bare=0.9,
        milliseconds_over_bare=12.4,
        milliseconds_of_noop=9.6,
        client_cpus=0.021,
        prompt=Clicks(3000.0, 200.0),
        refine=Refined(replace(SERVED, p50_ms=9000.0), 1.0),
    )
    result = ServeBench(
        figures=figures,
        threads=1,
        model=BenchModel("meals", "ab" * 32, 512),
        images=64,
        mean_kb=49.2,
        images_from="meals/",
        modes={"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"},
        machine=MACHINE,
    )
    page = bench_markdown(result)
    assert "| 1 | 5.00 | 4.50 | 200 | 212 | 250 |" in page
    assert "- at saturation 4.50 requests/s, 0.900 of bare" in page
    assert "- one at a time: 12.4 ms over bare" in page
    assert "first 3000 ms, second 200 ms, 15.0 times faster" in page
    assert "refine=vote: p50 9000 ms, p99 250 ms, 100 % within its deadline" in page
    assert "model meals@abababababab, Serve's mode: RAY_SERVE_THROUGHPUT_OPTIMIZED=1" in page
    plain = json.loads(json.dumps(result.to_json()))
    measured = ["concurrency", "requests_per_second", "share_of_bare", "milliseconds_over_bare",
                "milliseconds_of_noop", "client_cpus"]  # fmt: skip
    assert list(plain) == ["benchmark", *measured, "prompt", "refine", "threads", "model", "images", "modes", *ON]
    assert list(plain["concurrency"]) == ["1", "8"] and list(plain["concurrency"]["1"]) == ["bare", "served", "noop"]
    assert list(plain["concurrency"]["8"]) == ["bare", "served"]
    assert plain["prompt"] == {"first_ms": 3000.0, "second_ms": 200.0, "times_faster": 15.0}
    assert list(plain["refine"]) == ["requests", "requests_per_second", "p50_ms", "p90_ms", "p99_ms", "share_refined"]
    assert plain["images"] == {"count": 64, "mean_kb": 49.2, "from": "meals/"}
    without = replace(result, figures=replace(figures, prompt=None, refine=None))
    assert {"prompt", "refine"}.isdisjoint(without.to_json()) and "refine" not in bench_markdown(without)
