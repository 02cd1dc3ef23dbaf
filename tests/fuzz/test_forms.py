"""Laws of what comes with a picture or a clip: the form's parts, options as query and as JSON, and box lists."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, quote

import numpy as np
import orjson
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from service.api.schemas import (
    FARTHEST_PX,
    ClipFields,
    PhotoFields,
    clip_options,
    options_from_query,
    photo_options,
)
from service.api.uploads import Room, give_back, read_upload, spooled_upload
from service.pipelines.clip import ClipOptions
from service.pipelines.photo import PhotoOptions

from .strangers import FEW, MANY, VALUES, Strategy, nearly, refused_by_field, torn

MAX_PEOPLE = 5
LIMIT_BYTES = 500
BOXES: Strategy = st.lists(
    st.tuples(*[st.floats(-100, 700, width=32)] * 2, *[st.floats(1, 500, width=32)] * 2).map(list), max_size=6
)
COMMON = {
    "camera": st.sampled_from([{"focal_px": 900}, {"field_of_view": 60.5, "center": [320, 240]}]),
    "models": st.sampled_from([{}, {"pose": "lite-hrnet@2"}]),
    "stature": st.sampled_from([0.3, 1.7, 3]),
    "max_people": st.sampled_from([1, 20, 100]),
    "min_person_score": st.sampled_from([0.01, 0.5, 1]),
    "states": st.booleans(),
    "lift": st.booleans(),
}
PHOTO: Strategy = st.fixed_dictionaries({}, optional={**COMMON, "boxes": BOXES, "flip_test": st.booleans()})
CLIP: Strategy = st.fixed_dictionaries(
    {},
    optional={
        **COMMON,
        "every": st.sampled_from([1, 7, 1000]),
        "start": st.sampled_from([0, 1.5]),
        "end": st.sampled_from([0.5, 9]),
        "format": st.sampled_from(["csv", "mp4"]),
        "person": st.sampled_from([0, 3]),
    },
)


def in_query(options: Any) -> list[tuple[str, str]]:
    """As a client writes options into an address, and the server takes it apart again."""
    if not isinstance(options, dict):
        return []
    # Text stands as it is, all else as JSON.
    texts = {
        name: value if isinstance(value, str) else orjson.dumps(value, default=str).decode()
        for name, value in options.items()
    }
    query = "&".join(f"{quote(name)}={quote(text)}" for name, text in texts.items())
    return parse_qsl(query, keep_blank_values=True)


def read_photo(query: Sequence[tuple[str, str]], part: bytes) -> PhotoOptions | None:
    read = refused_by_field(lambda: photo_options(options_from_query(PhotoFields, query, part), MAX_PEOPLE))
    if read is not None:
        hold_to_its_ranges(read)
    return read


def read_clip(query: Sequence[tuple[str, str]], part: bytes) -> ClipOptions | None:
    read = refused_by_field(lambda: clip_options(options_from_query(ClipFields, query, part), MAX_PEOPLE))
    if read is not None:
        hold_to_its_ranges(read.photo)
        assert 1 <= read.every <= 1000 and read.start >= 0 and (read.end is None or read.end > read.start)
    return read


def hold_to_its_ranges(options: PhotoOptions) -> None:
    assert 1 <= options.max_people <= MAX_PEOPLE and 0.01 <= options.min_person_score <= 1
    assert options.stature is None or 0.3 <= options.stature <= 3
    assert not set(options.models) - {"person", "pose", "lift"}
    if options.boxes is not None:
        assert options.boxes.dtype == np.float32 and options.boxes.shape == (len(options.boxes), 4)
        assert len(options.boxes) <= MAX_PEOPLE and (np.abs(options.boxes) <= FARTHEST_PX).all()
        assert (options.boxes[:, 2:] > 0).all()


# ---- Options


@MANY
@given(nearly(PHOTO), st.booleans())
def test_options_of_a_photo_are_read_or_refused_by_their_field(options: Any, as_part: bool) -> None:
    read_photo(*([], orjson.dumps(options, default=str)) if as_part else (in_query(options), b""))


@MANY
@given(nearly(CLIP), st.booleans())
def test_options_of_a_clip_are_read_or_refused_by_their_field(options: Any, as_part: bool) -> None:
    read_clip(*([], orjson.dumps(options, default=str)) if as_part else (in_query(options), b""))


@FEW
@given(st.lists(st.tuples(st.sampled_from(sorted(ClipFields.model_fields)), st.text(max_size=8)), max_size=3))
def test_any_text_as_an_option_is_read_or_refused_by_its_field(query: list[tuple[str, str]]) -> None:
    read_clip(query, b"")
    read_photo(query, b"")


@FEW
@given(torn(PHOTO.map(orjson.dumps)) | st.binary(max_size=30))
def test_any_bytes_as_the_options_part_are_read_or_refused_by_their_field(part: bytes) -> None:
    read_photo([], part)


@FEW
@given(PHOTO)
def test_options_say_the_same_in_the_query_and_in_the_form(options: dict[str, Any]) -> None:
    one, other = read_photo(in_query(options), b""), read_photo([], orjson.dumps(options))
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        assert {**vars(one), "boxes": None} == {**vars(other), "boxes": None}
        if "boxes" in options:
            np.testing.assert_array_equal(one.boxes, np.array(options["boxes"], np.float32).reshape(-1, 4))
            np.testing.assert_array_equal(one.boxes, other.boxes)


@MANY
@given(nearly(BOXES, VALUES))
def test_a_list_of_boxes_is_an_array_with_sizes_or_refused(boxes: Any) -> None:
    read = read_photo([], orjson.dumps({"boxes": boxes}, default=str))
    if read is not None and read.boxes is not None:
        assert read.boxes.tolist() == np.array(boxes, np.float32).reshape(-1, 4).tolist()


# ---- Forms

BOUNDARY = b"x-7"


def form(parts: Sequence[tuple[bytes, bytes]]) -> bytes:
    pieces = [
        b'--%s\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (BOUNDARY, name, content)
        for name, content in parts
    ]
    return b"".join(pieces) + b"--%s--\r\n" % BOUNDARY


def request(body: bytes, kind: str, cuts: Sequence[int]) -> Request:
    """The body in chunks, cut where it is said."""
    ends = sorted({min(cut, len(body)) for cut in cuts} | {0, len(body)})
    chunks = [body[begin:end] for begin, end in zip(ends, [*ends[1:], len(body)], strict=True)]
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> Any:
        return messages.pop(0)

    rooms = {name: Room(10 * LIMIT_BYTES, name) for name in ("uploads", "clips_on_disk")}
    app = SimpleNamespace(state=SimpleNamespace(**rooms))
    headers = [(b"content-type", kind.encode("latin-1", "replace"))] if kind else []
    return Request({"type": "http", "method": "POST", "path": "/", "headers": headers, "app": app}, receive)


def upload(body: bytes, kind: str, cuts: Sequence[int]) -> tuple[bytes, bytes] | None:
    """What both readers of uploads give, which is the same; None where both refuse."""

    async def into_memory() -> tuple[bytes, bytes]:
        here = request(body, kind, cuts)
        try:
            return await read_upload(here, "clip", LIMIT_BYTES, wait_until=asyncio.get_running_loop().time() + 10)
        finally:
            give_back(here.scope)
            assert here.app.state.uploads.held_bytes == 0

    async def onto_disk() -> tuple[bytes, bytes]:
        here, until = request(body, kind, cuts), asyncio.get_running_loop().time() + 10
        async with spooled_upload(here, "clip", LIMIT_BYTES, wait_until=until) as (path, options):
            content = path.read_bytes()
        assert not path.exists()
        return content, options

    memory = refused_by_field(lambda: asyncio.run(into_memory()))
    if kind.startswith("multipart"):
        assert refused_by_field(lambda: asyncio.run(onto_disk())) == memory
    if memory is not None:
        assert 0 < len(memory[0]) <= LIMIT_BYTES
    return memory


CUTS = st.lists(st.integers(0, 300), max_size=5)
FORM = f"multipart/form-data; boundary={BOUNDARY.decode()}"
# What looks like the end of a part is part of it, too.
CONTENTS = st.binary(min_size=1, max_size=60) | st.sampled_from([b"\r\n--x-", b"\r\n--x-6\r\n", b"--x-7", b"\r\n\r\n"])


@FEW
@given(CONTENTS, st.none() | st.binary(max_size=40), st.booleans(), CUTS)
def test_a_form_is_read_as_it_was_written_wherever_it_is_cut(
    clip: bytes, options: bytes | None, first: bool, cuts: list[int]
) -> None:
    if b"\r\n--" + BOUNDARY in b"\r\n" + clip + b"\r\n" + (options or b""):
        return
    parts = [(b"clip", clip)] + ([] if options is None else [(b"options", options)])
    assert upload(form(parts[::-1] if first else parts), FORM, cuts) == (clip, options or b"")


@FEW
@given(torn(st.just(form([(b"clip", b"0123456789"), (b"options", b"{}")]))), CUTS)
def test_a_torn_form_is_read_or_refused_by_its_field(body: bytes, cuts: list[int]) -> None:
    upload(body, FORM, cuts)


@FEW
@given(
    st.binary(max_size=60),
    st.sampled_from(["", FORM, "multipart/form-data", 'multipart/form-data; boundary="', "image/png", "text/plain"])
    | st.text(max_size=12),
)
def test_any_body_of_any_kind_is_read_or_refused_by_its_field(body: bytes, kind: str) -> None:
    upload(body, kind, [])


@FEW
@given(st.integers(LIMIT_BYTES - 2, LIMIT_BYTES + 2), CUTS, st.booleans())
def test_a_part_of_the_limit_is_read_and_one_byte_more_is_not(size: int, cuts: list[int], in_form: bool) -> None:
    body = form([(b"clip", b"a" * size)]) if in_form else b"a" * size
    assert (upload(body, FORM if in_form else "image/png", cuts) is not None) == (size <= LIMIT_BYTES)
