"""The sidecar's face: an ASGI application over one follower, and a short way into it for small requests.

========================================  ========================================================================
POST /invocations                         MLflow's scoring protocol, or rows as an Arrow IPC stream
POST /v2/models/{flow}/infer              the Open Inference Protocol; also `/v2`, `/v2/models/{flow}`, `.../ready`,
                                          and under `.../versions/{version}` for the version that is served
GET /ping, /health, /v2/health/ready      200 if and only if a verified model is loaded
GET /v2/health/live                       200 while the follower follows
GET /                                     the page: version, swaps, traffic and live figures, for people
GET /version, /status                     the served version; everything the sidecar knows, for programs
GET /metrics                              for Prometheus
GET /docs, /openapi.json                  this table, with every body and answer
========================================  ========================================================================

A request reads the current model once and is answered by it alone; `X-Model-Version` says which it was.
"""

from serving.http.application import Sidecar
from serving.http.replies import Reply

__all__ = ["Reply", "Sidecar"]
