"""The schemas of lines and messages: held against real streams, and against what was promised before."""

from __future__ import annotations

import asyncio
import copy
import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import av
import cv2
import httpx
import jsonschema
import msgpack
import numpy as np
import pytest
import skimage.data
from PIL import Image

from service.api.app import create_app
from service.api.messages import SCHEMAS
from tests.conftest import Started

from .promises import FOLDER, broken, current

VALIDATORS = {name: jsonschema.Draft202012Validator(schema) for name, schema in SCHEMAS.items()}


def hold(name: str, messages: list[dict[str, Any]]) -> None:
    for message in messages:
        errors = [f"{'/'.join(map(str, e.absolute_path))}: {e.message}" for e in _leaves(name, message)]
        assert errors == [], f"{message.get('type')}: {errors[:3]}"


def _leaves(name: str, message: dict[str, Any]) -> Iterator[Any]:
    """Errors against the definition of the message's own type: those of `oneOf` say nothing."""
    kind = message["type"]
    assert any(each["$ref"].endswith(f"/{kind}") for each in SCHEMAS[name]["oneOf"]), f"unknown type {kind}"
    yield from (
        VALIDATORS[name].evolve(schema=SCHEMAS[name] | {"oneOf": [{"$ref": f"#/$defs/{kind}"}]}).iter_errors(message)
    )
    assert VALIDATORS[name].is_valid(message)


@pytest.mark.parametrize("name", SCHEMAS)
def test_each_schema_is_one_and_refers_to_what_is_there(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])
    text = json.dumps(SCHEMAS[name])
    for reference in {part.split('"')[0] for part in text.split('"#/$defs/')[1:]}:
        assert reference in SCHEMAS[name]["$defs"]


@pytest.mark.anyio
async def test_they_are_served_by_name(client: httpx.AsyncClient) -> None:
    everything = (await client.get("/v1/schemas")).json()["schemas"]
    assert set(everything) == set(SCHEMAS)
    for name in SCHEMAS:
        answer = await client.get(f"/v1/schemas/{name}")
        assert answer.headers["content-type"] == "application/schema+json" and answer.json() == everything[name]
    assert (await client.get("/v1/schemas/none")).status_code == 404


# ---- Promises


@pytest.mark.parametrize("name", current())
def test_nothing_that_was_promised_is_taken_away(name: str) -> None:
    promised = json.loads((FOLDER / name).read_text())
    today = json.loads(json.dumps(current()[name]))
    assert broken(promised, today, sent=name.endswith("-sent.json")) == []
    assert today == promised, "an addition is fine: `python -m tests.api.promises` takes it into docs/schemas"


def test_every_promise_is_still_made() -> None:
    assert {path.name for path in FOLDER.glob("*.json")} == set(current())


def test_what_is_taken_away_or_asked_for_anew_is_a_break_and_an_addition_is_none() -> None:
    old = SCHEMAS["clip-line"]
    new = copy.deepcopy(old)
    new["$defs"]["frame"]["properties"]["more"] = {"type": "string"}
    new["$defs"]["person"]["properties"]["track"]["enum"].append("asleep")
    new["oneOf"].append({"$ref": "#/$defs/world"})
    new["$defs"]["frame"]["required"].append("more")
    assert broken(old, new) == []
    assert broken(old, new, sent=True) == ["/$defs/frame: `more` is now required"]
    for change in (
        lambda of: of["person"]["properties"].pop("feet"),
        lambda of: of["frame"]["required"].remove("index"),
        lambda of: of["person"]["properties"]["track"]["enum"].remove("lost"),
        lambda of: of["box"].update(type="object"),
        lambda of: of.pop("error"),
    ):
        worse = copy.deepcopy(old)
        apply: Callable[[dict[str, Any]], object] = change
        apply(worse["$defs"])
        assert len(broken(old, worse)) == 1
    assert len(broken(old, old | {"oneOf": old["oneOf"][1:]})) == 1


# ---- Real streams, with the embedded models


def astronaut(shift: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    whole = np.asarray(skimage.data.astronaut(), np.uint8)  # type: ignore[no-untyped-call]
    return np.ascontiguousarray(np.roll(cv2.resize(whole, (256, 256)), shift, axis=1))


@pytest.fixture(scope="module")
def clip() -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="avi") as container:  # unlike an MP4, it can be read up to where it is cut
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 256
        stream.pix_fmt = "yuv420p"
        for n in range(14):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(astronaut(2 * n), format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


async def lines(app: Any, body: bytes, query: str) -> list[dict[str, Any]]:
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
        answer = await client.post(f"/v1/clips{query}", content=body)
    return [json.loads(line) for line in answer.text.splitlines()]


def test_the_lines_of_real_clips_are_as_their_schema_says(started: Started, clip: bytes) -> None:
    app = create_app(started.service)
    whole = started.run(lines(app, clip, "?raw=true&states=true&inferred=true"))
    plain = started.run(lines(app, clip, "?lift=false&smooth=false&end=0.5"))
    cut = started.run(lines(app, clip[: len(clip) * 3 // 4], ""))
    kinds = [line["type"] for line in whole if line["type"] != "progress"]  # that is told on a busy machine
    assert kinds == ["start", *["frame"] * 14, "end"]
    assert set(whole[-1]["timings_ms"]) == {"decode", "person", "pose", "lift", "queue"}
    assert any(line["people"] for line in whole if line["type"] == "frame")
    assert [cut[0]["type"], cut[-1]["type"]] == ["start", "error"] and cut[-1]["last_frame"] is not None
    for told in (whole, plain, cut):
        hold("clip-line", told)


async def talk(app: Any, path: str, said: list[dict[str, Any]], answers: int) -> list[dict[str, Any]]:
    """What a live door answers, in msgpack; the next message is said once the last one was answered."""
    came: asyncio.Queue[Any] = asyncio.Queue()
    waiting = [{"type": "websocket.connect"}]
    waiting += [{"type": "websocket.receive", "bytes": msgpack.packb(message)} for message in said]
    heard: list[dict[str, Any]] = []
    turn = asyncio.Semaphore(2)

    async def receive() -> dict[str, Any]:
        await turn.acquire()
        if waiting:
            return waiting.pop(0)
        await asyncio.Event().wait()
        raise AssertionError("never")

    async def send(message: Any) -> None:
        if message["type"] == "websocket.send":
            heard.append(msgpack.unpackb(message["bytes"]))
            turn.release()
        await came.put(message)

    scope = {
        "type": "websocket",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
        "subprotocols": ["poselift.v1.msgpack"],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "scheme": "ws",
        "root_path": "",
    }
    async with asyncio.timeout(60):
        await app(scope, receive, send)
    assert len(heard) == answers, heard
    return heard


def test_the_messages_of_real_keypoint_streams_are_as_their_schemas_say(started: Started) -> None:
    points = np.random.default_rng(1).uniform(100, 300, (3, 17, 2)).round(1).tolist()
    said: list[dict[str, Any]] = [{"type": "start", "skeleton": "coco17", "image_size": [640, 480], "stature": 1.8}]
    said += [{"type": "frame", "seq": n, "time": n / 30, "keypoints": points[n]} for n in range(2)]
    said += [{"type": "frame", "seq": 2, "people": [points[0], [None, *points[1][1:]]]}]
    wrong = {"type": "frame", "seq": 1, "keypoints": points[0]}
    heard = started.run(talk(create_app(started.service), "/v1/live/keypoints", [*said, wrong, {"type": "end"}], 6))
    assert [message["type"] for message in heard] == ["started", *["pose"] * 3, "error", "ended"]
    hold("live-keypoints-answered", heard)
    hold("live-keypoints-sent", [*said, {"type": "end"}])
    assert not VALIDATORS["live-keypoints-sent"].is_valid({"type": "frame", "seq": 1})
    assert not VALIDATORS["live-keypoints-sent"].is_valid({"type": "start", "skeleton": "coco17"})


def test_the_messages_of_real_picture_streams_are_as_their_schemas_say(started: Started) -> None:
    pictures = []
    for n in range(3):
        file = io.BytesIO()
        Image.fromarray(astronaut(2 * n)).save(file, "JPEG")
        pictures.append(file.getvalue())
    start = {"type": "start", "fps": 10.0, "states": True, "camera": {"focal_px": 300.0}}
    said = [start, *({"type": "frame", "seq": n, "image": picture} for n, picture in enumerate(pictures))]
    broken_one = {"type": "frame", "seq": 3, "image": pictures[0][:300]}
    app = create_app(started.service)
    heard = started.run(talk(app, "/v1/live/frames", [*said, broken_one, {"type": "end"}], 6))
    assert [message["type"] for message in heard] == ["started", *["pose"] * 3, "error", "ended"]
    assert heard[1]["people"] and heard[3]["people"][0]["id"] == heard[1]["people"][0]["id"]
    hold("live-frames-answered", heard)
    texts = [message | ({"image": "AA=="} if "image" in message else {}) for message in said]
    hold("live-frames-sent", [*texts, {"type": "end"}])
