"""Tables of what the system reaches: speed, memory, faults, the endpoint."""

from collections.abc import Callable

from experiments.recorded import figures, percent, source, table

Rows = list[tuple[str, str]]


def sweep() -> str:
    found, again = figures("sweep", "sweep"), figures("sweep", "best_again")
    best, chosen = found["best_to_the_end"], found["chosen_by_asha"]
    seconds = found["worker_seconds"]
    rows = [
        (
            "updates with early stopping, as a share of all to the end; worker-seconds",
            f"{found['share_of_updates']:.2f}; {found['share_of_worker_seconds']:.2f} "
            f"({seconds['asha']:,.0f} of {seconds['to_the_end']:,.0f})",
        ),
        (
            "mIoU on val of the best to the end, and of what ASHA chose",
            f"{100 * best['miou']:.2f} ({best['trial']}), {100 * chosen['miou']:.2f} ({chosen['trial']})",
        ),
        (
            "rank correlation of the first validation with the end",
            f"{found['rank_correlation_of_the_first_validation']:.2f}",
        ),
        ("trials; those that early stopping let finish", f"{found['trials']}; {found['finished_with_early_stopping']}"),
        ("`best.yaml` trained once more: difference in mIoU", f"{again['difference']:g}"),
        ("tests of killed drivers, trials and workers that passed", str(figures("sweep", "faults")["passed"])),
    ]
    return _with(rows, "sweep/sweep", "sweep/best_again", "sweep/faults")


def diffusion_system() -> str:
    size, path = figures("diffusion", "full_size"), figures("diffusion", "path")
    forward = size["forward_256"]
    rows = [
        ("parameters of the UNet of Stable Diffusion 1.5", f"{size['unet_parameters']:,}"),
        ("channels that the decoder gets at 104 ids", ", ".join(map(str, size["decoder_inputs"]))),
        (
            "one forward pass with random weights, 256 px, CPU",
            f"{forward['forward_seconds']} s, {forward['peak_mib']:,} MiB",
        ),
        (
            f"tiny model, 8 images by heart, interrupted at update {path['interrupted_at']} of {path['steps']}: pixels "
            "right with the vocabulary, with its prediction",
            f"{percent(path['train_scores']['aacc'])} %, {percent(path['train_scores_predicted']['aacc'])} %",
        ),
        (
            "pixels that the endpoint labels as `foodseg predict` does",
            f"{percent(path['served']['pixels_as_predicted'])} %",
        ),
    ]
    return _with(rows, "diffusion/full_size", "diffusion/path")


def throughput() -> str:
    train, data = figures("throughput", "train"), figures("throughput", "data")
    memory, whole = train["memory"], train["end_to_end"]
    stream = data["stream"]["images_per_second"]
    rows = [
        (
            "training on batches in memory, compared with a bare PyTorch loop",
            f"{memory['foodseg']:.1f} of {memory['bare']:.1f} images/s = {memory['share']:.2f}",
        ),
        (
            "the same end to end, the bare loop decoding too",
            f"{whole['foodseg']:.1f} of {whole['bare']:.1f} images/s = {whole['share']:.2f}",
        ),
        (
            "stream compared with a bare decoding loop on all cores",
            f"{stream:.0f} of {data['bare']['images_per_second']:.0f} images/s = {data['share_of_bare']:.2f}",
        ),
        (
            "stream compared with a torch `DataLoader` with as many workers",
            f"{stream:.0f} of {data['loader']['images_per_second']:.0f} images/s = {data['share_of_loader']:.2f}",
        ),
    ]
    return _with(rows, "throughput/train", "throughput/data")


def scale() -> str:
    stream, prepare = figures("scale", "stream_memory"), figures("scale", "prepare")
    rows = [
        (
            "largest process of the stream, 404 images and ten times as many",
            " and ".join(f"{stream[name]['largest_process_mib']:.0f} MiB" for name in ("once", "tenfold")),
        ),
        ("preparing 10,000 images", f"{prepare['10000']['rows_per_second']:.0f} images/s"),
        (
            "largest process while preparing 1,000 and 10,000 images",
            " and ".join(f"{prepare[name]['largest_process_mib']:.0f} MiB" for name in ("1000", "10000")),
        ),
    ]
    return _with(rows, "scale/stream_memory", "scale/prepare")


def data() -> str:
    bucket, read, found = (
        figures(*item) for item in (("object_storage", "s3"), ("formats", "formats"), ("audit", "faults"))
    )
    layouts, copies = ("FoodSeg103", "UECFOODPIXCOMPLETE"), ("coco", "huggingface", "pycocotools")
    sets = figures("several_sets", "several_sets")
    rows = [
        (
            "598 real images to S3, 404 of them trained on by 2 workers for 60 updates, 123 scored",
            ", ".join(f"{bucket[f'{verb}_seconds']:.0f} s" for verb in ("prepare", "train", "evaluate")),
        ),
        (
            "masks of both official layouts' samples that come out pixel for pixel",
            " and ".join(str(read[name]["masks_equal"]) for name in layouts) + " (all)",
        ),
        (
            "of 598 real masks, from COCO, from Parquet, read by pycocotools",
            ", ".join(str(read[name]["masks_equal"]) for name in copies),
        ),
        (
            "faulty records that the audit names rightly; records that it names wrongly",
            f"{found['found_and_named']} of {found['faulty_records']}; {found['invented']}",
        ),
        (
            "real test images with a near-duplicate in train",
            f"{found['foodmix']['test_images_with_a_twin_in_train']} of 123",
        ),
        (
            f"one model of {sets['classes']} classes, {sets['steps']} updates, mIoU on val: real, synthetic images",
            ", ".join(f"{percent(sets[name]['val']['miou'])} %" for name in ("foodmix", "synthetic")),
        ),
    ]
    return _with(rows, "object_storage/s3", "formats/formats", "audit/faults", "several_sets/several_sets")


def report() -> str:
    found = figures("report", "report")
    rows = [
        ("mIoU on test, over 68 ids", f"{percent(found['scores']['miou'])} %"),
        ("pixels right", f"{percent(found['scores']['aacc'])} %"),
        ("boundary mIoU", f"{percent(found['boundary']['miou'])} %"),
        ("ingredient F1 per image", f"{percent(found['ingredients']['per_image']['f1'])} %"),
        ("calibration error (ECE)", f"{percent(found['calibration']['ece'])} %"),
    ]
    for worst in found["worst_classes"]:
        taken = ", ".join(f"{name} {100 * share:.0f} %" for name, share in worst["taken_for"].items())
        rows.append((f"{worst['class']}: IoU; taken for", f"{percent(worst['iou'])} %; {taken}"))
    return _with(rows, "report/report")


def endpoint() -> str:
    speed, photograph = figures("endpoint", "bench_serve"), figures("endpoint", "twelve_megapixels")
    curl = figures("endpoint", "readme_curl")
    alone, eight, most = (speed["concurrency"][count] for count in ("1", "8", "16"))
    prompt, refine = speed["prompt"], speed["refine"]
    rows = [
        (
            "requests/s at saturation, compared with the same functions in one process",
            f"{most['served']['requests_per_second']:.1f} of {most['bare']['requests_per_second']:.1f} "
            f"= {speed['share_of_bare']:.2f}",
        ),
        (
            "one request at a time, p50 and p99; bare; what HTTP and Ray add",
            f"{alone['served']['p50_ms']:.0f} and {alone['served']['p99_ms']:.0f} ms; "
            f"{alone['bare']['p50_ms']:.0f} and {alone['bare']['p99_ms']:.0f} ms; "
            f"{speed['milliseconds_over_bare']:.0f} ms",
        ),
        ("a Ray Serve application that does nothing, one at a time", f"{speed['milliseconds_of_noop']:.0f} ms"),
        (
            "eight at a time, p50 and p99",
            f"{eight['served']['p50_ms'] / 1000:.1f} and {eight['served']['p99_ms'] / 1000:.1f} s",
        ),
        (
            "a click on an image: the first, the second",
            f"{prompt['first_ms'] / 1000:.1f} s, {prompt['second_ms'] / 1000:.2f} s",
        ),
        (
            "`refine=sam`, p50 and p99",
            f"{refine['p50_ms'] / 1000:.1f} and {refine['p99_ms'] / 1000:.1f} s",
        ),
        ("a photograph of 12 megapixels, most memory added", f"{photograph['most_added_mib']} MiB"),
        (
            "curl lines of the README; masks that pycocotools decodes",
            f"{curl['lines']}; {curl['masks_that_pycocotools_decodes']}",
        ),
    ]
    return _with(rows, "endpoint/bench_serve", "endpoint/twelve_megapixels", "endpoint/readme_curl")


def endpoint_faults() -> str:
    load, scaling = figures("endpoint_faults", "load"), figures("endpoint_faults", "autoscaling")
    rows = [
        (name, f"{one['answered']}", f"{one['lost']}", f"{one['longest_seconds']:.1f} s") for name, one in load.items()
    ]
    counts = " -> ".join(str(one["replicas"]) for one in scaling["replicas"])
    loads = [*scaling["loads"], scaling["between"]]
    longest = max(one["longest_seconds"] for one in loads)
    rows.append(
        (f"replicas {counts}", f"{sum(one['answered'] for one in loads)}", f"{scaling['lost']}", f"{longest:.1f} s")
    )
    made = table(["what happens under load", ">answers", ">lost", ">longest wait"], rows)
    return f"{made}\n\n{source('endpoint_faults/load', 'endpoint_faults/autoscaling')}"


def hostile_http() -> str:
    found = figures("hostile_http", "hostile")
    statuses: dict[str, int] = {}
    for outcomes in found["outcomes"].values():
        for name, count in outcomes.items():
            if name[0].isdigit():
                statuses[name[:3]] = statuses.get(name[:3], 0) + count
    memory = found["memory"]
    rows = [
        ("hostile requests: damaged, bombs, wrong keys, schemathesis, slow bodies", f"{found['sent']:,}"),
        ("answers by status", ", ".join(f"{name}: {count:,}" for name, count in sorted(statuses.items()))),
        (
            "all processes at the start, after the first 1,000, at the end",
            ", ".join(f"{memory[index]['all_mib']:,} MiB" for index in (0, 2, -1)),
        ),
        ("the same answer as before afterwards", "yes" if found["same_answer_afterwards"] else "no"),
    ]
    return _with(rows, "hostile_http/hostile")


TABLES: dict[str, Callable[[], str]] = {
    made.__name__: made
    for made in (
        sweep, diffusion_system, throughput, scale, data, report, endpoint, endpoint_faults, hostile_http,
    )
}  # fmt: skip


def _with(rows: Rows, *items: str) -> str:
    return f"{table(['what', 'figure'], rows)}\n\n{source(*items)}"
