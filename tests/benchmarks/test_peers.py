"""The comparison with peers, as far as it goes without their packages: ratios, bodies, and our side's empty network."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx
import numpy as np
import pytest

from benchmarks.bodies import JSON, window_body
from benchmarks.mediapipe_pose import single_people
from benchmarks.peers.comparison import compared
from benchmarks.peers.environments import PEERS
from benchmarks.peers.servers import ours
from benchmarks.peers.servers.peer_network import STANDING, Network, channels, window
from benchmarks.wrk import Closed
from service import assembly, loading
from service.api.app import create_app
from service.engines.framing import window_channels
from service.settings import Settings


def seen(rate: float, p99_ms: float, errors: int = 0) -> Closed:
    return Closed(64, round(rate), rate, p99_ms / 2, p99_ms, p99_ms, errors)


def test_a_ratio_is_taken_within_each_round_and_the_median_is_told() -> None:
    # The machine halves in the second round: rates do, ratios do not.
    rounds = [
        {"ours": seen(rate, 10), "theirs": seen(rate / over, 40)} for rate, over in ((900, 3), (450, 3), (900, 5))
    ]
    own, other = compared(rounds)
    assert (own["ours_over"], own["p99_over"], own["answers_a_second"]) == (1, 1, 900)
    assert (other["ours_over"], other["lowest"], other["highest"], other["p99_over"]) == (3, 3, 5, 0.25)


def test_answers_that_went_wrong_are_added_up_and_told() -> None:
    line = compared([{"ours": seen(10, 1, errors=2)}, {"ours": seen(20, 1, errors=5)}])[0]
    assert (line["answers"], line["errors"]) == (30, 7)


def test_rounds_without_ours_are_not_compared() -> None:
    with pytest.raises(ValueError, match="ours"):
        compared([{"theirs": seen(1, 1)}])


def test_peers_are_fed_what_the_service_feeds_its_lifter() -> None:
    points = window(window_body(3))
    full = np.concatenate([points, np.ones((27, 17, 1), np.float32)], axis=-1)[None]
    wanted = window_channels(full, np.array([[1000, 1000]], np.float32), np.array([True]))
    np.testing.assert_allclose(channels(points[None], 1000), wanted, atol=1e-5)


def test_an_empty_network_of_a_peer_answers_every_frame_or_the_middle_one(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = np.zeros((5, 27, 17, 2), np.float32)
    assert Network()(windows).shape == (5, 27, 17, 3)
    monkeypatch.setenv("PEER_FRAMES", "centre")
    middle = Network()(windows)
    assert middle.shape == (5, 1, 17, 3)
    np.testing.assert_allclose(middle[4, 0], STANDING, atol=1e-4)


def test_every_peer_has_a_file_that_starts_it() -> None:
    there = {file.stem.removeprefix("on_") for file in Path(ours.__file__).parent.glob("on_*.py")}
    assert set(PEERS) == there - {"mediapipe"}


def test_our_side_without_a_network_answers_through_its_door_and_counts_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "load_engine", ours.without_network)

    async def asked() -> tuple[list[httpx.Response], str]:
        service = assembly.build(Settings(keys=("a-key",), person_side=128, device="cpu"))
        await service.start()
        transport = httpx.ASGITransport(app=create_app(service))
        headers = {"Authorization": "Bearer a-key", "Content-Type": JSON}
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                body = json.dumps(window_body())
                answers = [client.post("/v1/lift", content=body, headers=headers) for _ in range(12)]
                strangers = client.post("/v1/lift", content=body, headers={"Content-Type": JSON})
                done = await asyncio.gather(*answers, strangers)
                return list(done), (await client.get("/metrics")).text
        finally:
            await service.close()

    answers, metrics = asyncio.run(asked())
    assert [answer.status_code for answer in answers] == [200] * 12 + [401]
    assert 'poselift_rows_total{network="lift_long"} 12.0' in metrics.splitlines()
    assert len({answer.headers["x-request-id"] for answer in answers}) == 13
    joints = np.array(answers[0].json()["joints3d"])
    assert joints.shape == (27, 17, 3) and (joints == joints[:1]).all() and np.ptp(joints[0, :, 1]) > 1.4


def test_mediapipe_is_asked_only_for_photos_with_one_person_whose_joints_are_labelled() -> None:
    def label(image: int, joints: int = 1, crowd: int = 0) -> dict[str, object]:
        return {"image_id": image, "keypoints": [1, 1, 2] * joints + [0, 0, 0] * (17 - joints), "iscrowd": crowd}

    images = [{"id": number} for number in range(5)] + [{"id": 5, "boxes_complete": False}]
    labels = [label(0), label(1), label(1), label(2, joints=0), label(3, crowd=1), label(5)]
    assert [image["id"] for image in single_people({"images": images, "annotations": labels})] == [0]
