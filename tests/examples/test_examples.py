"""docs/examples, and the curl lines of README and of the examples' page, against a live server with its own models."""

from __future__ import annotations

import functools
import http.server
import importlib.util
import io
import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import cv2
import httpx
import numpy as np
import pytest
import skimage.data

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in BROWSERS if (path := shutil.which(name))), None)


class Pages(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def pages() -> Iterator[str]:
    """The examples' folder, served under an origin of its own."""
    handler = functools.partial(Pages, directory=str(EXAMPLES))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def url(pages: str) -> Iterator[str]:
    """A service of this tree, as `poselift serve` starts it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "service", "serve", "--port", str(port), "--log-level", "warning"]
    command += ["--device", "cpu", "--drain-delay-s", "0", "--origins", pages]
    with subprocess.Popen(command, cwd=ROOT) as process:
        address = f"http://localhost:{port}"
        try:
            for _ in range(1200):
                assert process.poll() is None, "the service has ended"
                try:
                    if httpx.get(f"{address}/readyz").status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                time.sleep(0.1)
            yield address
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photo.jpg, clip.mp4 and keypoints.json, as the lines have them."""
    folder = tmp_path_factory.mktemp("files")
    whole = np.asarray(skimage.data.astronaut(), np.uint8)  # type: ignore[no-untyped-call]
    cv2.imwrite(str(folder / "photo.jpg"), whole[:, :, ::-1])
    small = np.asarray(cv2.resize(whole, (256, 256)), np.uint8)
    with av.open(str(folder / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 256
        stream.pix_fmt = "yuv420p"
        for n in range(14):
            moved = np.ascontiguousarray(np.roll(small, 2 * n, axis=1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(moved, format="rgb24")))
        container.mux(stream.encode())
    keypoints = np.random.default_rng(0).uniform(100, 300, (30, 17, 2)).round(1).tolist()
    body = {"skeleton": "coco17", "image_size": [640, 480], "keypoints": keypoints}
    (folder / "keypoints.json").write_text(json.dumps(body))
    return folder


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name: str, *arguments: str, folder: Path) -> str:
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_a_photo(url: str, files: Path, tmp_path: Path) -> None:
    said = run("photo", str(files / "photo.jpg"), url, folder=tmp_path)
    assert said.startswith("1 people in 512 x 512 pixels") and "left wrist" in said
    (tmp_path / "torn.jpg").write_bytes((files / "photo.jpg").read_bytes()[:500])
    with pytest.raises(SystemExit, match=r"400: .*image"):
        example("photo").find_people(tmp_path / "torn.jpg", url)


def test_a_clip(url: str, files: Path, tmp_path: Path) -> None:
    said = run("clip", str(files / "clip.mp4"), url, folder=tmp_path)
    assert "14 frames, tracks [0" in said
    assert zipfile.ZipFile(tmp_path / "clip_bvh.zip").namelist()[0] == "clip_person0.bvh"


def test_live_keypoints(url: str, tmp_path: Path) -> None:
    said = run("live_keypoints", url.replace("http", "ws"), folder=tmp_path)
    poses = int(said.split()[0])
    dropped = int(re.findall(r"(\d+) dropped", said)[0])
    assert poses + dropped == 60 and poses > 5, said


def test_the_browser(url: str, pages: str, files: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser's tests need the package playwright")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed here")
    with playwright.sync_playwright() as made:
        browser = made.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"{pages}/browser.html?url={url}")
        page.set_input_files("#file", files / "photo.jpg")
        page.wait_for_function("/people|:/.test(document.getElementById('said').value)", timeout=60000)
        assert page.eval_on_selector("#said", "said => said.value") == "1 people"
        assert page.eval_on_selector("#canvas", "canvas => canvas.width") == 512
        browser.close()


def curl_lines() -> list[str]:
    found = []
    for page in ("README.md", "docs/api.md", "docs/examples/README.md"):
        lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
        found += [line.partition("  #")[0].strip() for line in lines if line.startswith("curl ")]
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("line", curl_lines())
def test_each_line_of_curl_is_answered(line: str, url: str, files: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl is installed here")
    words = [word.replace("localhost:8000", url) for word in shlex.split(line)]
    command = [words[0], "--silent", "--show-error", "--fail-with-body", *words[1:]]
    ended = subprocess.run(command, capture_output=True, cwd=files, timeout=120)
    assert ended.returncode == 0, ended.stdout[:500] + ended.stderr
    body = ended.stdout
    if "-o" in words:
        body = (files / words[words.index("-o") + 1]).read_bytes()
    if "png" in line:
        assert body.startswith(b"\x89PNG")
    elif "format=mp4" in line:
        assert av.open(io.BytesIO(body)).streams.video[0].frames == 14
    elif "format=bvh" in line:
        assert body.startswith((b"HIERARCHY", b"PK"))  # one person's file, or all in a zip
    elif "format=csv" in line:
        assert body.startswith(b"frame,time_s,person")
    else:
        first = json.loads(body.splitlines()[0])
        assert {"people", "joints3d", "type"} & first.keys()
