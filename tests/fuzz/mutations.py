"""Ways in which a file goes wrong, each a function of its bytes and a random generator."""

from collections.abc import Callable

import numpy as np

HEADER = 512
"""Bytes from the start, among which most of a format's header lies."""

Mutation = Callable[[bytes, np.random.Generator], bytes]


def flip_a_bit(content: bytes, source: np.random.Generator) -> bytes:
    changed = bytearray(content)
    changed[source.integers(len(content))] ^= 1 << int(source.integers(8))
    return bytes(changed)


def flip_in_the_header(content: bytes, source: np.random.Generator) -> bytes:
    return flip_a_bit(content[:HEADER], source) + content[HEADER:]


def noise_in_the_header(content: bytes, source: np.random.Generator) -> bytes:
    start = int(source.integers(min(len(content), HEADER)))
    noise = source.bytes(int(source.integers(1, 9)))
    return content[:start] + noise + content[start + len(noise) :]


def an_extreme_number(content: bytes, source: np.random.Generator) -> bytes:
    numbers = (b"\xff" * 4, b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\0\0\xc0\x7f", b"\0" * 4)
    start = int(source.integers(min(len(content), HEADER)))
    return content[:start] + numbers[source.integers(len(numbers))] + content[start + 4 :]


def digits_in_the_header(content: bytes, source: np.random.Generator) -> bytes:
    """Changes a number where a header is text."""
    places = [
        place for place in range(min(len(content), HEADER)) if content[place : place + 1].isdigit()
    ]
    if not places:
        return an_extreme_number(content, source)
    place = places[source.integers(len(places))]
    texts = (b"99999999", b"-1", b"nan", b"0", b"1e300", b"")
    return content[:place] + texts[source.integers(len(texts))] + content[place + 1 :]


def cut_off(content: bytes, source: np.random.Generator) -> bytes:
    return content[: int(source.integers(len(content)))]


def a_piece_missing(content: bytes, source: np.random.Generator) -> bytes:
    start, stop = sorted(source.integers(len(content), size=2).tolist())
    return content[:start] + content[stop:]


def a_piece_zero(content: bytes, source: np.random.Generator) -> bytes:
    start = int(source.integers(len(content)))
    piece = content[start : start + int(source.integers(1, 4096))]
    return content[:start] + bytes(len(piece)) + content[start + len(piece) :]


def a_piece_twice(content: bytes, source: np.random.Generator) -> bytes:
    start, stop = sorted(source.integers(len(content), size=2).tolist())
    return content[:stop] + content[start:]


def something_behind(content: bytes, source: np.random.Generator) -> bytes:
    return content + source.bytes(int(source.integers(1, 300)))


def nothing_but_noise(content: bytes, source: np.random.Generator) -> bytes:
    kept = int(source.integers(0, 16))
    return content[:kept] + source.bytes(len(content) - kept)


MUTATIONS: dict[str, Mutation] = {
    one.__name__: one
    for one in (
        flip_a_bit,
        flip_in_the_header,
        noise_in_the_header,
        an_extreme_number,
        digits_in_the_header,
        cut_off,
        a_piece_missing,
        a_piece_zero,
        a_piece_twice,
        something_behind,
        nothing_but_noise,
    )
}
