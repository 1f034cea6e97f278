"""`foodseg bench`: measures speed on this machine, mostly relative to a bare PyTorch loop."""

from typing import Annotated

import typer

from foodseg.cli.options import Address, AsJson, ConfigFile, Overrides, emit

bench_app = typer.Typer(help="Measure speed, mostly relative to a bare PyTorch loop.", no_args_is_help=True)


@bench_app.command("data")
def bench_data(
    data: Annotated[str, typer.Option(help="Prepared data set.")],
    config: ConfigFile = None,
    overrides: Overrides = None,
    seconds: Annotated[float, typer.Option(help="Length of each measurement.", min=1)] = 20,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Measure how many images per second Ray Data streams, compared with a bare decoding loop and a torch DataLoader.

    Example: foodseg bench data --data s3://bucket/meals --json
    """
    from foodseg.bench.markdown import bench_markdown
    from foodseg.bench.ray_data import bench_data as measure
    from foodseg.config.recipe import load_recipe

    result = measure(data, load_recipe(config, overrides or []).config, seconds=seconds, address=address)
    emit(result.to_json(), as_json, lambda: print(bench_markdown(result)))


@bench_app.command("train")
def bench_train(
    data: Annotated[str, typer.Option(help="Prepared data set.")],
    config: ConfigFile = None,
    overrides: Overrides = None,
    workers: Annotated[int, typer.Option(help="Number of workers, for foodseg and for torchrun.", min=1)] = 2,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Measure training speed, compared with a bare PyTorch loop under torchrun: on batches in memory and end to end.

    Example: foodseg bench train --data s3://bucket/meals --json
    """
    from foodseg.bench.markdown import bench_markdown
    from foodseg.bench.ray_train import bench_train as measure
    from foodseg.config.recipe import load_recipe

    result = measure(data, load_recipe(config, overrides or []).config, workers=workers, address=address)
    emit(result.to_json(), as_json, lambda: print(bench_markdown(result)))


@bench_app.command("serve")
def bench_serve(
    config: Annotated[str | None, typer.Argument(help="Ray Serve's deploy file, as serve_configs/local.yaml.")] = None,
    overrides: Overrides = None,
    images: Annotated[str | None, typer.Option(help="Folder or URI of images; default: synthetic meals.")] = None,
    seconds: Annotated[float, typer.Option(help="Length of each measurement.", min=1)] = 20,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Measure requests per second and latency, compared with the same decode, predict and encode in one process.

    Example: foodseg bench serve serve_configs/local.yaml --images meals/ --json
    """
    from foodseg.bench.markdown import bench_markdown
    from foodseg.bench.ray_serve import bench_serve as measure
    from foodseg.serve.model_discovery import settings_here

    settings = settings_here(config, overrides or [], address).overrides
    result = measure(config, settings, images=images, seconds=seconds, address=address)
    emit(result.to_json(), as_json, lambda: print(bench_markdown(result)))


@bench_app.command("realtime")
def bench_realtime(
    side: Annotated[
        list[int] | None, typer.Option(help="Side of square images, a multiple of 32; repeatable. Default: 256, 512.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Images of each network and side.", min=1)] = 20,
    as_json: AsJson = False,
) -> None:
    """Measure parameters, GFLOPs and milliseconds an image of the real-time segmenter and the default recipe.

    On one thread, without data or Ray. Example: foodseg bench realtime --side 256 --json
    """
    from foodseg.bench.markdown import bench_markdown
    from foodseg.bench.realtime import bench_realtime as measure

    result = measure(tuple(side or (256, 512)), rounds)
    emit(result.to_json(), as_json, lambda: print(bench_markdown(result)))
