"""WS /v1/live/frames: JPEG pictures in, tracked people in 2D and 3D out. Speaks msgpack only: JSON holds no bytes.

Pixels of the upright frames, metres in the camera's axes.
"""

from __future__ import annotations

from typing import Any, ClassVar

from starlette.websockets import WebSocket

from service.errors import OutOfRange
from service.pipelines.call import check_models
from service.pipelines.live_frames import LiveFrame, LiveFrames, LiveFramesOptions

from .images import person_fields, picture_limits
from .live_stream import MSGPACK, Stream, serve_stream
from .schemas import LiveFrameFields, camera_options, checked, model_names

MAX_FRAME_MESSAGE_BYTES = 4 * 1024 * 1024  # a JPEG of 4K at a camera's quality


async def live_frames(socket: WebSocket) -> None:
    """Serves one stream from its acceptance to its close code."""
    await serve_stream(socket, FrameStream, (MSGPACK,))


class FrameStream(Stream):
    """People are told apart by the ids of their tracks."""

    max_message_bytes: ClassVar[int] = MAX_FRAME_MESSAGE_BYTES
    holds: ClassVar[tuple[str, ...]] = ("image",)
    together: ClassVar[bool] = False  # one picture tells where to look in the next; a broken one is no other's fault
    _frames: LiveFrames

    def begin(self, values: dict[str, Any]) -> dict[str, str]:
        fields = checked(LiveFrameFields, values)
        settings = self.service.settings
        self.fps = fields.fps
        size = fields.image_size
        options = LiveFramesOptions(
            image_size=None if size is None else (size[0], size[1]),
            fps=fields.fps,
            latency=fields.latency,
            smooth=fields.smooth,
            states=fields.states,
            lift=fields.lift,
            stature=fields.stature,
            max_people=min(fields.max_people, settings.max_people),
            min_person_score=fields.min_person_score,
            camera=camera_options(fields.camera),
            mirrored=fields.mirrored,
        )
        self._frames = self.service.live_frames(options, picture_limits(settings.max_image_mpx))
        check_models(model_names(fields.models), self._frames.models)
        self.live = self._frames
        return self._frames.models

    def begin_anew(self) -> None:
        self._frames.forget()

    def content_of(self, values: dict[str, Any]) -> bytes:
        image = values.get("image")
        if not isinstance(image, bytes) or not image:
            message = f"`image` must be the bytes of a JPEG; got {type(image).__name__}"
            raise OutOfRange(message, field="image", limit="the bytes of a JPEG")
        return image

    def people_of(self, answer: LiveFrame) -> list[dict[str, Any]]:
        people = []
        for one in answer.people:
            fields = person_fields(one.person) | {"track": one.track}
            people.append(fields if one.states is None else fields | {"states": one.states})
        return people
