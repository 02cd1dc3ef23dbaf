"""tritonclient as it comes, against a live server: what it sends is understood, and what it gets it can read."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator
from itertools import product
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as sync_client
import tritonclient.http.aio as aio_client
from tritonclient.utils import InferenceServerException

from tests.api.conftest import Served, _served, wait_until
from tests.pipelines.fake import FRAMES

from .fake import HEIGHT, WIDTH, TinyService, bright_places, crops

pytestmark = pytest.mark.anyio

COUNT = 8  # its keypoints are over the size from which answers are packed
CODINGS = (None, "gzip", "deflate")
CASES = ("ok", "unknown model", "bad shape", "full queue")


@pytest.fixture(scope="module")
def idle() -> Iterator[Served]:
    with _served(TinyService()) as served:
        yield served


@pytest.fixture(scope="module")
def full() -> Iterator[Served]:
    """A server whose device is busy and whose queue has no room."""
    service = TinyService(queue_rows=1)
    with _served(service) as served:
        service.network.gate.clear()
        body, headers = crops(1).tobytes(), {"Inference-Header-Content-Length": "0"}
        statuses: list[int] = []

        def ask() -> None:
            answer = httpx.post(f"{served.url}/v2/models/pose/infer", content=body, headers=headers, timeout=60)
            statuses.append(answer.status_code)

        waiting = [threading.Thread(target=ask) for _ in range(2)]
        waiting[0].start()
        wait_until(lambda: service.network.begun == 1)
        waiting[1].start()
        wait_until(lambda: service.photo.pose.line.rows == 1)
        yield served
        service.network.gate.set()
        for thread in waiting:
            thread.join(10)
        assert statuses == [200, 200]


async def _sync(port: int, call: Callable[[Any], Any]) -> Any:
    with sync_client.InferenceServerClient(f"127.0.0.1:{port}") as client:
        return call(client)


async def _aio(port: int, call: Callable[[Any], Awaitable[Any]]) -> Any:
    async with aio_client.InferenceServerClient(f"127.0.0.1:{port}") as client:
        return await call(client)


CLIENTS: dict[str, Callable[[int, Callable[[Any], Any]], Awaitable[Any]]] = {"sync": _sync, "aio": _aio}


def tensor(name: str, array: Any, datatype: str, binary: bool = True) -> Any:
    made = sync_client.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("binary", "listed", "coding"), list(product((True, False), (True, False), CODINGS)))
async def test_every_form_of_a_request_gets_its_answer(
    idle: Served, full: Served, client: str, case: str, binary: bool, listed: bool, coding: str | None
) -> None:
    given = crops(COUNT)[:, :-1] if case == "bad shape" else crops(COUNT)
    names = ("keypoints", "heatmaps") if listed else ()
    options: dict[str, Any] = {
        "outputs": [sync_client.InferRequestedOutput(name, binary_data=binary) for name in names] or None,
        "request_id": "mine",
        "request_compression_algorithm": coding,
        "response_compression_algorithm": coding,
    }
    model = "nobody" if case == "unknown model" else "pose"
    port = (full if case == "full queue" else idle).port

    def infer(made: Any) -> Any:
        return made.infer(model, [tensor("crops", given, "UINT8", binary)], **options)

    if case != "ok":
        with pytest.raises(InferenceServerException) as refused:
            await CLIENTS[client](port, infer)
        said = {
            "unknown model": ("404", "no model 'nobody'"),
            "bad shape": ("400", f"must be UINT8 [n, {HEIGHT}, {WIDTH}, 3]"),
            "full queue": ("503", "the queue holds 1 of 1 rows"),
        }
        status, text = said[case]
        assert refused.value.status() == status and text in refused.value.message()
        return
    result = await CLIENTS[client](port, infer)
    assert np.allclose(result.as_numpy("keypoints"), bright_places(COUNT), atol=1e-5)
    assert result.get_response()["id"] == "mine" and result.get_response()["model_version"] == "3"
    if listed:
        heatmaps = result.as_numpy("heatmaps")
        assert heatmaps.shape == (COUNT, 17, HEIGHT // 4, WIDTH // 4) and heatmaps.max() < 1
    else:
        assert [each["name"] for each in result.get_response()["outputs"]] == ["keypoints"]


@pytest.mark.parametrize("client", CLIENTS)
async def test_what_is_said_of_server_and_models_can_be_read(idle: Served, client: str) -> None:
    async def ask(method: str, *arguments: Any) -> Any:
        return await CLIENTS[client](idle.port, lambda made: getattr(made, method)(*arguments))

    assert await ask("is_server_live") and await ask("is_server_ready") and await ask("is_model_ready", "pose", "3")
    assert not await ask("is_model_ready", "pose", "2") and not await ask("is_model_ready", "nobody")
    assert (await ask("get_server_metadata"))["name"] == "poselift"
    assert (await ask("get_model_metadata", "pose"))["versions"] == ["3"]
    assert (await ask("get_model_config", "bright"))["input"][0]["dims"] == [HEIGHT, WIDTH, 3]
    assert {row["name"] for row in await ask("get_model_repository_index")} >= {"pose", "lift", "photo", "spare"}
    names = [row["name"] for row in (await ask("get_inference_statistics"))["model_stats"]]
    assert names == ["fake-person", "bright", "fake-lift", "photo"]
    for method, arguments in (
        ("load_model", ("pose",)),
        ("get_log_settings", ()),
        ("get_system_shared_memory_status", ()),
        ("get_model_metadata", ("nobody",)),
    ):
        with pytest.raises(InferenceServerException) as refused:
            await ask(method, *arguments)
        assert refused.value.status() in ("404", "501") and "exception occurred" not in refused.value.message()


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_version_is_loaded_and_unloaded_by_the_client(client: str) -> None:
    with _served(TinyService()) as here:

        async def ask(method: str, *arguments: Any, **named: Any) -> Any:
            return await CLIENTS[client](here.port, lambda made: getattr(made, method)(*arguments, **named))

        await ask("load_model", "bright")
        assert (await ask("get_model_metadata", "pose"))["versions"] == ["4"]
        await ask("load_model", "bright", config='{"version_policy": {"specific": {"versions": [2]}}}')
        assert await ask("is_model_ready", "bright", "2")
        with pytest.raises(InferenceServerException, match="serves on"):
            await ask("load_model", "bright@5")
        await ask("unload_model", "bright")
        assert await ask("is_model_ready", "bright", "3") and not await ask("is_model_ready", "bright", "2")


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("binary", [True, False])
async def test_nobody_in_gives_nobody_out(idle: Served, client: str, binary: bool) -> None:
    given = tensor("crops", crops(0), "UINT8", binary)
    wanted = [sync_client.InferRequestedOutput("keypoints", binary_data=binary)]
    result = await CLIENTS[client](idle.port, lambda made: made.infer("pose", [given], outputs=wanted))
    assert result.as_numpy("keypoints").shape == (0, 17, 3)


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_photo_goes_in_and_its_people_come_out(idle: Served, client: str, photo: bytes) -> None:
    given = tensor("image", np.array([photo], np.object_), "BYTES")
    result = await CLIENTS[client](
        idle.port,
        lambda made: made.infer("photo", [given], parameters={"max_people": 3, "states": True}, timeout=9_000_000),
    )
    (answer,) = result.as_numpy("answer")
    assert b'"image":{"width":64,"height":48}' in answer and b'"skeletons"' in answer


@pytest.mark.parametrize("client", CLIENTS)
async def test_sequences_go_in_and_metres_come_out(idle: Served, client: str) -> None:
    points = np.full((2, FRAMES, 17, 3), 0.5, np.float32)
    sizes = np.array([[640, 480], [64, 48]], np.int32)
    given = [tensor("keypoints", points, "FP32"), tensor("image_size", sizes, "INT32", binary=False)]
    result = await CLIENTS[client](idle.port, lambda made: made.infer("lift", given, priority=1))
    joints = result.as_numpy("joints3d")
    assert joints.shape == (2, FRAMES, 17, 3) and joints.dtype == np.float32 and not joints[:, :, 0].any()
