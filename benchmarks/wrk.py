"""A closed loop by wrk, which is C and takes a few microseconds a request: `apt-get install wrk`. Latencies in ms."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

SCRIPT = """
local file = io.open("%s", "rb")
wrk.method, wrk.body = "POST", file:read("*a")
file:close()
wrk.headers["Content-Type"] = "%s"
wrk.headers["Authorization"] = %s
done = function(summary, latency)
  io.write(string.format('\\n{"requests": %%d, "us": %%d, "p50": %%f, "p95": %%f, "p99": %%f, "errors": %%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(95), latency:percentile(99),
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
    + summary.errors.status))
end
"""


@dataclass(frozen=True)
class Closed:
    """What so many callers saw, each of whom asks again as soon as it is answered."""

    callers: int
    requests: int
    requests_a_second: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    errors: int


def closed_loop(url: str, body: bytes, kind: str, callers: int, seconds: float, key: str | None = None) -> Closed:
    """Posts the body for so long. kind: its Content-Type; key: of the callers, who have none by default."""
    if shutil.which("wrk") is None:
        raise SystemExit("closed loops are run by wrk, which is not here: apt-get install wrk")
    with tempfile.TemporaryDirectory() as folder:
        content, script = Path(folder, "body"), Path(folder, "post.lua")
        content.write_bytes(body)
        script.write_text(SCRIPT % (content, kind, f'"Bearer {key}"' if key else "nil"))
        command = [
            "wrk",
            "-t1",
            f"-c{callers}",
            f"-d{max(1, round(seconds))}s",
            "--timeout",
            "60s",
            "-s",
            str(script),
            url,
        ]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    last = json.loads(told.strip().splitlines()[-1])
    rate = last["requests"] / (last["us"] / 1e6)
    p50, p95, p99 = (round(last[name] / 1000, 2) for name in ("p50", "p95", "p99"))
    return Closed(callers, last["requests"], round(rate, 1), p50, p95, p99, last["errors"])
