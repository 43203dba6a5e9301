"""What Prometheus reads. The values of labels come from fixed lists: no path, model name or question becomes one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from ..host.thermal import temperatures, throttled

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
#: Why faces are wiped.
WIPES = ("expired", "evicted", "deleted", "worker_ended")
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120)
#: Values of labels, which are there from the start: `increase()` does not see the first event of a new series.
FINISHES = ("stop", "length", "repaired", "withheld", "no_face", "no_image", "declined", "cancelled")
LOSSES = ("killed", "crashed", "exception", "hang", "heartbeat", "protocol", "load")
#: Ways by which figures leave, and what may be wanted from outside.
OUTLETS, COMMANDS = ("mqtt", "webhook", "window_log"), ("pause", "resume", "wipe", "ignored")
REJECTIONS = ("queue_full", "unavailable", "bad_host", "bad_origin", "invalid_api_key", "shutting_down")


class _Total:
    """A counter that is counted elsewhere, from zero again after `begin`."""

    def __init__(self, counter: Counter) -> None:
        self._counter, self._last = counter, 0

    def begin(self) -> None:
        self._last = 0

    def set_to(self, total: int) -> None:
        self._counter.inc(total - self._last)
        self._last = total


disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """All series, in a registry of their own: the parent is one process, and the worker reports by its events."""

    def __init__(self) -> None:
        """All at zero."""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.build_info = self._gauge("build_info", "What runs.", "version", "bundle", "bundle_sha256", "device")
        self.ready = self._gauge("ready", "1 if requests are answered.")
        self.degraded = self._gauge("degraded_level", "1 while the server waits because workers end too often.")
        self.requests = self._counter("requests", "Requests answered.", "route", "code")
        self.duration = self._histogram("request_duration_seconds", "From request to the end of its answer.", "route")
        self.rejected = self._counter("requests_rejected", "Requests turned away.", "reason")
        self.queue_depth = self._gauge("queue_depth", "Requests that wait for the worker.")
        self.queue_limit = self._gauge("queue_limit", "How many may.")
        self.queue_wait = self._histogram("queue_wait_seconds", "How long they waited.")
        self.stage = self._histogram("stage_duration_seconds", "Time in the worker.", "stage")
        self.first_token = self._histogram("time_to_first_token_seconds", "From the worker's start to the first token.")
        self.per_token = self._histogram("time_per_output_token_seconds", "Mean of an answer's tokens after the first.")
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens that the LLM read.")
        self.cached_tokens = self._counter("prompt_tokens_cached", "Of these, taken from its cache.")
        self.generated = self._counter("generation_tokens", "Tokens generated.")
        self.answers = self._counter("answers", "Answers.", "finish")
        self.faces = self._counter("faces", "Faces found.")
        self.cache_faces = self._gauge("face_cache_faces", "Faces that the worker holds.")
        self.cache_hits = self._counter("face_cache_hits", "Pictures whose faces were still held.")
        self.cache_misses = self._counter("face_cache_misses", "Pictures looked at anew.")
        self.wipes = self._counter("face_wipes", "Faces wiped.", "reason")
        self.worker_restarts = self._counter("worker_restarts", "Workers that ended and were replaced.", "reason")
        self.reloads = self._counter("reloads", "Reloads asked for by SIGHUP.", "result")
        self.worker_up = self._gauge("worker_up", "1 while a worker is ready.")
        self.camera_up = self._gauge("camera_up", "1 while the camera sends frames.")
        self.camera_age = self._gauge("camera_frame_age_seconds", "Of its newest frame; 0 where there is none.")
        self.camera_frames = _Total(self._counter("camera_frames", "Frames that came."))
        self.camera_dropped = _Total(self._counter("camera_frames_dropped", "Of these, not looked at."))
        self.camera_reconnects = _Total(self._counter("camera_reconnects", "Times that it was started anew."))
        self.worker_memory = self._gauge("worker_resident_memory_bytes", "Of the worker; 0 while there is none.")
        self.temperature = self._gauge("temperature_celsius", "Of the machine, by thermal zone.", "zone")
        self.throttled = self._gauge("throttled", "1 while heat or power hold clocks back; 0 where nothing tells.")
        self.canary_failures = self._counter("canary_failures", "Workers that did not answer the canary as recorded.")
        self.outlet_dropped = self._counter("outlet_dropped", "Windows that did not leave.", "outlet")
        self.outlet_failures = self._counter("outlet_failures", "Tries to send or connect that failed.", "outlet")
        self.mqtt_connected = self._gauge("mqtt_connected", "1 while the broker is connected.")
        self.mqtt_commands = self._counter("mqtt_commands", "Commands that came from the broker.", "command")
        for counter, values in (
            (self.answers, FINISHES),
            (self.outlet_dropped, OUTLETS),
            (self.outlet_failures, OUTLETS),
            (self.mqtt_commands, COMMANDS),
            (self.wipes, WIPES),
            (self.worker_restarts, LOSSES),
            (self.rejected, REJECTIONS),
            (self.reloads, ("done", "failed")),
        ):
            for value in values:
                counter.labels(value)

    def camera_begins(self) -> None:
        """A camera is opened anew, and counts from zero."""
        for total in (self.camera_frames, self.camera_dropped, self.camera_reconnects):
            total.begin()

    def read_machine(self, root: Path = Path("/")) -> None:
        """Heat and throttling now. What cannot be read has no series. root: where /sys is."""
        self.temperature.clear()
        for zone, celsius in temperatures(root).items():
            self.temperature.labels(zone).set(celsius)
        held_back = throttled(root)
        if held_back is not None:
            self.throttled.set(bool(held_back))

    def take(self, event: dict[str, Any]) -> None:
        """Count what the worker reports at the end of a request."""
        for stage, milliseconds in event.get("timings", {}).items():
            self.stage.labels(stage).observe(milliseconds / 1e3)
        held = event.get("held")
        if held:
            self.cache_faces.set(held["faces"])
            self.faces.inc(held["found"])
            self.cache_hits.inc(held["hits"])
            self.cache_misses.inc(held["misses"])
            for reason in WIPES[:3]:
                self.wipes.labels(reason).inc(held[reason])
        if "finish" in event:
            self.answers.labels(event["finish"]).inc()
        usage = event.get("usage")
        if usage and usage["completion_tokens"]:
            self.prompt_tokens.inc(usage["prompt_tokens"])
            self.cached_tokens.inc(usage["cached_tokens"])
            self.generated.inc(usage["completion_tokens"])
            first, total, tokens = event["first_token_ms"], event["total_ms"], usage["completion_tokens"]
            self.first_token.observe(first / 1e3)
            if tokens > 1:
                self.per_token.observe(max(0.0, total - first) / 1e3 / (tokens - 1))

    def faces_gone(self) -> None:
        """A worker ended or was replaced, and the faces that it held are gone with it."""
        self.wipes.labels("worker_ended").inc(self.registry.get_sample_value("faceinsight_face_cache_faces") or 0)
        self.cache_faces.set(0)

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"faceinsight_{name}", text, labels, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"faceinsight_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(f"faceinsight_{name}", text, labels, registry=self.registry, buckets=_SECONDS)
