"""Laws of what reads keypoints: POST /v1/lift in JSON and msgpack, short and long, and the live streams' messages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, cast

import jsonschema
import msgpack
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api import live, live_frames, long_bodies
from service.api.access import Doors
from service.api.lift import Sequences, read_sequences
from service.api.live_stream import JSON, MSGPACK, Stream
from service.api.messages import SCHEMAS
from service.api.points import read_points
from service.api.schemas import FARTHEST_PX
from service.errors import Refused
from service.geometry.skeletons import SKELETONS
from service.pipelines.call import Call, Class
from tests.api.fake import FakeService

from .strangers import FEW, MANY, Strategy, nearly, refused_by_field, torn

JOINTS = 17
MAX_FRAMES, MAX_PEOPLE = 40, 3
KINDS = ["application/json", "", "application/x-www-form-urlencoded", "application/msgpack", "application/x-msgpack"]

PIXELS = st.floats(-FARTHEST_PX, FARTHEST_PX, width=32) | st.integers(-1000, 1000)
SCORES = st.floats(0, 1, width=32) | st.sampled_from([0, 1])


def frames_of(numbers: int) -> Strategy:
    """Right frames, whose joints have so many numbers or are unknown."""
    known = st.tuples(*[PIXELS, PIXELS, SCORES][:numbers]).map(list)
    unknown = st.sampled_from([None, [None] * numbers])
    # Few different joints, many times: what is drawn number by number is slow.
    few = st.lists(known | known | known | unknown, min_size=1, max_size=4)
    return st.builds(
        lambda joints, shape: [[joints[(frame + joint) % len(joints)] for joint in range(JOINTS)] for frame in shape],
        few,
        st.integers(1, 12).map(range),
    )


FRAMES = st.sampled_from([2, 3]).flatmap(frames_of)
OPTIONS: Strategy = st.fixed_dictionaries(
    {"skeleton": st.sampled_from(["coco17", "h36m17"]), "image_size": st.just([640, 480])},
    optional={
        "fps": st.sampled_from([1, 30, 59.94, 240]),
        "frames": st.sampled_from(["all", "centre"]),
        "stature": st.sampled_from([0.3, 1.7, 3]),
        "smooth": st.booleans(),
        "camera": st.sampled_from([{"focal_px": 900}, {"field_of_view": 60.5, "center": [320, 240]}]),
        "models": st.sampled_from([{}, {"lift": "lift-27"}]),
        "times": st.none() | st.just([0.0, 0.5, 1.0]),
    },
)
ONE: Strategy = st.builds(lambda options, frames: {**options, "keypoints": frames}, OPTIONS, FRAMES)
SEVERAL: Strategy = st.builds(
    lambda options, people: {**options, "people": people}, OPTIONS, st.lists(FRAMES, min_size=1, max_size=3)
)


def encoded(document: Any) -> Strategy:
    """The document as somebody's program may write it, with its kind."""
    as_json = st.sampled_from(
        [
            lambda value: orjson.dumps(value),
            lambda value: json.dumps(value).encode(),
            lambda value: json.dumps(value, indent=1).encode(),
            lambda value: json.dumps(value, separators=(" ,", ": ")).encode(),
        ]
    ).map(lambda write: (write, "application/json"))
    as_msgpack = st.just((msgpack.packb, "application/msgpack"))

    def written(how: Any) -> tuple[bytes, str]:
        try:
            return how[0](document), how[1]
        except (TypeError, ValueError, OverflowError):  # NaN as JSON, whole numbers that msgpack does not hold
            return json.dumps(document, default=str).encode(), "application/json"

    return st.one_of(as_json, as_msgpack).map(written)


def read(body: bytes, kind: str) -> Sequences | None:
    return refused_by_field(lambda: read_sequences(body, kind, MAX_FRAMES, MAX_PEOPLE))


def hold_the_promise(asked: Sequences) -> None:
    """What a pipeline may rely on."""
    assert 1 <= len(asked.people) <= MAX_PEOPLE and (not asked.one or len(asked.people) == 1)
    assert 1 <= sum(map(len, asked.people)) <= MAX_FRAMES
    joints = len(SKELETONS[asked.options.skeleton].joints)
    for points in asked.people:
        assert points.dtype == np.float32 and points.shape == (len(points), joints, 3)
        unknown = np.isnan(points[..., 0])
        assert (np.isnan(points[..., 1]) == unknown).all() and (points[unknown, 2] == 0).all()
        assert (np.abs(points[~unknown, :2]) <= FARTHEST_PX).all()
        assert ((points[..., 2] >= 0) & (points[..., 2] <= 1)).all()
    if asked.options.times is not None:
        assert len(asked.options.times) == len(asked.people[0]) and (np.diff(asked.options.times) > 0).all()


def alike(one: Sequences, other: Sequences) -> bool:
    first, second = (
        (each.one, each.states, each.options.skeleton, each.options.fps, each.options.centre, each.options.smooth)
        for each in (one, other)
    )
    pairs = zip(one.people, other.people, strict=True)
    return first == second and all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)


# ---- POST /v1/lift


@MANY
@given(nearly(ONE | SEVERAL).flatmap(encoded))
def test_a_body_that_is_nearly_right_is_read_or_refused_by_its_field(sent: tuple[bytes, str]) -> None:
    if asked := read(*sent):
        hold_the_promise(asked)


@MANY
@given((ONE | SEVERAL).flatmap(encoded).flatmap(lambda sent: st.tuples(torn(st.just(sent[0])), st.just(sent[1]))))
def test_a_torn_body_is_read_or_refused_by_its_field(sent: tuple[bytes, str]) -> None:
    if asked := read(*sent):
        hold_the_promise(asked)


@FEW
@given(st.binary(max_size=60), st.sampled_from(KINDS) | st.text(max_size=10))
def test_any_bytes_of_any_kind_are_read_or_refused_by_their_field(body: bytes, kind: str) -> None:
    if asked := read(body, kind):
        hold_the_promise(asked)


@FEW
@given(FRAMES, st.sampled_from([orjson.dumps, msgpack.packb]))
def test_right_points_are_read_as_they_were_sent(frames: list[Any], write: Any) -> None:
    kind = "application/json" if write is orjson.dumps else "application/msgpack"
    asked = read(write({"skeleton": "coco17", "image_size": [640, 480], "keypoints": frames}), kind)
    assert asked is not None
    for row, joints in zip(asked.people[0], frames, strict=True):
        for (x, y, score), sent in zip(row, joints, strict=True):
            if sent is None or sent[0] is None:
                assert np.isnan([x, y]).all() and score == 0
            else:
                wanted = [*sent, 1.0][:3]
                assert [x, y, score] == [np.float32(number) for number in wanted]


# ---- Long bodies


@pytest.fixture(autouse=True, scope="module")
def small_blocks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(long_bodies, "BLOCK_BYTES", 700)
        patched.setattr(long_bodies, "BLOCK_FRAMES", 3)
        yield


def points_of(values: dict[str, Any]) -> list[Any]:
    """The people's points, however the body was read."""
    several = values.get("people")
    given = [values.get("keypoints")] if several is None else several
    assert isinstance(given, list)
    return [read_points(each, JOINTS, "keypoints") for each in given]


def hold_long_to_short(body: bytes, in_blocks: dict[str, Any] | None, in_one_go: Any) -> None:
    """What is read in blocks is what is read in one go, and nothing is read that is refused there."""
    if in_blocks is None or not all(isinstance(name, str) for name in in_blocks):  # then it is read in one go
        return
    assert in_one_go is not None, body
    points = {"keypoints", "people"}
    rest = [{name: value for name, value in each.items() if name not in points} for each in (in_blocks, in_one_go)]
    assert repr(rest[0]) == repr(rest[1])
    try:
        wanted = points_of(in_one_go)
    except Refused as error:
        with pytest.raises(type(error)):
            points_of(in_blocks)
        return
    for one, other in zip(points_of(in_blocks), wanted, strict=True):
        np.testing.assert_array_equal(one, other)


def parsed(parse: Any, body: bytes) -> Any:
    try:
        return parse(body)
    except Exception:  # whichever: the body is not of the kind
        return None


LONG = (ONE | SEVERAL).map(lambda document: {**document, "times": None})


@pytest.mark.parametrize("joint", ["[]", "[null]", "[1]", "[1,2,3,4]", "[[1,2]]", "{}"])
def test_joints_that_are_none_among_unknown_ones_are_refused_by_their_field(joint: str) -> None:
    frame = f"[{','.join([joint, 'null'] * 8)},{joint}]"
    body = f'{{"skeleton":"coco17","image_size":[640,480],"keypoints":[{frame},{frame}]}}'.encode()
    hold_long_to_short(body, long_bodies.loads_json(body), orjson.loads(body))
    assert read(body, "application/json") is None


@MANY
@given(nearly(LONG).flatmap(encoded).flatmap(lambda sent: torn(st.just(sent[0])) | st.just(sent[0])))
def test_a_long_body_says_what_its_short_form_says(body: bytes) -> None:
    hold_long_to_short(body, long_bodies.loads_json(body), parsed(orjson.loads, body))
    hold_long_to_short(body, long_bodies.loads_msgpack(body), parsed(msgpack.unpackb, body))


@FEW
@given((ONE | SEVERAL).flatmap(encoded))
def test_a_right_long_body_is_read_in_blocks_where_it_begins_and_ends_with_known_joints(
    sent: tuple[bytes, str],
) -> None:
    body, kind = sent
    in_json = kind == "application/json"
    short = (orjson.loads if in_json else msgpack.unpackb)(body)
    people = short["people"] if "people" in short else [short["keypoints"]]
    edges = [joint for person in people for joint in (person[0][0], person[-1][-1])]
    values = (long_bodies.loads_json if in_json else long_bodies.loads_msgpack)(body)
    if None not in edges and b"\n" not in body and b" ," not in body:
        assert values is not None
    hold_long_to_short(body, values, short)


@FEW
@given(st.integers(0, 30), st.integers(1, 5))
def test_an_array_written_in_blocks_is_the_list_that_it_is(rows: int, columns: int) -> None:
    array = np.arange(rows * columns, dtype=np.float64).reshape(rows, columns) / 8
    assert orjson.loads(long_bodies.dumps_blocks(array, lambda block: block)) == array.tolist()


# ---- Live messages

START = {"type": "start", "skeleton": "coco17", "image_size": [640, 480], "latency": "low"}
STARTS: Strategy = st.fixed_dictionaries(
    {"type": st.just("start"), "skeleton": st.just("coco17"), "image_size": st.just([640, 480])},
    optional={"fps": st.sampled_from([1, 30]), "latency": st.sampled_from(["low", "full"]), "smooth": st.booleans()},
)
JOINTS_SENT = FRAMES.map(lambda frames: frames[0])
CONTENTS = {
    "/v1/live/keypoints": st.builds(lambda one: {"keypoints": one}, JOINTS_SENT)
    | st.builds(lambda several: {"people": several}, st.lists(JOINTS_SENT, max_size=3)),
    "/v1/live/frames": st.builds(lambda image: {"image": image}, st.binary(min_size=1, max_size=20)),
}
DOORS: dict[str, Any] = {"/v1/live/keypoints": live.KeypointStream, "/v1/live/frames": live_frames.FrameStream}


def messages(door: str) -> Strategy:
    """A right stream: a start, some frames, perhaps an end; with wrong places."""
    frames = st.lists(CONTENTS[door], max_size=4).map(
        lambda contents: [{"type": "frame", "seq": seq, **each} for seq, each in enumerate(contents)]
    )
    ends = st.sampled_from([[], [{"type": "end"}]])
    return nearly(st.builds(lambda start, some, end: [start, *some, *end], STARTS, frames, ends))


class Socket:
    """A caller who has said everything and reads everything."""

    def __init__(self, sent: list[dict[str, Any]]) -> None:
        self.scope: dict[str, Any] = {"request_id": "r"}
        self.sent = list(sent)
        self.answers: list[dict[str, Any]] = []
        self.code: int | None = None

    async def receive(self) -> dict[str, Any]:
        await asyncio.sleep(0)
        if self.sent:
            return {"type": "websocket.receive", **self.sent.pop(0)}
        for _ in range(20):  # the answers that are still to come
            await asyncio.sleep(0)
        return {"type": "websocket.disconnect", "code": 1000}

    async def send_text(self, text: str) -> None:
        self.answers.append(json.loads(text))

    async def send_bytes(self, body: bytes) -> None:
        self.answers.append(msgpack.unpackb(body))

    async def close(self, code: int, reason: str) -> None:
        assert len(reason.encode()) <= 123
        self.code = code


SERVICE = FakeService()


def stream(door: str, sent: list[dict[str, Any]], protocol: str | None) -> Socket:
    """What such a caller got."""

    async def run() -> Socket:
        socket = Socket(sent)
        made: Stream = DOORS[door](cast(Any, socket), SERVICE.as_service, Doors(), protocol)
        async with asyncio.timeout(10):
            await made.run(Call("caller", Class.LIVE, asyncio.get_running_loop().time() + 10))
        return socket

    return asyncio.run(run())


def hold_to_the_rules(door: str, got: Socket) -> None:
    """Nothing is our fault: the stream goes on, or ends by a rule that the caller broke; answers are as promised."""
    assert got.code in (None, 1000, 1007, 1008, 1009)
    schema = SCHEMAS[f"live-{door.rpartition('/')[2]}-answered"]
    for answer in got.answers:
        jsonschema.Draft202012Validator(schema).validate(answer)
        if answer["type"] == "error":
            assert 400 <= answer["problem"]["status"] < 500 and answer["problem"]["field"] is not None


def as_binary(message: Any) -> dict[str, Any]:
    try:
        return {"bytes": msgpack.packb(message)}
    except (TypeError, ValueError, OverflowError):
        return {"bytes": repr(message).encode()}


def as_text(message: Any) -> dict[str, Any]:
    return {"text": json.dumps(message, default=str)}


@FEW
@given(messages("/v1/live/keypoints"), st.sampled_from([(as_text, JSON), (as_text, None), (as_binary, MSGPACK)]))
def test_a_stream_of_keypoints_goes_on_or_ends_by_a_rule(sent: list[Any], how: tuple[Any, str | None]) -> None:
    write, protocol = how
    hold_to_the_rules("/v1/live/keypoints", stream("/v1/live/keypoints", [write(each) for each in sent], protocol))


@FEW
@given(messages("/v1/live/frames"))
def test_a_stream_of_pictures_goes_on_or_ends_by_a_rule(sent: list[Any]) -> None:
    hold_to_the_rules("/v1/live/frames", stream("/v1/live/frames", [as_binary(each) for each in sent], MSGPACK))


@FEW
@given(st.lists(st.binary(max_size=30) | torn(st.just(msgpack.packb(START))), min_size=1, max_size=3))
def test_any_bytes_on_a_stream_end_it_by_a_rule_or_are_told_off(sent: list[bytes]) -> None:
    for door in DOORS:
        hold_to_the_rules(door, stream(door, [{"bytes": body} for body in sent], MSGPACK))
        text = [{"text": body.decode("utf-8", "replace")} for body in sent]
        hold_to_the_rules(door, stream(door, text, JSON))


@FEW
@given(st.lists(JOINTS_SENT, min_size=1, max_size=2))
def test_a_right_stream_is_answered_to_its_end_in_either_tongue(frames: list[Any]) -> None:
    sent = [START, *({"type": "frame", "seq": n, "keypoints": each} for n, each in enumerate(frames)), {"type": "end"}]
    for write, protocol in ((as_text, JSON), (as_binary, MSGPACK)):
        got = stream("/v1/live/keypoints", [write(each) for each in sent], protocol)
        kinds = [answer["type"] for answer in got.answers]
        assert kinds == ["started", *["pose"] * len(frames), "ended"] and got.code == 1000
