"""Spans, through OpenTelemetry's in-memory exporter, and once over HTTP to a collector of this file."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from PIL import Image
from websockets.sync.client import connect

from service import doctor, logs, tracing
from service.errors import EngineFailed, SettingWrong
from service.settings import Settings
from service.tracing import OFF, begin
from tests.api.conftest import _served, client_of
from tests.api.fake import FakeService
from tests.api.open_inference.fake import TinyService
from tests.batching.fake import queues

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
KEPT, NOT_KEPT = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"


class Traced:
    """Tracing whose spans stay here."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracing = begin(True, "0.0", self._exporter)

    @property
    def spans(self) -> list[ReadableSpan]:
        """All that have ended; tracing is over then."""
        self.tracing.close()
        return list(self._exporter.get_finished_spans())


@pytest.fixture
def traced() -> Traced:
    return Traced()


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_SERVICE_NAME", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_SAMPLER", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), (120, 90, 60)).save(file, "JPEG")
    return file.getvalue()


def ask(service: FakeService, method: str, path: str, **more: Any) -> httpx.Response:
    """One request to a service that is started for it and closed after it."""

    async def asked() -> httpx.Response:
        await service.start()
        async with client_of(service) as client:
            answer = await client.request(method, path, **more)
        await service.close()
        return answer

    return asyncio.run(asked())


def served_photo(service: FakeService, **headers: str) -> httpx.Response:
    return ask(service, "POST", "/v1/images", content=jpeg(), headers={"Content-Type": "image/jpeg"} | headers)


def about(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def place(span: ReadableSpan) -> tuple[int, int]:
    context = span.get_span_context()
    assert context is not None
    return context.trace_id, context.span_id


# ---- Requests


def test_a_request_is_a_span_with_its_route_status_and_id(traced: Traced) -> None:
    service = FakeService()
    service.tracing = traced.tracing
    served_photo(service, **{"X-Request-Id": "mine"})
    (span,) = traced.spans
    told = about(span)
    assert (span.name, span.kind, span.parent) == ("POST /v1/images", SpanKind.SERVER, None)
    assert told["http.route"] == told["url.path"] == "/v1/images"
    assert (told["http.response.status_code"], told["poselift.request_id"]) == (200, "mine")
    assert told["poselift.pose_ms"] == 1.5 and span.status.status_code is StatusCode.UNSET


def test_a_callers_trace_is_gone_on_with(traced: Traced) -> None:
    service = FakeService()
    service.tracing = traced.tracing
    served_photo(service, traceparent=KEPT)
    (span,) = traced.spans
    assert f"{place(span)[0]:032x}" == TRACE
    assert span.parent is not None and f"{span.parent.span_id:016x}" == SPAN and span.parent.is_remote


@pytest.mark.parametrize("traceparent", ["", "00-0-0-00", "x" * 5000, f"00-{'0' * 32}-{SPAN}-01"])
def test_a_traceparent_that_is_none_begins_a_trace_of_its_own(traced: Traced, traceparent: str) -> None:
    service = FakeService()
    service.tracing = traced.tracing
    assert served_photo(service, traceparent=traceparent).status_code == 200
    (span,) = traced.spans
    assert span.parent is None


def test_what_the_caller_does_not_keep_is_not_kept_here_nor_are_its_batches(traced: Traced) -> None:
    service = TinyService()
    service.tracing = traced.tracing
    assert served_photo(service, traceparent=NOT_KEPT).status_code == 200
    assert traced.spans == []


def test_faults_of_ours_are_errors_and_refusals_are_not(traced: Traced) -> None:
    service = FakeService(keys=("right",))
    service.tracing = traced.tracing
    assert served_photo(service).status_code == 401
    service.work.error = EngineFailed("secret")
    assert served_photo(service, Authorization="Bearer right").status_code == 500
    refused, failed = traced.spans
    assert (refused.name, refused.status.status_code) == ("POST", StatusCode.UNSET)
    assert about(refused)["http.response.status_code"] == 401
    assert failed.status.status_code is StatusCode.ERROR
    assert "secret" not in failed.to_json() and not failed.events


def test_probes_and_scrapes_are_not_followed(traced: Traced) -> None:
    service = TinyService()
    service.tracing = traced.tracing
    for path in logs.QUIET_ROUTES:
        assert ask(service, "GET", path).status_code == 200
    assert traced.spans == []


def test_a_live_stream_is_one_span_to_its_end(traced: Traced) -> None:
    service = FakeService()
    service.tracing = traced.tracing
    with _served(service) as here:
        url = f"ws://127.0.0.1:{here.port}/v1/live/keypoints"
        with connect(url, proxy=None, additional_headers={"traceparent": KEPT}) as socket:
            socket.send(json.dumps({"type": "start", "skeleton": "coco17", "image_size": [640, 480]}))
            assert json.loads(socket.recv(5))["type"] == "started"
            socket.send('{"type": "end"}')
            assert json.loads(socket.recv(5))["type"] == "ended"
    (span,) = traced.spans
    assert span.name == "GET /v1/live/keypoints" and about(span)["http.response.status_code"] == 101
    assert f"{place(span)[0]:032x}" == TRACE


# ---- Batches


def test_each_batch_of_a_photo_links_to_the_photos_span(traced: Traced) -> None:
    service = TinyService()
    service.tracing = traced.tracing
    served_photo(service)
    *batches, request = traced.spans
    assert [batch.name for batch in batches][:1] == ["batch person"]
    assert request.name == "POST /v1/images"
    for batch in batches:
        assert [(link.context.trace_id, link.context.span_id) for link in batch.links] == [place(request)]
        assert batch.start_time is not None and request.start_time is not None and batch.end_time is not None
        assert request.start_time <= batch.start_time <= batch.end_time <= (request.end_time or 0)


def test_a_shared_batch_links_to_everybody_in_it_once_and_says_what_failed(traced: Traced) -> None:
    async def story() -> None:
        async with queues(tracing=traced.tracing) as (here, network):
            occupier = await here.occupy()
            asked = []
            for name, values in (("a", (1, 2)), ("b", (float("nan"),))):
                with traced.tracing.request("POST", "/v1/lift", {}, name):
                    asked.append(here.ask(*values, caller=name))
                    await asyncio.sleep(0)  # it is queued now, as the request's own work
            untold = here.ask(3)
            await here.queued(4)
            network.gate.set()
            await asyncio.gather(*asked, untold, occupier, return_exceptions=True)

    asyncio.run(story())
    first, second, batch = traced.spans
    assert (about(first)["poselift.request_id"], about(second)["poselift.request_id"]) == ("a", "b")
    assert [(link.context.trace_id, link.context.span_id) for link in batch.links] == [place(first), place(second)]
    told = about(batch)
    assert (batch.name, told["poselift.model"]) == ("batch lift", "doubler-lift@1")
    assert (told["poselift.rows"], told["poselift.failed_rows"]) == (4, 1)


# ---- On, off, and without its packages


def test_off_is_the_default_and_does_nothing() -> None:
    assert begin(Settings().tracing, "0.0") is OFF
    with OFF.request("GET", "/", {"traceparent": KEPT}, "id"):
        assert OFF.here is None and OFF.trace_id is None


def test_off_nothing_of_the_sdk_is_imported() -> None:
    code = "import sys, service.cli; sys.exit(any('opentelemetry.sdk' in name for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0


def test_without_its_packages_it_is_refused_at_start_and_the_doctor_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(settings: Settings) -> doctor.Finding:
        return next(each for each in doctor.examine(settings) if each.name == "tracing")

    on, off = Settings(device="cpu", port=0, tracing=True), Settings(device="cpu", port=0)
    monkeypatch.setattr(doctor, "LOOKS", (doctor._tracing,))
    assert [found(each).grade for each in (on, off)] == ["ok", "ok"]
    monkeypatch.setattr(tracing, "find_spec", lambda name: None)
    with pytest.raises(SettingWrong, match=r"poselift\[otel\]") as refused:
        begin(True, "0.0")
    assert refused.value.field == "tracing"
    assert found(off).grade == "ok" and "not installed" in found(off).told
    assert found(on).grade == "broken" and "poselift[otel]" in found(on).mend


def test_serve_ends_with_2_and_names_the_extra() -> None:
    blocked = (
        "import sys; sys.modules['opentelemetry.exporter'] = None; from service import cli; "
        "cli.main(['serve', '--port', '0', '--device', 'cpu', '--tracing', 'true'])"
    )
    ended = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2 and "pip install 'poselift[otel]'" in ended.stderr


def test_log_lines_name_the_trace(traced: Traced, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "poselift.requests")
    service = FakeService()
    service.tracing = traced.tracing
    served_photo(service, traceparent=KEPT)
    assert [record.fields["trace_id"] for record in caplog.records] == [TRACE]  # type: ignore[attr-defined]


# ---- Over HTTP


@pytest.fixture
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """An OTLP/HTTP collector: its address, and what came."""
    came: list[ExportTraceServiceRequest] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if self.path == "/v1/traces":
                came.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", came
    server.shutdown()
    server.server_close()
    thread.join(5)


def test_spans_reach_a_collector_that_the_standard_variables_name(
    collector: tuple[str, list[ExportTraceServiceRequest]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, came = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    for name in ("poselift", "studio"):
        if name != "poselift":
            monkeypatch.setenv("OTEL_SERVICE_NAME", name)
        on = begin(True, "1.2.3")
        with on.request("GET", "/v1/info", {}, "id"):
            on.tell("GET", "/v1/info", 200, {})
        on.close()
        (resource,) = came.pop().resource_spans
        told = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
        assert told["service.name"] == name and told["service.version"] == "1.2.3"
        assert told["deployment.environment.name"] == "test"
        assert [span.name for span in resource.scope_spans[0].spans] == ["GET /v1/info"]


def test_a_collector_that_never_answers_holds_up_no_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "30")
        monkeypatch.setattr(tracing, "LAST_SPANS_S", 0.2)
        on = begin(True, "0.0")
        with on.request("GET", "/", {}, "id"):
            pass
        began = time.monotonic()
        on.close()
        assert time.monotonic() - began < 5
