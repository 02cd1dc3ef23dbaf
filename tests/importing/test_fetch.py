"""Downloads from a server of ours that behaves badly in each of the usual ways."""

from __future__ import annotations

import hashlib
import io
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from service import cli
from service.errors import SettingWrong, Unknown, Unreadable
from service.importing import recognise
from service.importing.entry import PRESETS
from service.importing.fetch import ALL, DOWNLOADS, Patience, chosen, download, fetch, terms
from service.importing.recognise import SIZES, PublicFile, public_files
from service.networks import create
from service.store.manifest import DataSource, Score
from service.store.store import CARD, Store

QUICK = Patience(silence_s=5.0, attempts=3, pause_s=0.0)


@dataclass
class Files:
    """What the server holds, and how it misbehaves: each entry of `faults` spoils one answer, in order."""

    content: dict[str, bytes] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)  # path, Range
    address: str = ""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    files = Files()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def answer(self, status: int, body: bytes = b"", promised: int | None = None, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body) if promised is None else promised))
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()
            self.close_connection = promised is not None

        def do_GET(self) -> None:  # the server's name for it
            wanted = self.headers.get("Range", "")
            files.asked.append((self.path, wanted))
            fault = files.faults.pop(0) if files.faults else ""
            body = files.content.get(self.path.removeprefix("/elsewhere"))
            if fault == "redirect":
                return self.answer(302, Location=f"/elsewhere{self.path}")
            if fault.isdigit():
                return self.answer(int(fault))
            if body is None:
                return self.answer(404)
            first = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and fault != "no ranges" else 0
            if first >= len(body) > 0:
                return self.answer(416)
            rest, status = body[first:], 206 if first else 200
            if fault == "cut":
                return self.answer(status, rest[: len(rest) // 2], promised=len(rest))
            if fault == "stall":
                self.answer(status, rest[: len(rest) // 2], promised=len(rest))
                time.sleep(0.6)
                return None
            if fault == "slow":
                self.answer(status, b"", promised=len(rest))
                for piece in range(0, len(rest), 1 + len(rest) // 5):
                    self.wfile.write(rest[piece : piece + 1 + len(rest) // 5])
                    self.wfile.flush()
                    time.sleep(0.05)
                return None
            return self.answer(status, rest)

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = True
    threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    files.address = f"http://127.0.0.1:{running.server_port}"
    yield files
    running.shutdown()
    running.server_close()


BODY = bytes(range(256)) * 4000
DIGEST = hashlib.sha256(BODY).hexdigest()
SHORT = DIGEST[:8]


def quietly(done: int, total: int | None) -> None:
    pass


@pytest.fixture
def target(tmp_path: Path, server: Files) -> Path:
    server.content["/weights.pth"] = BODY
    return tmp_path / "weights.pth"


def test_a_whole_file_comes_with_its_progress(target: Path, server: Files) -> None:
    seen: list[tuple[int, int | None]] = []
    download(f"{server.address}/weights.pth", target, SHORT, lambda done, total: seen.append((done, total)), QUICK)
    assert target.read_bytes() == BODY
    assert seen[-1] == (len(BODY), len(BODY))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("fault", ["redirect", "slow", "503", "429"])
def test_a_server_s_detours_end_in_the_same_file(target: Path, server: Files, fault: str) -> None:
    server.faults = [fault]
    download(f"{server.address}/weights.pth", target, SHORT, quietly, QUICK)
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("fault", ["cut", "stall"])
def test_a_download_that_breaks_off_goes_on_where_it_was(target: Path, server: Files, fault: str) -> None:
    server.faults = [fault, fault]
    patience = replace(QUICK, silence_s=0.3)
    download(f"{server.address}/weights.pth", target, SHORT, quietly, patience)
    assert target.read_bytes() == BODY
    half = len(BODY) // 2
    assert [ranged for _, ranged in server.asked] == ["", f"bytes={half}-", f"bytes={half + half // 2}-"]


def test_an_earlier_call_s_half_is_continued_and_counted(target: Path, server: Files) -> None:
    server.faults = ["cut", "500", "500", "500"]
    with pytest.raises(Unreadable, match=rf"weights.pth cannot be read, {len(BODY) // 2} bytes came: .*500"):
        download(f"{server.address}/weights.pth", target, SHORT, quietly, QUICK)
    assert not target.exists()
    seen: list[int] = []
    download(f"{server.address}/weights.pth", target, SHORT, lambda done, _: seen.append(done), QUICK)
    assert target.read_bytes() == BODY
    assert seen[0] > len(BODY) // 2


def test_a_server_without_ranges_sends_it_all_again(target: Path, server: Files) -> None:
    server.faults = ["cut", "no ranges"]
    download(f"{server.address}/weights.pth", target, SHORT, quietly, QUICK)
    assert target.read_bytes() == BODY


def test_halves_that_do_not_belong_together_are_fetched_anew(target: Path, server: Files) -> None:
    target.with_name("weights.pth.part").write_bytes(b"of last year")
    download(f"{server.address}/weights.pth", target, SHORT, quietly, QUICK)
    assert target.read_bytes() == BODY
    assert [ranged for _, ranged in server.asked] == ["bytes=12-", ""]


def test_a_half_longer_than_the_file_is_fetched_anew(target: Path, server: Files) -> None:
    target.with_name("weights.pth.part").write_bytes(BODY + b"and more")
    download(f"{server.address}/weights.pth", target, SHORT, quietly, QUICK)
    assert target.read_bytes() == BODY


def test_a_whole_part_is_taken_without_a_byte_more(target: Path, server: Files) -> None:
    target.with_name("weights.pth.part").write_bytes(BODY)
    download(f"{server.address}/weights.pth", target, SHORT, quietly, QUICK)
    assert target.read_bytes() == BODY


def test_another_file_under_the_name_is_refused_with_both_digests_and_left_nowhere(target: Path, server: Files) -> None:
    server.content["/weights.pth"] = b"something else"
    other = hashlib.sha256(b"something else").hexdigest()
    with pytest.raises(Unreadable, match=rf"not the published file: .* begin with {SHORT}, it is {other}"):
        download(f"{server.address}/weights.pth", target, SHORT, quietly, QUICK)
    assert list(target.parent.iterdir()) == []


def test_without_a_digest_halves_are_not_joined(target: Path, server: Files) -> None:
    target.with_name("weights.pth.part").write_bytes(b"half of something")
    server.faults = ["cut"]
    download(f"{server.address}/weights.pth", target, "", quietly, QUICK)
    assert target.read_bytes() == BODY
    assert [ranged for _, ranged in server.asked] == ["", ""]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("{}/missing.pth", "404"),
        ("http://127.0.0.1:1/weights.pth", "cannot be read, 0 bytes came"),
        ("ftp://127.0.0.1/weights.pth", "unsupported protocol"),
    ],
)
def test_what_cannot_be_had_is_refused_with_its_address(
    target: Path, server: Files, address: str, message: str
) -> None:
    with pytest.raises(Unreadable, match=rf"weights.pth.*{message}|missing.pth.*{message}"):
        download(address.format(server.address), target, SHORT, quietly, QUICK)
    assert not target.exists()


def test_the_environment_s_proxy_is_asked(target: Path, server: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", server.address)
    server.content["http://weights.invalid/weights.pth"] = BODY
    download("http://weights.invalid/weights.pth", target, SHORT, quietly, QUICK)
    assert target.read_bytes() == BODY
    assert server.asked == [("http://weights.invalid/weights.pth", "")]


def small_videopose() -> bytes:
    torch.manual_seed(0)
    written = io.BytesIO()
    torch.save({"model_pos": create("videopose3d", frames=9, channels=8).state_dict()}, written)
    return written.getvalue()


@pytest.fixture
def row(server: Files) -> PublicFile:
    body = small_videopose()
    server.content["/lift-01234567.bin"] = body
    return PublicFile(
        name="small-lifter",
        address=f"{server.address}/lift-01234567.bin",
        sha256=hashlib.sha256(body).hexdigest()[:8],
        preset="published-lifter",
        size="",
        made_by="copyright nobody",
        licence="CC-BY-NC-4.0",
        restricted=True,
        data=(DataSource("Human3.6M", "research terms", "academic use only"),),
        scores=(Score("made up", "MPJPE", 46.8),),
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_a_fetched_file_becomes_an_entry_that_says_all_that_is_known(
    row: PublicFile, store: Store, server: Files
) -> None:
    entry = fetch(row, store, patience=QUICK)
    manifest = entry.manifest
    assert (manifest.label, manifest.role, manifest.network) == ("small-lifter@1", "lift", "videopose3d")
    assert manifest.options == {"frames": 9, "channels": 8}
    assert manifest.input == {"form": "published", "head": "centre"}
    assert (manifest.weights.licence, manifest.permissive) == ("CC-BY-NC-4.0", False)
    assert manifest.training["sha256"] == hashlib.sha256(server.content["/lift-01234567.bin"]).hexdigest()
    assert row.address in str(manifest.training["origin"])
    assert manifest.scores == row.scores and manifest.data == row.data
    assert "Human3.6M" in (entry.folder / CARD).read_text() and "centimetres" in (entry.folder / CARD).read_text()
    assert store.check() == []
    assert store.find("small-lifter").label == entry.label
    assert list((store.folder / DOWNLOADS).iterdir()) == []


def test_what_is_in_the_store_is_not_fetched_again(row: PublicFile, store: Store, server: Files) -> None:
    first = fetch(row, store, patience=QUICK)
    assert fetch(row, store, patience=QUICK).label == first.label
    assert len(server.asked) == 1


def test_a_mirror_is_asked_for_the_file_s_name(row: PublicFile, store: Store, server: Files) -> None:
    server.content["/our/mirror/lift-01234567.bin"] = server.content.pop("/lift-01234567.bin")
    fetch(row, store, mirror=f"{server.address}/our/mirror/", patience=QUICK)
    assert [path for path, _ in server.asked] == ["/our/mirror/lift-01234567.bin"]


def test_a_file_that_is_right_but_no_network_leaves_the_store_empty(
    row: PublicFile, store: Store, server: Files
) -> None:
    server.content["/lift-01234567.bin"] = b"no checkpoint"
    row = replace(row, sha256=hashlib.sha256(b"no checkpoint").hexdigest()[:8])
    with pytest.raises(Unreadable, match=r"lift-01234567.bin is no file of weights"):
        fetch(row, store, patience=QUICK)
    assert store.entries() == ()


def test_an_imported_file_is_recognised_by_its_digest(
    row: PublicFile, tmp_path: Path, server: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "renamed.bin").write_bytes(server.content["/lift-01234567.bin"])
    monkeypatch.setattr(recognise, "public_files", lambda: (row,))
    converted = recognise.convert(tmp_path / "renamed.bin")
    assert converted.licence == "CC-BY-NC-4.0" and converted.scores == row.scores


def test_names_are_chosen_from_the_list_and_once_each() -> None:
    assert [r.name for r in chosen(["hrnet-w32-256x192", "hrnet-w32-256x192"])] == ["hrnet-w32-256x192"]
    everything = chosen([ALL])
    assert everything and all(r.permissive for r in everything)
    assert {r.name for r in public_files()} > {r.name for r in everything}
    with pytest.raises(Unknown, match=r"no public weights 'hrnet'; there are all-permissive, hrnet-w32-256x192"):
        chosen(["hrnet"])


def test_what_is_not_free_for_every_use_is_fetched_only_by_whoever_accepts_it() -> None:
    with pytest.raises(SettingWrong, match=r"videopose3d-243-official .*CC-BY-NC-4.0.*Human3.6M.*--accept-licence"):
        chosen(["videopose3d-243-official"])
    with pytest.raises(SettingWrong, match="academic use"):
        chosen(["videopose3d-27"])  # its licence alone would be permissive
    assert [r.name for r in chosen(["videopose3d-27"], accept_licence=True)] == ["videopose3d-27"]


def test_every_public_row_is_whole() -> None:
    rows = public_files()
    assert len({row.name for row in rows}) == len({row.file for row in rows}) == len(rows) == 20
    for row in rows:
        assert row.preset in PRESETS
        assert row.size in SIZES if "transform" in PRESETS[row.preset] else row.size == ""
        assert row.address.startswith("https://") and row.name == row.name.lower()
        # The publishers write the digest's first digits into the name.
        assert row.sha256 == "" or (len(row.sha256) in (8, 64) and f"-{row.sha256[:8]}" in row.file)
        assert ("udp" in row.file) == (row.preset == "mmpose-udp")
        assert row.size in row.file
        assert row.data and row.licence in terms(row)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    return int(str(end.value.code))


def test_the_command_line_fetches_and_says_how_to_serve(
    row: PublicFile,
    store: Store,
    server: Files,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lost = replace(row, name="lost", address=f"{server.address}/lost.bin", sha256="")
    monkeypatch.setattr("service.importing.fetch.public_files", lambda: (row, lost))
    place = ("--store", str(store.folder))
    assert run("models", "fetch", "small-lifter", *place) == 2
    assert "--accept-licence" in capsys.readouterr().err and not server.asked
    assert run("models", "fetch", "lost", "small-lifter", "--accept-licence", *place) == 1
    told = capsys.readouterr()
    assert "lost: " in told.err and "404" in told.err
    assert "copyright nobody" in told.out and "`poselift serve --lift small-lifter@1`" in told.out
    assert run("models", "fetch", "nothing", *place) == 2


def test_the_command_line_lists_the_public_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "fetch") == 0
    listed = capsys.readouterr().out
    assert "hrnet-w48-udp-384x288" in listed and "not permissive" in listed


def test_the_command_line_takes_a_preset(tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "lift.bin").write_bytes(small_videopose())
    store.folder.mkdir()
    place = ("--store", str(store.folder))
    assert run("models", "import", str(tmp_path / "lift.bin"), "--as", "mine", "--preset", "alphapose", *place) == 2
    assert "are for HRNets" in capsys.readouterr().err
    assert run("models", "import", str(tmp_path / "lift.bin"), "--as", "mine", *place) == 0
    assert "mine@1: videopose3d, head centre; licence unknown (not permissive)" in capsys.readouterr().out
