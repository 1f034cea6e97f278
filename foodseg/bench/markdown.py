"""The result of a benchmark as Markdown: the figures, and what they were measured on."""

from typing import Any


def bench_markdown(result: dict[str, Any]) -> str:
    """Returns a page for a result of `bench_data`, `bench_train` or `bench_serve`."""
    lines = {"data": _data_lines, "train": _train_lines, "serve": _serve_lines}
    head = lines[result["benchmark"]](result)
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    machine = f"{result['cores']} cores ({result['processor']}), load before the start {result['load_before']:.1f}"
    return "\n".join([*head, "", f"- machine: {machine}", f"- versions: {versions}"]) + "\n"


def _data_lines(result: dict[str, Any]) -> list[str]:
    stream, bare, loader, images = (result[name] for name in ("stream", "bare", "loader", "images"))
    trials = ", ".join(f"{name}: {rate:.0f}" for name, rate in bare["trials"].items())
    return [
        "# bench data",
        "",
        "| images to the trainer | images/s | the stream's share |",
        "|---|---:|---:|",
        _row("foodseg's stream", stream, None),
        _row(f"bare loop, {bare['count']} {bare['kind']}", bare, result["share_of_bare"]),
        _row(f"torch DataLoader, {loader['workers']} workers", loader, result["share_of_loader"]),
        "",
        f"- measured: {stream['seconds']:.1f} s, the first batch came after {stream['seconds_to_first_batch']:.1f} s",
        f"- memory of the stream: {stream['all_processes_mib']:.0f} MiB in all its processes together, "
        f"{stream['largest_process_mib']:.0f} MiB in the largest (without the object store)",
        f"- bare loop, short trials: {trials}",
        f"- data: {result['data']}, {images['train']} images, median {images['median_longest_side']:.0f} x "
        f"{images['median_shortest_side']:.0f} pixels, {images['mean_encoded_bytes'] / 1000:.0f} kB, "
        f"scaled to {result['longest_side']} and cropped to {result['crop']}",
    ]


def _row(name: str, measured: dict[str, Any], share: float | None) -> str:
    return f"| {name} | {measured['images_per_second']:.1f} | {'' if share is None else f'{share:.3f}'} |"


def _train_lines(result: dict[str, Any]) -> list[str]:
    lines = ["# bench train", "", "| batches | foodseg train, images/s | bare loop, images/s | share |"]
    lines.append("|---|---:|---:|---:|")
    for key, name in (("memory", "in memory"), ("end_to_end", "end to end")):
        figures = result[key]
        lines.append(f"| {name} | {figures['foodseg']:.2f} | {figures['bare']:.2f} | {figures['share']:.3f} |")
    lines += ["", f"- end to end without the first updates: share {result['end_to_end']['steady_share']:.3f}"]
    for key, name in (("memory", "in memory"), ("end_to_end", "end to end")):
        runs = result[key]["runs"]
        texts = (f"{side} {', '.join(f'{rate:.2f}' for rate in runs[side])}" for side in ("foodseg", "bare"))
        lines.append(f"- runs {name}: {'; '.join(texts)}")
    return [
        *lines,
        f"- {result['workers']} processes with {result['threads_per_worker']} threads each, "
        f"{result['steps']} updates of {result['global_batch']} images, crop {result['crop']}, {result['backbone']}",
        f"- data: {result['data']}",
    ]


def _serve_lines(result: dict[str, Any]) -> list[str]:
    lines = [
        "# bench serve",
        "",
        "| requests at once | bare, requests/s | served, requests/s | bare p50, ms | served p50, ms | served p99, ms |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for count, figures in result["concurrency"].items():
        bare, served = figures["bare"], figures["served"]
        rates = f"{bare['requests_per_second']:.2f} | {served['requests_per_second']:.2f}"
        lines.append(f"| {count} | {rates} | {bare['p50_ms']:.0f} | {served['p50_ms']:.0f} | {served['p99_ms']:.0f} |")
    lines += [
        "",
        f"- at saturation {result['requests_per_second']:.2f} requests/s, {result['share_of_bare']:.3f} of bare",
        f"- one at a time: {result['milliseconds_over_bare']:.1f} ms over bare; "
        f"a Serve application that does nothing answers in {result['milliseconds_of_noop']:.1f} ms",
        f"- threads of a forward pass, bare and served: {result['threads']}",
        f"- the client took {result['client_cpus']:.2f} of a core",
    ]
    if "prompt" in result:
        prompt, refine = result["prompt"], result["refine"]
        lines += [
            f"- click on an image: first {prompt['first_ms']:.0f} ms, second {prompt['second_ms']:.0f} ms, "
            f"{prompt['times_faster']:.1f} times faster",
            f"- refine=sam: p50 {refine['p50_ms']:.0f} ms, p99 {refine['p99_ms']:.0f} ms, "
            f"{100 * refine['share_refined']:.0f} % within its deadline",
        ]
    images, modes = result["images"], ", ".join(f"{k}={v}" for k, v in result["modes"].items())
    return [
        *lines,
        f"- {images['count']} images, {images['mean_kb']:.0f} kB, model {result['model']['name']}@"
        f"{result['model']['sha'][:12]}, Serve's mode: {modes or 'default'}",
    ]
