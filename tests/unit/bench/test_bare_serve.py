"""The loads of `bench serve`, with answers that only note who was asked."""

import asyncio

from foodseg.bench.bare_serve import in_turns, load


def test_everybody_is_asked_for_an_image_before_the_next() -> None:
    asked: list[tuple[str, bytes]] = []

    async def ask(name: str, image: bytes) -> None:
        asked.append((name, image))
        await asyncio.sleep(0.002 if name == "a" else 0.02)

    answers = {name: lambda image, name=name: ask(name, image) for name in ("a", "b")}
    figures, times = asyncio.run(in_turns(answers, [b"1", b"2"], 1.0))
    assert asked[:6] == [("a", b"1"), ("b", b"1"), ("a", b"2"), ("b", b"2"), ("a", b"1"), ("b", b"1")]
    assert figures["a"].requests == figures["b"].requests == len(times["a"]) == len(times["b"])
    # each is rated by its own time alone
    assert figures["a"].requests_per_second == len(times["a"]) / sum(times["a"])
    assert figures["b"].p50_ms >= 20 > figures["a"].p50_ms >= 2


def test_a_load_asks_for_as_many_images_at_once_as_it_says() -> None:
    busy = most = 0

    async def answer(image: bytes) -> None:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await asyncio.sleep(0.01)
        busy -= 1

    figures = asyncio.run(load(answer, [b"1"], 3, 0.1))
    assert most == 3 and busy == 0
    assert figures.requests >= 3 and 10 <= figures.p50_ms <= figures.p99_ms
