"""The demo page: what is built is what its source says, nothing comes from elsewhere, and it works in a browser."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import cv2
import httpx
import numpy as np
import pytest

from tests.api.conftest import _served, client_of
from tests.api.fake import FakeService

if TYPE_CHECKING:
    from playwright.sync_api import Page

WEB = Path(__file__).parents[2] / "service" / "web"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in BROWSERS if (path := shutil.which(name))), None)
SOFTWARE_GL = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


@pytest.mark.parametrize("folder", ["source", "built"])
def test_every_file_of_the_page_is_the_one_that_was_built(folder: str) -> None:
    hashes = json.loads((WEB / "built" / "hashes.json").read_text())[folder]
    here = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (WEB / folder).iterdir()}
    here.pop("hashes.json", None)
    assert here == hashes, "run `npm install --no-package-lock && npm run build` in service/web"


def test_the_page_names_the_licences_of_what_is_inside() -> None:
    versions = json.loads((WEB / "package.json").read_text())["devDependencies"]
    licences = (WEB / "built" / "LICENCES.txt").read_text()
    for name in ("three", "@msgpack/msgpack"):
        assert f"{name} {versions[name]}, " in licences
    assert "Permission is hereby granted" in licences


def test_the_page_loads_nothing_from_elsewhere() -> None:
    for name in ("index.html", "page.css"):
        assert not re.search(r"(?:https?:)?//\w", (WEB / "built" / name).read_text().replace("<!doctype", ""))


@pytest.mark.anyio
async def test_the_page_and_its_files_are_served_under_a_strict_policy() -> None:
    async with client_of(FakeService()) as client:
        page = await client.get("/")
        assert page.status_code == 200 and "default-src 'none'" in page.headers["Content-Security-Policy"]
        for path in re.findall(r'(?:src|href)="(page/[^"]+)"', page.text):
            assert (await client.get(f"/{path}")).status_code == 200
        assert (await client.get("/page/nothing.js")).status_code == 404


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with _served(FakeService()) as served:
        httpx.get(f"{served.url}/livez").raise_for_status()
        yield served.url


@pytest.fixture
def page(address: str) -> Iterator[Page]:
    """The page in a browser without a window; what it complains of fails the test."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser's tests need the package playwright")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed here")
    complaints: list[str] = []
    with playwright.sync_playwright() as made:
        browser = made.chromium.launch(executable_path=CHROMIUM, args=SOFTWARE_GL)
        opened = browser.new_page(viewport={"width": 1300, "height": 850})
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        opened.goto(address)
        opened.wait_for_selector("#service:has-text('version')")
        yield opened
        browser.close()
    # A refusal is told in words on the page; the browser logs it as well.
    assert [said for said in complaints if "Failed to load resource" not in said] == []


def _picture(folder: Path, name: str = "street.png") -> Path:
    path = folder / name
    cv2.imwrite(str(path), np.full((240, 320, 3), 140, np.uint8))
    return path


def _clip(folder: Path) -> Path:
    """20 frames, ten a second, the n-th as grey as 10 n."""
    path = folder / "greys.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for n in range(20):
            grey = np.full((240, 320, 3), 10 * n + 20, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def _message(page: Page) -> str:
    page.wait_for_selector("#exports:not([hidden])", timeout=30000)
    return page.inner_text("#message")


def _painted(page: Page, canvas: str) -> int:
    """How many pixels of a canvas are not empty."""
    script = (
        "c => { const copy = new OffscreenCanvas(c.width, c.height), pen = copy.getContext('2d');"
        " pen.drawImage(c, 0, 0);"
        " const d = pen.getImageData(0, 0, c.width, c.height).data; let n = 0;"
        " for (let i = 0; i < d.length; i += 4) if (d[i] + d[i + 1] + d[i + 2] > 60) n++; return n; }"
    )
    count: Any = page.eval_on_selector(canvas, script)
    return int(count)


def test_a_photo_is_drawn_in_the_picture_and_in_space(page: Page, tmp_path: Path) -> None:
    assert _painted(page, "#overlay") == 0
    page.set_input_files("#file", _picture(tmp_path))
    assert "person" in _message(page) or "people" in _message(page)
    page.wait_for_timeout(300)
    assert _painted(page, "#overlay") > 100
    assert _painted(page, "#space canvas") > 500
    assert "person 0" in page.inner_text("#people")
    assert "m tall" in page.inner_text("#scale")
    assert "ms" in page.inner_text("#stages")
    assert page.inner_text("#curl").startswith("curl") and "v1/images" in page.inner_text("#curl")
    assert not page.is_visible("#time")


def test_a_photo_can_be_saved_as_json(page: Page, tmp_path: Path) -> None:
    page.set_input_files("#file", _picture(tmp_path))
    _message(page)
    with page.expect_download() as saved:
        page.click("#exports >> text=json")
    document = json.loads(Path(saved.value.path()).read_text())
    assert saved.value.suggested_filename == "street.json"
    assert document["kind"] == "photo" and len(document["frames"][0]["people"]) > 0


def test_a_clips_skeletons_are_those_of_the_frame_that_the_video_shows(page: Page, tmp_path: Path) -> None:
    page.set_input_files("#file", _clip(tmp_path))
    assert "20 frames" in _message(page)
    watch = (
        "async n => { const [v, m, clock] = ['video', 'moment', 'clock'].map(id => document.getElementById(id));"
        " const pen = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true }), seen = [];"
        " m.value = n; m.dispatchEvent(new Event('input'));"
        " for (let turn = 0; turn < 300; turn++) {"
        "  await new Promise(requestAnimationFrame);"
        "  pen.drawImage(v, 0, 0, 1, 1);"
        "  const grey = pen.getImageData(0, 0, 1, 1).data[0];"
        "  seen.push([Math.round((grey - 20) / 10), Math.round(10 * parseFloat(clock.innerText))]);"
        "  if (turn > 20 && seen.at(-1).every(each => each === n)) break;"
        " } return seen; }"
    )
    for number in (3, 17, 16, 0, 19):
        seen: list[list[int]] = page.evaluate(watch, number)
        assert seen[-1] == [number, number]
        # The picture may be a moment ahead of its skeletons, which are never ahead of it.
        assert [shown for shown, told in seen if told == number and shown != number] == []


def test_a_file_that_is_no_picture_is_refused_in_words(page: Page, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + b"nothing" * 30)
    page.set_input_files("#file", broken)
    page.wait_for_selector("#message.bad")
    assert "broken" in page.inner_text("#message")
