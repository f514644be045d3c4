"""Load by wrk, Debian's: requests per second and latencies of one URL under a number of connections."""

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from shutil import which

_SCRIPT = """
wrk.method = %(method)s
wrk.headers["Content-Type"] = %(content_type)s
local requests, turn = {}, 0
function init()
  for number = 1, %(count)d do
    local file = io.open(%(folder)s .. "/" .. number, "rb")
    requests[number] = wrk.format(nil, nil, nil, file:read("*a"))
    file:close()
  end
end
function request()
  turn = turn %% %(count)d + 1
  return requests[turn]
end
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format('{"requests": %%d, "us": %%d, "p50": %%.1f, "p99": %%.1f, "max": %%.1f, "failed": %%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), latency.max,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of wrk saw; latencies in seconds."""

    requests_per_s: float
    p50_s: float
    p99_s: float
    max_s: float
    requests: int
    failed: int


def load(url: str, *bodies: bytes, connections: int, seconds: float, content_type: str = "application/json") -> Load:
    """Send bodies in turns, over and over, on `connections` connections; an answer but 2xx or 3xx is a failure."""
    wrk = which("wrk")
    if wrk is None:
        raise SystemExit("expected the program wrk; on Debian: apt-get install wrk")
    with tempfile.TemporaryDirectory() as folder:
        for number, body in enumerate(bodies, 1):
            Path(folder, str(number)).write_bytes(body)
        script = Path(folder, "post.lua")
        words = {"method": "POST", "content_type": content_type, "folder": folder}
        script.write_text(_SCRIPT % {"count": len(bodies), **{name: json.dumps(word) for name, word in words.items()}})
        command = [wrk, "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "30s", "-s", str(script), url]
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60)
    found = json.loads(told.stdout.strip().splitlines()[-1])
    rate = found["requests"] / (found["us"] / 1e6)
    return Load(rate, found["p50"] / 1e6, found["p99"] / 1e6, found["max"] / 1e6, found["requests"], found["failed"])
