"""WS /v1/live/keypoints: keypoints in, poses out. Pixels of the stream's picture, metres in the camera's axes."""

from __future__ import annotations

from typing import Any, ClassVar

from starlette.websockets import WebSocket

from service.errors import OutOfRange, TooLarge
from service.geometry.skeletons import skeleton_named
from service.people import Array
from service.pipelines.call import check_models
from service.pipelines.live import LiveOptions, LivePose

from .images import lifted_fields
from .live_stream import JSON, MSGPACK, RULES_BROKEN, Stream, serve_stream
from .points import read_frame
from .schemas import LiveFields, camera_options, checked, model_names

__all__ = ["MAX_MESSAGE_BYTES", "RULES_BROKEN", "live_keypoints"]

MAX_MESSAGE_BYTES = 1024 * 1024  # parsed on the loop, which it may hold for some milliseconds


async def live_keypoints(socket: WebSocket) -> None:
    """Serves one stream from its acceptance to its close code."""
    await serve_stream(socket, KeypointStream, (JSON, MSGPACK))


class KeypointStream(Stream):
    """People are told apart by their place in each frame's list."""

    max_message_bytes: ClassVar[int] = MAX_MESSAGE_BYTES
    holds: ClassVar[tuple[str, ...]] = ("keypoints", "people")
    _joints = 0
    _options: LiveOptions

    def begin(self, values: dict[str, Any]) -> dict[str, str]:
        fields = checked(LiveFields, values)
        self._joints = len(skeleton_named(fields.skeleton).joints)
        self.fps = fields.fps
        self._options = LiveOptions(
            skeleton=fields.skeleton,
            image_size=(fields.image_size[0], fields.image_size[1]),
            fps=fields.fps,
            latency=fields.latency,
            smooth=fields.smooth,
            stature=fields.stature,
            camera=camera_options(fields.camera),
            mirrored=fields.mirrored,
        )
        live = self.service.live(self._options, self.newer)
        check_models(model_names(fields.models), self.service.photo.models | live.lift.models)
        self.live = live
        return live.lift.models

    def begin_anew(self) -> None:
        self.live = self.service.live(self._options, self.newer)

    def content_of(self, values: dict[str, Any]) -> list[Array]:
        one, several = values.get("keypoints"), values.get("people")
        if (one is None) == (several is None):
            message = "a frame needs either `keypoints` or `people`, not both and not neither"
            raise OutOfRange(message, field="keypoints")
        limit = self.service.settings.max_people
        if several is not None and (not isinstance(several, list) or len(several) > limit):
            raise TooLarge(f"`people` must be a list of at most {limit} people", field="people", limit=limit)
        named = [("keypoints", one)] if several is None else [(f"people[{n}]", each) for n, each in enumerate(several)]
        return [read_frame(each, self._joints, name) for name, each in named]

    def people_of(self, answer: LivePose) -> list[dict[str, Any]]:
        return [lifted_fields(person) for person in answer.people]
