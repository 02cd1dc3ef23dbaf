"""What strangers may send, as hypothesis makes it: any JSON, right documents with some places wrong, and torn bytes.

`TOLD` are the refusals that a caller understands; `refused_by_field` is the law of every parser. Knows no door.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from service.errors import OutOfRange, Refused, TooLarge, Unknown, UnknownKind, Unreadable

T = TypeVar("T")
Strategy = st.SearchStrategy[Any]

TOLD = (Unreadable, UnknownKind, TooLarge, OutOfRange, Unknown)
# The same examples each time: a find is no matter of luck, and none is kept on the disk.
FEW = settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
MANY = settings(FEW, max_examples=100)

NUMBERS: Strategy = st.one_of(
    st.integers(-3, 40),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.sampled_from([0.0, -0.0, 1e-320, 1e6, 1e6 + 1, -1e39, 1e308, 2**31, 2**53]),
)
LEAVES: Strategy = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=5), st.just("1"))
VALUES: Strategy = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


def refused_by_field(parse: Callable[[], T]) -> T | None:
    """What `parse` gives; None where it refuses as a parser may: by name. Any other exception fails the test."""
    try:
        return parse()
    except Refused as error:
        assert isinstance(error, TOLD), repr(error)
        assert error.field is not None and str(error)  # the field's own name may be empty
        return None


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to each value inside a document, itself left out."""
    inner: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, each in inner for place in ((*path, key), *places(each, (*path, key)))]


def changed(value: Any, path: tuple[Any, ...], change: Callable[[Any], Any]) -> Any:
    """A copy, with another value at the path; `change` gives ... where there is to be none."""
    if not path:
        return change(value)
    copy = dict(value) if isinstance(value, dict) else list(value)
    new = changed(copy[path[0]], path[1:], change)
    if new is ...:
        del copy[path[0]]
    else:
        copy[path[0]] = new
    return copy


def _instead(new: Any, _: Any) -> Any:
    return new


@st.composite
def nearly(draw: st.DrawFn, right: Strategy, values: Strategy = VALUES) -> Any:
    """A right document, of which up to three places hold something else, are missing, or are there twice."""
    document = draw(right)
    for _ in range(draw(st.integers(0, 3))):
        if not (ways := places(document)):
            break
        # As often near the top as deep inside, where most places are.
        depth = draw(st.integers(1, max(map(len, ways))))
        path = draw(st.sampled_from([way for way in ways if len(way) == depth] or ways))
        what = draw(st.sampled_from(["other", "other", "none", "twice", "added"]))
        other = draw(values)
        if what == "other":
            document = changed(document, path, functools.partial(_instead, other))
        elif what == "none":
            document = changed(document, path, lambda _: ...)
        elif what == "twice":
            document = changed(document, path, lambda old: old * 2 if isinstance(old, list | str) else [old, old])
        elif isinstance(document, dict):
            document = {**document, draw(st.text(max_size=6)): other}
    return document


@st.composite
def torn(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """Right bytes, of which up to three stretches are cut out, replaced, or moved in from elsewhere."""
    body = draw(whole)
    for _ in range(draw(st.integers(0, 3))):
        begin = draw(st.integers(0, len(body)))
        end = min(len(body), begin + draw(st.integers(0, 12)))
        other = draw(st.binary(max_size=4) | st.sampled_from([b",", b"]", b"]]", b"[", b'"', b" ", b"null", b"NaN"]))
        body = body[:begin] + other + body[end:]
    return body
