"""The result of a benchmark as Markdown: the figures, and what they were measured on."""

from foodseg.bench.results import DataBench, RealtimeBench, ServeBench, TrainBench


def bench_markdown(result: DataBench | TrainBench | ServeBench | RealtimeBench) -> str:
    """Returns a page for a result of `bench_data`, `bench_train`, `bench_serve` or `bench_realtime`."""
    if isinstance(result, DataBench):
        head = _data_lines(result)
    elif isinstance(result, RealtimeBench):
        head = _realtime_lines(result)
    else:
        head = _train_lines(result) if isinstance(result, TrainBench) else _serve_lines(result)
    on = result.machine
    versions = ", ".join(f"{name} {version}" for name, version in on.versions.items())
    machine = f"{on.cores} cores ({on.processor}), load before the start {on.load_before:.1f}"
    return "\n".join([*head, "", f"- machine: {machine}", f"- versions: {versions}"]) + "\n"


def _data_lines(result: DataBench) -> list[str]:
    stream, bare, loader, images = result.stream, result.bare, result.loader, result.images
    trials = ", ".join(f"{name}: {rate:.0f}" for name, rate in bare.trials.items())
    return [
        "# bench data",
        "",
        "| images to the trainer | images/s | the stream's share |",
        "|---|---:|---:|",
        _row("foodseg's stream", stream.images_per_second, None),
        _row(f"bare loop, {bare.count} {bare.kind}", bare.images_per_second, result.share_of_bare),
        _row(f"torch DataLoader, {loader.workers} workers", loader.images_per_second, result.share_of_loader),
        "",
        f"- measured: {stream.seconds:.1f} s, the first batch came after {stream.seconds_to_first_batch:.1f} s",
        f"- CPU an image, microseconds: bare loop {bare.cpu_microseconds:.0f}, the stream {result.cpu_over_bare:.0f} "
        f"more: {', '.join(f'{part} {cpu:.0f}' for part, cpu in stream.cpu_microseconds.items())}",
        f"- memory of the stream: {result.memory.all_processes_mib:.0f} MiB in all its processes together, "
        f"{result.memory.largest_process_mib:.0f} MiB in the largest (without the object store)",
        f"- bare loop, short trials: {trials}",
        f"- data: {result.data}, {result.train} images, median {images.median_longest_side:.0f} x "
        f"{images.median_shortest_side:.0f} pixels, {images.mean_encoded_bytes / 1000:.0f} kB, "
        f"scaled to {result.longest_side} and cropped to {result.crop}",
    ]


def _row(name: str, rate: float, share: float | None) -> str:
    return f"| {name} | {rate:.1f} | {'' if share is None else f'{share:.3f}'} |"


def _train_lines(result: TrainBench) -> list[str]:
    lines = ["# bench train", "", "| batches | foodseg train, images/s | bare loop, images/s | share |"]
    lines.append("|---|---:|---:|---:|")
    sides = (("in memory", result.memory), ("end to end", result.end_to_end))
    lines += [f"| {name} | {found.foodseg:.2f} | {found.bare:.2f} | {found.share:.3f} |" for name, found in sides]
    lines += ["", f"- end to end without the first updates: share {result.steady_share:.3f}"]
    for name, found in sides:
        runs = (("foodseg", found.runs.foodseg), ("bare", found.runs.bare))
        texts = (f"{side} {', '.join(f'{rate:.2f}' for rate in rates)}" for side, rates in runs)
        lines.append(f"- runs {name}: {'; '.join(texts)}")
    return [
        *lines,
        f"- {result.workers} processes with {result.threads_per_worker} threads each, "
        f"{result.steps} updates of {result.global_batch} images, crop {result.crop}, {result.backbone}",
        f"- data: {result.data}",
    ]


def _realtime_lines(result: RealtimeBench) -> list[str]:
    head = "| network | image, pixels | parameters, millions | GFLOPs | ms, median | ms, least |"
    return [
        "# bench realtime",
        "",
        head,
        "|---|---:|---:|---:|---:|---:|",
        *(
            f"| {cost.network} | {cost.side} x {cost.side} | {cost.parameters / 1e6:.2f} | {cost.gflops:.2f} "
            f"| {cost.median_ms:.1f} | {cost.least_ms:.1f} |"
            for cost in result.costs
        ),
        "",
        f"- {result.rounds} images each, in turns, PyTorch on one thread; {result.classes} ids, random weights; a "
        "multiply-add counts as two operations",
    ]


def _serve_lines(result: ServeBench) -> list[str]:
    figures = result.figures
    lines = [
        "# bench serve",
        "",
        "| requests at once | bare, requests/s | served, requests/s | bare p50, ms | served p50, ms | served p99, ms |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for count, sides in figures.concurrency.items():
        bare, served = sides.bare, sides.served
        rates = f"{bare.requests_per_second:.2f} | {served.requests_per_second:.2f}"
        lines.append(f"| {count} | {rates} | {bare.p50_ms:.0f} | {served.p50_ms:.0f} | {served.p99_ms:.0f} |")
    lines += [
        "",
        f"- at saturation {figures.requests_per_second:.2f} requests/s, {figures.share_of_bare:.3f} of bare",
        f"- one at a time: {figures.milliseconds_over_bare:.1f} ms over bare; "
        f"a Serve application that does nothing answers in {figures.milliseconds_of_noop:.1f} ms",
        f"- threads of a forward pass, bare and served: {result.threads}",
        f"- the client took {figures.client_cpus:.2f} of a core",
    ]
    if figures.prompt is not None:
        prompt = figures.prompt
        lines.append(
            f"- click on an image: first {prompt.first_ms:.0f} ms, second {prompt.second_ms:.0f} ms, "
            f"{prompt.times_faster:.1f} times faster"
        )
    if figures.refine is not None:
        latency, share = figures.refine.latency, figures.refine.share_refined
        lines.append(
            f"- refine=vote: p50 {latency.p50_ms:.0f} ms, p99 {latency.p99_ms:.0f} ms, "
            f"{100 * share:.0f} % within its deadline"
        )
    modes = ", ".join(f"{name}={value}" for name, value in result.modes.items())
    return [
        *lines,
        f"- {result.images} images, {result.mean_kb:.0f} kB, model {result.model.name}@{result.model.sha[:12]}, "
        f"Serve's mode: {modes or 'default'}",
    ]
