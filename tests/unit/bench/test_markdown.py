"""The pages that the benchmarks print."""

from typing import Any

from foodseg.bench.markdown import bench_markdown

MACHINE: dict[str, Any] = {
    "cores": 2,
    "processor": "Xeon",
    "load_before": 0.25,
    "versions": {"foodseg": "0.1.0", "ray": "2.60.0"},
    "data": "foodmix@v1-abc",
    "crop": 256,
}


def test_data_page() -> None:
    page = bench_markdown(
        {
            **MACHINE,
            "benchmark": "data",
            "stream": {
                "images_per_second": 1500.0,
                "seconds": 20.1,
                "seconds_to_first_batch": 7.25,
                "all_processes_mib": 900.4,
                "largest_process_mib": 310.0,
            },
            "bare": {"images_per_second": 2000.0, "kind": "threads", "count": 2, "trials": {"threads 1": 1100.0}},
            "loader": {"images_per_second": 1600.0, "workers": 2},
            "share_of_bare": 0.75,
            "share_of_loader": 0.9375,
            "images": {
                "train": 404,
                "median_longest_side": 512,
                "median_shortest_side": 384,
                "mean_encoded_bytes": 38_000,
            },
            "longest_side": 300,
        }
    )
    assert "| foodseg's stream | 1500.0 |  |" in page
    assert "| bare loop, 2 threads | 2000.0 | 0.750 |" in page
    assert "| torch DataLoader, 2 workers | 1600.0 | 0.938 |" in page
    assert "404 images, median 512 x 384 pixels, 38 kB, scaled to 300 and cropped to 256" in page
    assert "- versions: foodseg 0.1.0, ray 2.60.0" in page


def test_train_page() -> None:
    figures = {"foodseg": 19.0, "bare": 20.0, "share": 0.95, "runs": {"foodseg": [18.5, 19.5], "bare": [20.0, 20.0]}}
    page = bench_markdown(
        {
            **MACHINE,
            "benchmark": "train",
            "memory": figures,
            "end_to_end": {**figures, "steady_share": 0.97},
            "workers": 2,
            "threads_per_worker": 1,
            "steps": 40,
            "global_batch": 8,
            "backbone": "resnet18",
        }
    )
    assert "| in memory | 19.00 | 20.00 | 0.950 |" in page
    assert "share 0.970" in page
    assert "- runs end to end: foodseg 18.50, 19.50; bare 20.00, 20.00" in page
    assert "2 processes with 1 threads each, 40 updates of 8 images" in page


def test_serve_page() -> None:
    bare = {"requests_per_second": 5.0, "p50_ms": 200.0, "p90_ms": 210.0, "p99_ms": 220.0, "requests": 60}
    served = {**bare, "requests_per_second": 4.5, "p50_ms": 212.4, "p99_ms": 250.0}
    page = bench_markdown(
        {
            **MACHINE,
            "benchmark": "serve",
            "concurrency": {"1": {"bare": bare, "served": served}},
            "requests_per_second": 4.5,
            "share_of_bare": 0.9,
            "milliseconds_over_bare": 12.4,
            "milliseconds_of_noop": 9.6,
            "client_cpus": 0.021,
            "threads": 1,
            "prompt": {"first_ms": 3000.0, "second_ms": 200.0, "times_faster": 15.0},
            "refine": {**served, "p50_ms": 9000.0, "share_refined": 1.0},
            "model": {"name": "meals", "sha": "ab" * 32, "longest_side": 512},
            "images": {"count": 64, "mean_kb": 49.2, "from": "meals/"},
            "modes": {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"},
        }
    )
    assert "| 1 | 5.00 | 4.50 | 200 | 212 | 250 |" in page
    assert "- at saturation 4.50 requests/s, 0.900 of bare" in page
    assert "- one at a time: 12.4 ms over bare" in page
    assert "first 3000 ms, second 200 ms, 15.0 times faster" in page
    assert "model meals@abababababab, Serve's mode: RAY_SERVE_THROUGHPUT_OPTIMIZED=1" in page
