"""For all tests."""

import sys

# OpenVINO would report each import of it to its makers, from a process that is forked for that.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
