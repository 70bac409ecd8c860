"""The web servers of the Python SDK (aistore[etl]) with small transforms: what ours is compared with.

ETL_FAMILY (fastapi, flask or http) and ETL_ROLE say which.  As a module it has `fastapi_app` or `flask_app`; as a
script it calls the server's own start().
"""
import hashlib
import json
import os
import time
import zlib

FAMILY = os.environ.get("ETL_FAMILY", "fastapi")
ROLE = os.environ.get("ETL_ROLE", "echo")
HOST = os.environ.get("ETL_HOST", "127.0.0.1")
PORT = int(os.environ.get("ETL_PORT", "8000"))
CHUNK = int(os.environ.get("ETL_CHUNK", "65536"))

if FAMILY == "fastapi":
    from aistore.sdk.etl.webserver.fastapi_server import FastAPIServer as Base
elif FAMILY == "flask":
    from aistore.sdk.etl.webserver.flask_server import FlaskServer as Base
else:
    from aistore.sdk.etl.webserver.http_multi_threaded_server import (
        HTTPMultiThreadedServer as Base,
    )


def _bytes(data):
    if isinstance(data, str):
        with open(data, "rb") as f:
            return f.read()
    return data


class Echo(Base):
    def transform(self, data, path, etl_args):
        return _bytes(data)


class Md5(Base):
    def transform(self, data, path, etl_args):
        return hashlib.md5(_bytes(data)).hexdigest().encode()


class Upper(Base):
    def transform_stream(self, reader, path, etl_args):
        while True:
            chunk = reader.read(CHUNK)
            if not chunk:
                break
            yield chunk.upper()


class EchoStream(Base):
    def transform_stream(self, reader, path, etl_args):
        while True:
            chunk = reader.read(CHUNK)
            if not chunk:
                break
            yield chunk


class Md5Stream(Base):
    def transform_stream(self, reader, path, etl_args):
        h = hashlib.md5()
        while True:
            chunk = reader.read(CHUNK)
            if not chunk:
                break
            h.update(chunk)
        yield h.hexdigest().encode()


class Gzip(Base):
    def transform_stream(self, reader, path, etl_args):
        c = zlib.compressobj(1, zlib.DEFLATED, 31)
        while True:
            chunk = reader.read(CHUNK)
            if not chunk:
                break
            out = c.compress(chunk)
            if out:
                yield out
        yield c.flush()


class Probe(Base):
    """Buffered transform whose behaviour is chosen by etl_args."""

    def get_mime_type(self):
        return "application/x-probe"

    def transform(self, data, path, etl_args):
        cmd, _, arg = etl_args.partition(":")
        if cmd == "raise":
            raise ValueError(arg or "boom")
        if cmd == "raise-fnf":
            raise FileNotFoundError(2, "No such file or directory", arg or "/x/y")
        if cmd == "empty":
            return b""
        if cmd == "sleep":
            time.sleep(float(arg))
            return _bytes(data)
        if cmd == "size":
            return b"z" * int(arg)
        if cmd == "pass":
            return _bytes(data)
        info = {
            "path": path,
            "etl_args": etl_args,
            "type": type(data).__name__,
            "data": data if isinstance(data, str) else None,
            "len": len(data),
            "md5": hashlib.md5(_bytes(data)).hexdigest(),
        }
        return json.dumps(info).encode()


class ProbeStream(Base):
    """Streaming transform whose behaviour is chosen by etl_args."""

    def get_mime_type(self):
        return "application/x-probe"

    def transform_stream(self, reader, path, etl_args):
        cmd, _, arg = etl_args.partition(":")
        if cmd == "raise-before":
            raise ValueError(arg or "boom")
        if cmd in ("raise-after", "raise-os-after"):  # :<n bytes of output>
            n = int(arg)
            got = 0
            while got < n:
                c = reader.read(min(CHUNK, n - got))
                if not c:
                    break
                got += len(c)
                yield c
            if cmd == "raise-os-after":
                raise OSError(5, "Input/output error (simulated)")
            raise ValueError("boom-after")
        if cmd == "empty":
            while reader.read(CHUNK):
                pass
            return
        if cmd == "early":  # consume only n bytes of input, return them
            yield reader.read(int(arg))
            return
        if cmd == "ignore":  # never touch the input
            yield b"ignored"
            return
        if cmd == "first-then-sleep":  # one chunk, pause, rest
            yield reader.read(4)
            time.sleep(float(arg))
            while True:
                c = reader.read(CHUNK)
                if not c:
                    return
                yield c
        if cmd == "drain-then-yield":
            n = 0
            while True:
                c = reader.read(CHUNK)
                if not c:
                    break
                n += len(c)
            yield str(n).encode()
            return
        if cmd == "info":
            n = 0
            h = hashlib.md5()
            while True:
                c = reader.read(CHUNK)
                if not c:
                    break
                n += len(c)
                h.update(c)
            yield json.dumps(
                {
                    "path": path,
                    "etl_args": etl_args,
                    "type": "reader",
                    "data": None,
                    "len": n,
                    "md5": h.hexdigest(),
                }
            ).encode()
            return
        if cmd == "gen":  # produce n MiB regardless of the input
            blk = b"g" * (1 << 20)
            for _ in range(int(arg)):
                yield blk
            return
        if cmd == "readall":
            yield reader.read()
            return
        while True:
            c = reader.read(CHUNK)
            if not c:
                return
            yield c


ROLES = {
    "echo": Echo,
    "md5": Md5,
    "upper": Upper,
    "echo_stream": EchoStream,
    "md5_stream": Md5Stream,
    "gzip": Gzip,
    "probe": Probe,
    "probe_stream": ProbeStream,
}

server = ROLES[ROLE](host=HOST, port=PORT)
if FAMILY == "fastapi":
    fastapi_app = server.app
elif FAMILY == "flask":
    flask_app = server.app

if __name__ == "__main__":
    server.start()
