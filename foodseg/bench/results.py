"""What the benchmarks found; `to_json` of a result is what `foodseg bench --json` prints."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class MachineFacts:
    """What figures were measured on; they are not valid with a load far above 0 before the start."""

    cores: int
    processor: str
    load_before: float
    versions: Mapping[str, str]


@dataclass(frozen=True)
class MemoryPeaks:
    """MiB at the peak: of the largest single process, of all together, and by command name of the largest one."""

    largest_process_mib: float
    all_processes_mib: float
    processes_mib: Mapping[str, float]


@dataclass(frozen=True)
class StreamRate:
    """The training stream: its `images` took `seconds` from the first batch on.

    `cpu_microseconds`: of CPU an image, by part (`bench/cpu_parts.py`).
    """

    images_per_second: float
    seconds: float
    images: int
    seconds_to_first_batch: float
    cpu_microseconds: Mapping[str, float]


@dataclass(frozen=True)
class BareRate:
    """The bare loop on `count` "threads" or "processes" (`kind`), the fastest way; `trials`: rates of all ways.

    `cpu_microseconds`: of CPU an image.
    """

    images_per_second: float
    cpu_microseconds: float
    kind: str
    count: int
    seconds: float
    trials: Mapping[str, float]


@dataclass(frozen=True)
class LoaderRate:
    """A torch DataLoader with `workers` processes."""

    images_per_second: float
    seconds: float
    workers: int


@dataclass(frozen=True)
class ImageFacts:
    """Sides in pixels and bytes of the encoded images; `in_memory`: how many of them the bare loop decodes."""

    median_longest_side: float
    median_shortest_side: float
    mean_encoded_bytes: int
    in_memory: int


@dataclass(frozen=True)
class DataBench:
    """The stream against the bare loop and the loader, and what they were measured on; `train`: images of the data."""

    stream: StreamRate
    memory: MemoryPeaks
    bare: BareRate
    loader: LoaderRate
    data: str
    config_hash: str
    train: int
    images: ImageFacts
    longest_side: int
    crop: int
    batch: int
    niceness: int
    machine: MachineFacts

    @property
    def share_of_bare(self) -> float:
        return self.stream.images_per_second / self.bare.images_per_second

    @property
    def cpu_over_bare(self) -> float:
        """Microseconds of CPU an image that the stream takes in addition to the bare loop's."""
        return sum(self.stream.cpu_microseconds.values()) - self.bare.cpu_microseconds

    @property
    def share_of_loader(self) -> float:
        return self.stream.images_per_second / self.loader.images_per_second

    def to_json(self) -> dict[str, object]:
        return {
            "benchmark": "data",
            "stream": {**asdict(self.stream), **asdict(self.memory)},
            "bare": asdict(self.bare),
            "loader": asdict(self.loader),
            "share_of_bare": self.share_of_bare,
            "share_of_loader": self.share_of_loader,
            "cpu_microseconds_over_bare": self.cpu_over_bare,
            "data": self.data,
            "config_hash": self.config_hash,
            "images": {"train": self.train, **asdict(self.images)},
            "longest_side": self.longest_side,
            "crop": self.crop,
            "batch": self.batch,
            "niceness": self.niceness,
            **asdict(self.machine),
        }


@dataclass(frozen=True)
class Runs:
    """Images per second of every run."""

    foodseg: tuple[float, ...]
    bare: tuple[float, ...]


@dataclass(frozen=True)
class TrainShare:
    """Medians over the runs, in images per second, and foodseg's share of the bare loop's."""

    foodseg: float
    bare: float
    share: float
    runs: Runs


@dataclass(frozen=True)
class TrainBench:
    """`foodseg train` against the bare loop: from memory, end to end, and end to end without the first updates."""

    memory: TrainShare
    end_to_end: TrainShare
    steady_share: float
    steps: int
    rounds: int
    workers: int
    threads_per_worker: int
    global_batch: int
    crop: int
    backbone: str
    data: str
    config_hash: str
    machine: MachineFacts

    def to_json(self) -> dict[str, object]:
        return {
            "benchmark": "train",
            "memory": asdict(self.memory),
            "end_to_end": {**asdict(self.end_to_end), "steady_share": self.steady_share},
            "steps": self.steps,
            "rounds": self.rounds,
            "workers": self.workers,
            "threads_per_worker": self.threads_per_worker,
            "global_batch": self.global_batch,
            "crop": self.crop,
            "backbone": self.backbone,
            "data": self.data,
            "config_hash": self.config_hash,
            **asdict(self.machine),
        }


@dataclass(frozen=True)
class Latency:
    """Requests that were answered, and percentiles of the milliseconds to the answer."""

    requests: int
    requests_per_second: float
    p50_ms: float
    p90_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Sides:
    """The same images bare and served; `noop`: sent to a Serve application that does nothing, one at a time only."""

    bare: Latency
    served: Latency
    noop: Latency | None = None

    def to_json(self) -> dict[str, object]:
        return {name: figures for name, figures in asdict(self).items() if figures is not None}


@dataclass(frozen=True)
class Clicks:
    """Median milliseconds of the first and of the second click on an image."""

    first_ms: float
    second_ms: float

    @property
    def times_faster(self) -> float:
        return self.first_ms / self.second_ms

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "times_faster": self.times_faster}


@dataclass(frozen=True)
class Refined:
    """Requests with refine=vote, and which share of them was refined within its deadline."""

    latency: Latency
    share_refined: float

    def to_json(self) -> dict[str, object]:
        return {**asdict(self.latency), "share_refined": self.share_refined}


@dataclass(frozen=True)
class ServeFigures:
    """What was measured: sides by requests at once; milliseconds are medians over the images, one at a time.

    requests_per_second: served, at saturation. prompt, refine: None where SAM is not configured.
    """

    concurrency: Mapping[int, Sides]
    requests_per_second: float
    share_of_bare: float
    milliseconds_over_bare: float
    milliseconds_of_noop: float
    client_cpus: float
    prompt: Clicks | None
    refine: Refined | None

    def to_json(self) -> dict[str, object]:
        return {
            "concurrency": {str(count): sides.to_json() for count, sides in self.concurrency.items()},
            "requests_per_second": self.requests_per_second,
            "share_of_bare": self.share_of_bare,
            "milliseconds_over_bare": self.milliseconds_over_bare,
            "milliseconds_of_noop": self.milliseconds_of_noop,
            "client_cpus": self.client_cpus,
            **({} if self.prompt is None else {"prompt": self.prompt.to_json()}),
            **({} if self.refine is None else {"refine": self.refine.to_json()}),
        }


@dataclass(frozen=True)
class BenchModel:
    """The model that answered; `longest_side` in pixels."""

    name: str
    sha: str
    longest_side: int | None


@dataclass(frozen=True)
class ServeBench:
    """The endpoint against its own functions.

    threads: of a forward pass. images: how many, of `mean_kb` each, from `images_from`. modes: Ray's variables that
    change the figures.
    """

    figures: ServeFigures
    threads: int
    model: BenchModel
    images: int
    mean_kb: float
    images_from: str
    modes: Mapping[str, str]
    machine: MachineFacts

    def to_json(self) -> dict[str, object]:
        return {
            "benchmark": "serve",
            **self.figures.to_json(),
            "threads": self.threads,
            "model": asdict(self.model),
            "images": {"count": self.images, "mean_kb": self.mean_kb, "from": self.images_from},
            "modes": dict(self.modes),
            **asdict(self.machine),
        }


@dataclass(frozen=True)
class NetworkCost:
    """What one square image of `side` pixels costs a network; a multiply-add counts as two operations."""

    network: str
    side: int
    parameters: int
    gflops: float
    median_ms: float
    least_ms: float


@dataclass(frozen=True)
class RealtimeBench:
    """The real-time segmenter and the default recipe, for `classes` ids, `rounds` times in turns on one thread."""

    costs: tuple[NetworkCost, ...]
    classes: int
    rounds: int
    machine: MachineFacts

    def to_json(self) -> dict[str, object]:
        return {
            "benchmark": "realtime",
            "costs": [asdict(cost) for cost in self.costs],
            "classes": self.classes,
            "rounds": self.rounds,
            **asdict(self.machine),
        }
