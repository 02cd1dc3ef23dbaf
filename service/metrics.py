"""Every counter, gauge and histogram, with the names of the interface. Knows nothing of who counts.

Seconds, bytes and rows. Every label set that can be named beforehand exists from the start, at 0: a rule or an
autoscaler that asks for it gets a number, not nothing.
"""

from __future__ import annotations

from contextvars import ContextVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import choose_encoder

# In the order in which a photo passes them.
NETWORKS = ("person", "pose", "lift", "lift_long")
STAGES = ("decode", "person", "pose", "lift", "queue")
# The names of the errors that the callers get.
SHED_REASONS = ("QueueFull", "ShareUsedUp", "NotReady")
FAILURE_REASONS = ("NotFinite", "EngineFailed")
# The route of whatever has none: a scanner's paths must not become series.
UNMATCHED = "unmatched"
MODEL_LABELS = ("role", "name", "version", "network", "engine", "device", "precision")

# OpenTelemetry's advice for HTTP, longer for clips, finer for what happens inside.
HTTP_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
REQUEST_SECONDS = (*HTTP_SECONDS, 30.0, 60.0)
STAGE_SECONDS = (0.001, 0.0025, *HTTP_SECONDS)
WAIT_SECONDS = (*STAGE_SECONDS, 30.0)
LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
# What a live stream's viewer notices is settled below a second.
AGE_SECONDS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
BATCH_ROWS = (1, 2, 4, 8, 16, 32, 64)

# What OpenMetrics allows for all names and values of an exemplar together.
EXEMPLAR_CHARACTERS = 128
# Of the request that is answered, set by the doors; who observes a duration for it puts this beside the number.
exemplar: ContextVar[dict[str, str] | None] = ContextVar("exemplar", default=None)

# When each series began is a second series for every one, and nobody here reads it.
disable_created_metrics()  # type: ignore[no-untyped-call]


def exemplar_of(request_id: str, trace_id: str | None = None) -> dict[str, str]:
    """What finds one request of a bucket in log and traces. An id of the caller's own that is too long is left out."""
    found = {"trace_id": trace_id} if trace_id else {}
    if len("".join(found) + "".join(found.values()) + "request_id" + request_id) <= EXEMPLAR_CHARACTERS:
        found["request_id"] = request_id
    return found


class Metrics:
    """What is measured in one service. Each attribute is named after its metric, without the prefix `poselift_`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, namespace="poselift", registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, namespace="poselift", registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(name, text, labels, namespace="poselift", registry=registry, buckets=buckets)

        self.request_duration_seconds = histogram(
            "request_duration_seconds",
            "From the first byte in to the last byte out.",
            REQUEST_SECONDS,
            "route",
            "status",
        )
        self.stage_duration_seconds = histogram(
            "stage_duration_seconds", "What a request spent in one stage.", STAGE_SECONDS, "stage"
        )
        self.queue_wait_seconds = histogram(
            "queue_wait_seconds", "What a row waited before its batch began.", WAIT_SECONDS, "network"
        )
        self.queue_rows = gauge("queue_rows", "Rows that wait.", "network")
        self.queue_limit_rows = gauge("queue_limit_rows", "Rows that may wait; more are refused.", "network")
        self.batch_rows = histogram("batch_rows", "Rows of a batch.", BATCH_ROWS, "network")
        self.batch_duration_seconds = histogram(
            "batch_duration_seconds", "What the device took for a batch.", STAGE_SECONDS, "network"
        )
        self.batch_cap_rows = gauge("batch_cap_rows", "Rows that a batch may have.", "network")
        self.rows_total = counter("rows_total", "Rows answered.", "network")
        self.failed_rows_total = counter("failed_rows_total", "Rows that failed alone.", "network", "reason")
        self.shed_total = counter("shed_total", "Requests refused before they were queued.", "reason")
        self.abandoned_total = counter("abandoned_total", "Requests whose caller went away.")
        self.expired_total = counter("expired_total", "Requests whose deadline passed.")
        self.live_streams = gauge("live_streams", "Live streams that are open.")
        self.live_streams_limit = gauge("live_streams_limit", "Live streams that may be open.")
        self.live_frame_age_seconds = histogram(
            "live_frame_age_seconds", "Age of a live frame when its answer is sent.", AGE_SECONDS
        )
        self.dropped_frames_total = counter("dropped_frames_total", "Live frames or answers dropped for newer ones.")
        self.oom_total = counter("oom_total", "Batches for which the device's memory ran out.")
        self.loop_lag_seconds = histogram("loop_lag_seconds", "How late the event loop woke from a sleep.", LAG_SECONDS)
        self.device_memory_bytes = gauge("device_memory_bytes", "Memory of the device that this process holds.")
        self.model_info = gauge("model_info", "1 for each model that is served.", *MODEL_LABELS)
        self.ready = gauge("ready", "1 while the service takes work, else 0.")

        for network in NETWORKS:
            for gauge_ in (self.queue_rows, self.queue_limit_rows, self.batch_cap_rows):
                gauge_.labels(network)
            for histogram_ in (self.queue_wait_seconds, self.batch_rows, self.batch_duration_seconds):
                histogram_.labels(network)
            self.rows_total.labels(network)
            for reason in FAILURE_REASONS:
                self.failed_rows_total.labels(network, reason)
        # Looking a series up by its labels costs as much as counting.
        self._stages = {stage: self.stage_duration_seconds.labels(stage) for stage in STAGES}
        self._requests: dict[tuple[str, int], Histogram] = {}
        for reason in SHED_REASONS:
            self.shed_total.labels(reason)
        ProcessCollector(registry=registry)  # memory, CPU seconds and open files of this process

    def observe_request(self, route: str | None, status: int, seconds: float) -> None:
        """Counts one finished request.

        Args:
            route: its template, as `/problems/{slug}`; None where no route matched. Never the path that was asked for.
        """
        key = route or UNMATCHED, status
        if (series := self._requests.get(key)) is None:
            series = self._requests[key] = self.request_duration_seconds.labels(key[0], str(status))
        series.observe(seconds, exemplar.get())

    def observe_stage(self, stage: str, seconds: float) -> None:
        """What a request spent in one stage."""
        if (series := self._stages.get(stage)) is None:
            series = self._stages[stage] = self.stage_duration_seconds.labels(stage)
        series.observe(seconds, exemplar.get())

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The scrape's body and content type: OpenMetrics for an `Accept` that asks for it, else Prometheus text.

        OpenMetrics alone has a place for exemplars.
        """
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type
