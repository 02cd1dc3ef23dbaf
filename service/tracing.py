"""OpenTelemetry's spans, where they are asked for: one a request, and one a batch that links to its requests'.

Knows no server and no queue. Spans leave over OTLP/HTTP, whereto the standard OTEL_* variables say, on a thread of the
SDK's own. Its packages are the extra `otel`; nobody else imports them, and they are imported where tracing is on alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from service.errors import SettingWrong

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import SpanContext

EXTRA = "poselift[otel]"
PACKAGES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
# A stop waits no longer for a collector that does not answer; what is not sent then is lost, and only traces are.
LAST_SPANS_S = 2.0


class Tracing:
    """Tracing that is off: each call does nothing, and costs as much."""

    @contextmanager
    def request(self, method: str, path: str, headers: Mapping[str, str], request_id: str) -> Iterator[None]:
        """A request's span, from here to the end; what is called within, tasks included, belongs to it.

        Args:
            headers: in lower case; a `traceparent` makes the span a part of the caller's trace.
        """
        yield

    def tell(self, method: str, route: str | None, status: int, spent_ms: Mapping[str, float]) -> None:
        """What became of the request: its route's template, its status, and its milliseconds by stage."""

    @property
    def here(self) -> SpanContext | None:
        """The request that this is called within, if its trace is kept: what a batch links to."""
        return None

    @property
    def trace_id(self) -> str | None:
        """The same in 32 hexadecimal digits, for the log and the histograms' exemplars."""
        return None

    def batch(
        self, network: str, model: str, rows: int, failed: int, requests: Iterable[SpanContext | None], seconds: float
    ) -> None:
        """A batch that has just ended. requests: of each of its rows; seconds: what it took."""

    def close(self) -> None:
        """Sends what is left. Blocks for LAST_SPANS_S at most, so it is nothing for the loop."""


OFF = Tracing()


def installed() -> bool:
    """Whether the extra's packages are there."""
    try:
        return all(find_spec(package) is not None for package in PACKAGES)
    except ModuleNotFoundError:  # of a package above
        return False


def begin(on: bool, version: str, exporter: SpanExporter | None = None) -> Tracing:
    """Tracing, on or off. exporter: None for OTLP/HTTP.

    Raises:
        SettingWrong: it is on, and the extra is not installed.
    """
    if not on:
        return OFF
    if not installed():
        message = f"`tracing` is on, and OpenTelemetry's packages are not there: pip install '{EXTRA}'"
        raise SettingWrong(message, field="tracing")
    return _to_opentelemetry(version, exporter)


def _to_opentelemetry(version: str, exporter: SpanExporter | None) -> Tracing:
    from opentelemetry import context, propagate, trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # The variables' names stand over ours; Resource.create alone would have it the other way round.
    named = dict(OTELResourceDetector().detect().attributes)
    resource = Resource.create({"service.name": "poselift", "service.version": version} | named)
    # No hook at the interpreter's end: it would wait half a minute for a collector that is not there.
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
    tracer = provider.get_tracer("poselift", version)

    class ToOpenTelemetry(Tracing):
        @contextmanager
        def request(self, method: str, path: str, headers: Mapping[str, str], request_id: str) -> Iterator[None]:
            parent = propagate.extract(headers)
            about = {"http.request.method": method, "url.path": path, "poselift.request_id": request_id}
            span = tracer.start_span(method, parent, trace.SpanKind.SERVER, about)
            token = context.attach(trace.set_span_in_context(span, parent))
            try:
                yield
            finally:
                context.detach(token)
                span.end()

        def tell(self, method: str, route: str | None, status: int, spent_ms: Mapping[str, float]) -> None:
            span = trace.get_current_span()
            if not span.is_recording():
                return
            if route is not None:
                span.update_name(f"{method} {route}")
                span.set_attribute("http.route", route)
            span.set_attribute("http.response.status_code", status)
            span.set_attributes({f"poselift.{stage}_ms": round(spent, 3) for stage, spent in spent_ms.items()})
            if status >= 500:
                span.set_status(trace.StatusCode.ERROR)

        @property
        def here(self) -> SpanContext | None:
            span = trace.get_current_span()
            found: SpanContext | None = span.get_span_context() if span.is_recording() else None
            return found

        @property
        def trace_id(self) -> str | None:
            here = self.here
            return f"{here.trace_id:032x}" if here else None

        def batch(
            self,
            network: str,
            model: str,
            rows: int,
            failed: int,
            requests: Iterable[SpanContext | None],
            seconds: float,
        ) -> None:
            each = {(one.trace_id, one.span_id): one for one in requests if one is not None}
            if not each:
                return
            ended = time.time_ns()
            # Within the first request's trace, so that it is kept or left out as that one is; all are linked to.
            first = trace.NonRecordingSpan(next(iter(each.values())))
            about: dict[str, str | int] = {
                "poselift.network": network,
                "poselift.model": model,
                "poselift.rows": rows,
                "poselift.failed_rows": failed,
            }
            span = tracer.start_span(
                f"batch {network}",
                trace.set_span_in_context(first, context.Context()),
                attributes=about,
                links=[trace.Link(one) for one in each.values()],
                start_time=ended - int(1e9 * seconds),
            )
            span.end(ended)

        def close(self) -> None:
            # The SDK would wait half a minute, and for as long again for an export that is under way.
            last = threading.Thread(target=provider.shutdown, daemon=True)
            last.start()
            last.join(LAST_SPANS_S)

    return ToOpenTelemetry()
