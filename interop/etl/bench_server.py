#!/usr/bin/env python3
"""A web server of AIStore's SDK in this one process: the Python side of `cargo xtask bench`.

bench_server.py fastapi|http ROLE TARGET_URL.  Says its port when it answers, and ends when its input does.
"""
import json
import os
import sys
import threading
import time
import urllib.request

from launch import free_port

family, role, target = sys.argv[1:4]
port = free_port()
os.environ.update(ETL_FAMILY=family, ETL_ROLE=role, ETL_PORT=str(port), AIS_TARGET_URL=target, DIRECT_PUT="true")

# The SDK logs to stdout.
out = os.fdopen(os.dup(1), "w")
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

import reference_app  # noqa: E402  reads the environment


def serve():
    if family == "fastapi":
        import uvicorn
        # As the SDK starts it.
        server = uvicorn.Server(uvicorn.Config(
            reference_app.fastapi_app, host="127.0.0.1", port=port, log_level="error", access_log=False,
            ws_max_size=17179869184, ws_ping_interval=0, ws_ping_timeout=86400))
        server.run()
    else:
        reference_app.server.start()


def announce():
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                break
        except OSError:
            time.sleep(0.05)
    print(json.dumps({"ready": True, "port": port}), file=out, flush=True)
    sys.stdin.read()
    os._exit(0)


# Servers want the main thread, for their signals.
threading.Thread(target=announce, daemon=True).start()
serve()
