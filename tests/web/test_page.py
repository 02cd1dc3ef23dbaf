"""The demo page: what is built is what its source says, nothing comes from elsewhere, and it works in a browser."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import cv2
import httpx
import numpy as np
import psutil
import pytest

from service.api.schemas import CLIP_FORMATS
from service.errors import EngineFailed
from tests.api.conftest import _served, client_of
from tests.api.fake import FakeService

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

WEB = Path(__file__).parents[2] / "service" / "web"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in BROWSERS if (path := shutil.which(name))), None)
SOFTWARE_GL = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
# Some of playwright's calls wait for the browser without end, and an alarm that is raised in its loop is lost there.
MOST_S = 100.0
pytestmark = pytest.mark.timeout(240, method="thread")
FALSE_WEBCAM = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]


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


def test_the_page_offers_every_format_of_the_service_and_no_other() -> None:
    listed = re.search(r"const CLIP_FORMATS = \{(.*?)\n\};", (WEB / "source" / "exports.js").read_text(), re.DOTALL)
    assert listed
    assert sorted(re.findall(r"^  (\w+): ", listed[1], re.MULTILINE)) == sorted(CLIP_FORMATS)


@pytest.mark.anyio
async def test_the_page_and_its_files_are_served_under_a_strict_policy() -> None:
    async with client_of(FakeService()) as client:
        page = await client.get("/")
        assert page.status_code == 200 and "default-src 'none'" in page.headers["Content-Security-Policy"]
        for path in re.findall(r'(?:src|href)="(page/[^"]+)"', page.text):
            assert (await client.get(f"/{path}")).status_code == 200
        assert (await client.get("/page/nothing.js")).status_code == 404


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[FakeService, str]]:
    service = FakeService(max_image_mb=1)
    with _served(service) as served:
        httpx.get(f"{served.url}/livez").raise_for_status()
        yield service, served.url


@pytest.fixture
def service(served: tuple[FakeService, str]) -> Iterator[FakeService]:
    yield served[0]
    served[0].work.error = served[0].work.gate = None


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser's tests need the package playwright")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed here")
    with playwright.sync_playwright() as made:
        launched = made.chromium.launch(executable_path=CHROMIUM, args=SOFTWARE_GL + FALSE_WEBCAM)
        yield launched
        launched.close()


def _end_browser() -> None:
    """Whatever waits for it fails at once, and says where."""
    for process in psutil.Process().children(recursive=True):
        if "chrom" in process.name():
            process.kill()


@pytest.fixture
def page(browser: Browser, served: tuple[FakeService, str]) -> Iterator[Page]:
    """The page in a browser without a window; what it complains of fails the test, and so does a browser that hangs."""
    alarm = threading.Timer(MOST_S, _end_browser)
    alarm.start()
    try:
        yield from _opened(browser, served[1])
    finally:
        alarm.cancel()


def _opened(browser: Browser, url: str) -> Iterator[Page]:
    complaints: list[str] = []
    with browser.new_context(viewport={"width": 1300, "height": 850}) as context:
        opened = context.new_page()
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        opened.goto(url)
        opened.wait_for_selector("#service:has-text('version')")
        yield opened
    # A refusal is told in words on the page; the browser logs it as well.
    assert [said for said in complaints if "Failed to load resource" not in said] == []


def _picture(folder: Path, name: str = "street.png") -> Path:
    path = folder / name
    cv2.imwrite(str(path), np.full((240, 320, 3), 140, np.uint8))
    return path


def _clip(folder: Path, kind: str = "mp4") -> Path:
    """20 frames, ten a second, the n-th as grey as 10 n + 20."""
    path = folder / f"greys.{kind}"
    codec, pixels, options = {
        "mp4": ("libx264", "yuv420p", {"crf": "10"}),
        "gif": ("gif", "gray", {}),
        "avi": ("mpeg4", "yuv420p", {}),
    }[kind]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 320, 240, pixels
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
        " const d = c.width ? pen.getImageData(0, 0, c.width, c.height).data : []; let n = 0;"
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


def test_a_clip_tells_the_milliseconds_of_each_stage_and_the_device(page: Page, tmp_path: Path) -> None:
    page.set_input_files("#file", _clip(tmp_path))
    _message(page)
    assert re.search(r"20 frames in .* a second\. For each frame: pose 1\.4\sms;", page.inner_text("#stages"))
    assert "on cpu" in page.inner_text("#service")


@pytest.mark.parametrize("name", CLIP_FORMATS)
def test_a_clip_can_be_saved_in_every_format(page: Page, tmp_path: Path, name: str) -> None:
    page.set_input_files("#file", _clip(tmp_path))
    _message(page)
    with page.expect_download() as saved:
        page.click(f"#exports >> text=/^{name}$/")
    assert saved.value.suggested_filename.startswith("greys")
    assert Path(saved.value.path()).stat().st_size > 0
    page.wait_for_selector("#message:has-text('Saved as greys')")


def test_a_photo_can_be_saved_as_the_drawing(page: Page, tmp_path: Path) -> None:
    page.set_input_files("#file", _picture(tmp_path))
    _message(page)
    with page.expect_download() as saved:
        page.click("#exports >> text=picture")
    assert cv2.imread(str(saved.value.path())) is not None and saved.value.suggested_filename == "street.png"


@pytest.mark.parametrize("allowed", [True, False])
def test_the_request_can_be_copied_also_where_the_page_may_not_write_there(
    page: Page, tmp_path: Path, allowed: bool
) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    if not allowed:
        page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.set_input_files("#file", _picture(tmp_path))
    _message(page)
    page.click("#exports >> text=copy as curl")
    page.wait_for_selector(f"#message:has-text('{'Copied' if allowed else 'selected'}')")
    copied = page.evaluate("navigator.clipboard ? navigator.clipboard.readText() : String(getSelection())")
    assert copied == page.text_content("#curl")


@pytest.mark.parametrize("kind", ["gif", "avi"])
def test_a_clip_that_the_browser_does_not_play_is_shown_frame_by_frame(page: Page, tmp_path: Path, kind: str) -> None:
    page.set_input_files("#file", _clip(tmp_path, kind))
    told = _message(page)
    assert "20 frames" in told and ("skeletons are shown alone" in told) == (kind == "avi")
    page.evaluate("const m = document.getElementById('moment'); m.value = 7; m.dispatchEvent(new Event('input'));")
    page.wait_for_selector("#clock:has-text('0.70 s')")
    if kind == "gif":
        grey = "document.getElementById('still').getContext('2d').getImageData(0, 0, 1, 1).data[0]"
        assert abs(page.evaluate(grey) - 90) <= 4
    page.click("#play")
    page.wait_for_selector("#clock:has-text('1.90 s')")
    page.wait_for_selector("#play:has-text('Play')")


def test_a_clip_that_breaks_is_shown_up_to_there(page: Page, service: FakeService, tmp_path: Path) -> None:
    service.work.error = EngineFailed("inner")
    page.set_input_files("#file", _clip(tmp_path))
    assert "What came before is shown: 1 frame, one person" in _message(page)
    assert "bad" in (page.get_attribute("#message", "class") or "")
    assert page.locator("#exports button").all_inner_texts() == ["json", "copy as curl"]


def test_a_clip_can_be_stopped_and_what_came_is_kept(page: Page, service: FakeService, tmp_path: Path) -> None:
    service.work.gate = threading.Event()
    before = service.work.cancelled
    page.set_input_files("#file", _clip(tmp_path))
    page.wait_for_selector("#message:has-text('1 of 20 frames')")
    page.click("#stop")
    assert _message(page).startswith("Stopped. What came before is shown: 1 frame, one person.")
    assert not page.is_visible("#stop")
    assert page.locator("#exports button").all_inner_texts() == ["json", "copy as curl"]
    page.wait_for_function("() => document.getElementById('clock').textContent === '0.00 s'")
    for _ in range(100):  # the service learns of it and stops, too
        if service.work.cancelled > before:
            break
        page.wait_for_timeout(50)
    assert service.work.cancelled == before + 1
    service.work.gate = None
    page.set_input_files("#file", _clip(tmp_path))
    page.wait_for_selector("#message:has-text('20 frames, one person')")
    assert not page.is_visible("#stop")


def test_what_only_the_whole_clip_tells_is_shown(page: Page, tmp_path: Path) -> None:
    someone: dict[str, Any] = {"track": "confirmed", "swapped": False, "filled": False, "score": 0.9}
    someone |= {"box": [10, 10, 50, 90], "keypoints": [[30, 40, 0.9]] * 17, "position": [0, 0, 3]}
    someone |= {"joints3d": [[0, 0.1 * n, 0] for n in range(17)], "scale": {"stature": 1.7, "source": "assumed"}}
    world = {"rotation": [[1, 0, 0], [0, -1, 0], [0, 0, -1]], "translation": [0, 1.5, 0]}
    tracks = [{"id": n, "first": n, "last": n, "frames": 1, "scale": someone["scale"], "factor": 2.0} for n in (0, 7)]
    camera = {"focal_px": 300, "center": [160, 120], "source": "assumed"}
    lines = [
        {"type": "start", "size": [320, 240], "frames": 2, "camera": camera},
        *({"type": "frame", "index": n, "time": n, "people": [someone | {"id": 7 * n}]} for n in range(2)),
        {"type": "end", "frames": 2, "tracks": tracks, "merged": {"7": 0}, "camera_to_world": world, "reason": ""},
    ]
    body = "".join(json.dumps(line) + "\n" for line in lines)
    page.route("**/v1/clips?*", lambda route: route.fulfill(body=body, content_type="application/x-ndjson"))
    page.set_input_files("#file", _clip(tmp_path))
    assert "2 frames, one person." in _message(page)
    page.wait_for_selector("#people:has-text('person 0')")
    assert "6.0 m" in page.inner_text("#people")
    assert "floor were found" in page.inner_text("#scale")
    with page.expect_download() as saved:
        page.click("#exports >> text=json")
    document = json.loads(Path(saved.value.path()).read_text())
    assert [frame["people"][0]["id"] for frame in document["frames"]] == [0, 7]


def test_the_webcam_is_answered_and_its_poses_can_be_saved(page: Page) -> None:
    page.click("#webcam")
    page.wait_for_selector("#stages:has-text('answered in')")
    assert _painted(page, "#overlay") > 0
    page.click("#webcam")
    page.wait_for_selector("#webcam:has-text('Use the webcam')")
    with page.expect_download() as saved:
        page.click("#exports >> text=json")
    assert saved.value.suggested_filename == "webcam.json"
    assert json.loads(Path(saved.value.path()).read_text())["frames"]


def test_the_keyboard_gets_everywhere(page: Page, tmp_path: Path) -> None:
    page.set_input_files("#file", _clip(tmp_path))
    _message(page)
    page.evaluate("document.activeElement.blur()")
    reached = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
    assert {"file", "webcam", "stature", "space", "play", "moment", "json", "copy as curl", *CLIP_FORMATS} <= reached
    page.focus("#space")
    before = page.locator("#space").screenshot()
    for key in ("ArrowLeft", "ArrowUp", "+"):
        page.keyboard.press(key)
        page.wait_for_timeout(100)
    assert page.locator("#space").screenshot() != before


@pytest.mark.parametrize("kind", ["photo", "clip"])
def test_a_narrow_window_shows_all_of_the_page_without_scrolling_sideways(
    page: Page, tmp_path: Path, kind: str
) -> None:
    page.set_viewport_size({"width": 400, "height": 800})
    page.set_input_files("#file", _picture(tmp_path) if kind == "photo" else _clip(tmp_path))
    _message(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_a_file_that_is_no_picture_is_refused_in_words(page: Page, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + b"nothing" * 30)
    page.set_input_files("#file", broken)
    page.wait_for_selector("#message.bad")
    assert "broken" in page.inner_text("#message")


@pytest.mark.parametrize(
    "name, size, words",
    [
        ("empty.jpg", 0, "“empty.jpg” is empty: it has 0 bytes."),
        ("large.jpg", 3 * 2**19, "“large.jpg” has 1.5 MB; this service takes photos of at most 1 MB."),
        ("notes.txt", 10, "“notes.txt” is neither a photo nor a clip (its kind is text/plain)."),
        ("clip.mp4", 10, "`clip` is none of mp4, "),
    ],
)
def test_a_file_that_is_refused_is_told_in_words_and_nothing_of_the_last_one_stays(
    page: Page, tmp_path: Path, name: str, size: int, words: str
) -> None:
    page.set_input_files("#file", _picture(tmp_path))
    _message(page)
    (tmp_path / name).write_bytes(bytes(size))
    page.set_input_files("#file", tmp_path / name)
    page.wait_for_selector("#message.bad")
    assert words in page.inner_text("#message")
    assert _painted(page, "#overlay") == 0
    assert page.inner_text("#people") == page.inner_text("#stages") == "" and not page.is_visible("#exports")
