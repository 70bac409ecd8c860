"""Starts and ends servers in processes of their own, by their process ids."""
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
PREFIX = "/v1/etl/_object/etl-x/s3cr3t"
READY_WITHIN = 60  # seconds


def prefixed(address):
    """AIS_TARGET_URL of a target at this address."""
    return f"http://{address}{PREFIX}"


def free_port():
    s = socket.socket()
    s.bind(("127.0.0.1", 0))
    p = s.getsockname()[1]
    s.close()
    return p


class Server:
    """One server in one role: `program` is ours or another's, otherwise the SDK of this interpreter is used."""

    def __init__(self, family, role, target_port, program=None, env=None, workers=1, threads=8):
        self.family, self.role = family, role
        e = {k: v for k, v in os.environ.items() if k.lower() not in ("http_proxy", "https_proxy")}
        e.update(
            AIS_TARGET_URL=prefixed(f"127.0.0.1:{target_port}"),
            DIRECT_PUT="true",
            AIS_DIRECT_PUT_RETRIES="1",
            PYTHONUNBUFFERED="1",
        )
        self.folder = tempfile.mkdtemp(prefix="etl-server-")
        self.log = open(os.path.join(self.folder, "log"), "w+b")
        if program:
            args = [program, "--role", role, "--listen", "127.0.0.1:0"]
            self._spawn(args, {**e, **(env or {})}, subprocess.PIPE)
            self.url = "http://" + self._said()["listen"]
            return
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        e.update(
            ETL_FAMILY="flask" if family.startswith("flask") else family,
            ETL_ROLE=role.replace("-", "_"),
            ETL_PORT=str(port),
            PYTHONPATH=HERE,
        )
        python = [sys.executable, "-m"]
        if family == "fastapi":
            args = python + ["uvicorn", "reference_app:fastapi_app", "--host", "127.0.0.1", "--port", str(port),
                             "--workers", str(workers), "--log-level", "info", "--ws-max-size", "17179869184",
                             "--ws-ping-interval", "0", "--ws-ping-timeout", "86400", "--no-access-log"]
        elif family == "flask":
            args = python + ["gunicorn", "reference_app:flask_app", "--bind", f"127.0.0.1:{port}",
                             "--workers", str(workers), "--threads", str(threads), "--log-level", "info"]
        else:  # SDK's own start(): werkzeug's development server, or the threaded one
            args = [sys.executable, os.path.join(HERE, "reference_app.py")]
        self._spawn(args, {**e, **(env or {})}, self.log)
        self._answers()

    def _spawn(self, args, env, stdout):
        self.proc = subprocess.Popen(args, cwd=self.folder, env=env, stdin=subprocess.DEVNULL, stdout=stdout,
                                     stderr=self.log, start_new_session=True)

    def _last_words(self):
        self.log.seek(0)
        return f"{self.family}/{self.role}: " + self.log.read()[-2000:].decode("utf-8", "replace")

    def _said(self):
        """Its ready line."""
        if select.select([self.proc.stdout], [], [], READY_WITHIN)[0]:
            line = self.proc.stdout.readline()
            if line:
                return json.loads(line)
        raise RuntimeError("is not ready: " + self._last_words())

    def _answers(self):
        end = time.time() + READY_WITHIN
        while time.time() < end:
            if self.proc.poll() is not None:
                raise RuntimeError("ended: " + self._last_words())
            try:
                with urllib.request.urlopen(self.url + "/health", timeout=2) as r:
                    if r.status == 200:
                        return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError("is not ready: " + self._last_words())

    def pids(self):
        """This server's own process tree."""
        out, todo = [], [self.proc.pid]
        while todo:
            p = todo.pop()
            out.append(p)
            try:
                for t in os.listdir(f"/proc/{p}/task"):
                    with open(f"/proc/{p}/task/{t}/children") as f:
                        todo += [int(x) for x in f.read().split()]
            except OSError:
                pass
        return out

    def stop(self):
        for p in reversed(self.pids()):
            try:
                os.kill(p, signal.SIGTERM)
            except OSError:
                pass
        try:
            self.proc.wait(8)
        except subprocess.TimeoutExpired:
            for p in self.pids():
                try:
                    os.kill(p, signal.SIGKILL)
                except OSError:
                    pass
            self.proc.wait(5)
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)
