"""A file of each published form is imported into a store and answers over HTTP."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from service.api.app import create_app
from service.assembly import build
from service.importing.entry import import_file
from service.networks import create
from service.settings import Settings
from service.store.store import Store, embedded_store

from .test_checkpoints import mmpose, mmpose_videopose, prefixed

State = dict[str, Tensor]
BOX = [20.0, 10.0, 60.0, 100.0]


def photo() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (120, 100, 3), np.uint8)
    made = io.BytesIO()
    Image.fromarray(pixels).save(made, "PNG")
    return made.getvalue()


def hrnet() -> State:
    """Untrained, but with heatmaps that have peaks."""
    network: Any = create("hrnet-w32")
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    nn.init.constant_(network.final_layer.weight, 0.0)
    nn.init.constant_(network.final_layer.bias, 0.5)
    state: State = network.state_dict()
    return state


def poseformer() -> State:
    return create("lifter", frames=9, width=8, depth=2, head="weighted_mean").state_dict()


def videopose() -> State:
    return create("videopose3d", frames=9, channels=16).state_dict()


# By a name: the file's name, its content, and the preset to ask for.
FILES: dict[str, tuple[str, Callable[[], Any], str | None]] = {
    "poseformer": ("best.bin", lambda: {"model_pos": prefixed(poseformer(), "module.")}, None),
    "videopose3d": ("official.bin", lambda: {"model_pos": videopose()}, None),
    "videopose3d-mmpose": ("mmpose.pth", lambda: {"state_dict": mmpose_videopose(videopose(), "head")}, None),
    "hrnet": ("pose_hrnet_w32_256x192.pth", hrnet, None),
    "hrnet-training": ("checkpoint.pth", lambda: {"state_dict": prefixed(hrnet(), "module.")}, None),
    "alphapose": ("fast.pth", hrnet, "alphapose"),
    "hrnet-mmpose": ("td-hm_hrnet-w32_256x192.pth", lambda: {"state_dict": mmpose(hrnet(), "head")}, None),
    "hrnet-udp": ("td-hm_hrnet-w32_udp_256x192.pth", lambda: {"state_dict": mmpose(hrnet(), "head")}, None),
    "ssdlite": ("ssdlite320_mobilenet_v3_large_coco.pth", lambda: create("ssdlite320-mobilenet").state_dict(), None),
}


def asked(settings: Settings) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The answers to a photo with a box, to one without, and to a sequence."""

    async def ask() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        service = build(settings)
        await service.start()
        try:
            transport = httpx.ASGITransport(app=create_app(service))
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=120) as client:
                kind = {"Content-Type": "image/png", "Request-Timeout-Ms": "100000"}
                boxes = json.dumps([BOX])
                one = await client.post("/v1/images", content=photo(), headers=kind, params={"boxes": boxes})
                found = await client.post("/v1/images", content=photo(), headers=kind)
                points = np.random.default_rng(1).uniform(10, 90, (12, 17, 3))
                points[..., 2] = 0.9
                sequence = {"skeleton": "h36m17", "image_size": [100, 120], "keypoints": points.tolist()}
                lifted = await client.post("/v1/lift", json=sequence, headers={"Request-Timeout-Ms": "100000"})
                for answer in (one, found, lifted):
                    assert answer.status_code == 200, answer.text
                return one.json(), found.json(), lifted.json()
        finally:
            await service.close()

    return asyncio.run(ask())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("person", "pose", "lift"),
    [
        (None, None, "poseformer"),
        pytest.param("ssdlite", "hrnet", "videopose3d", marks=pytest.mark.slow),
        pytest.param(None, "alphapose", "videopose3d-mmpose", marks=pytest.mark.slow),
        pytest.param(None, "hrnet-mmpose", None, marks=pytest.mark.slow),
        pytest.param(None, "hrnet-udp", None, marks=pytest.mark.slow),
        pytest.param(None, "hrnet-training", None, marks=pytest.mark.slow),
    ],
)
def test_an_imported_file_answers_over_http(
    tmp_path: Path, person: str | None, pose: str | None, lift: str | None
) -> None:
    torch.manual_seed(0)
    store = Store(tmp_path / "store")
    shutil.copytree(embedded_store(), store.folder)
    named: dict[str, Any] = {"person": person, "pose": pose, "lift": lift}
    for role, name in named.items():
        if name is not None:
            file, content, preset = FILES[name]
            torch.save(content(), tmp_path / file)
            assert import_file(tmp_path / file, name, store, preset=preset).manifest.role == role
    settings = Settings(store=store.folder, device="cpu", threads=1, **named)
    one, found, lifted = asked(settings)
    for role, name in named.items():
        if name is not None:
            assert one["models"][role] == f"{name}@1"
    assert len(one["people"]) == 1 and len(one["people"][0]["keypoints"]) == 17
    assert np.isfinite(np.array(one["people"][0]["keypoints"], float)).all()
    assert isinstance(found["people"], list)
    joints = np.array(lifted["joints3d"], float)
    assert joints.shape == (12, 17, 3) and np.isfinite(joints).all()
