"""Before anything imports Ray: how its clusters are guarded, which Ray reads once and keeps."""

import os

os.environ.setdefault("RAY_AUTH_MODE", "token")
