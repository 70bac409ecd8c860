"""An HTTP/1.1 and WebSocket client on raw sockets that keeps what was on the wire.

Deliberately low level: conformance checks need to see framing, connection
aborts, response timing and to send half-finished requests.
"""
import base64
import json
import os
import select
import socket
import struct
import threading
import time
from urllib.parse import urlsplit

START = 2000  # bytes of an answer's body that are kept, for recordings
KEEP = 1 << 17  # bytes sent that are kept, for recordings


class Resp:
    def __init__(self):
        self.status = 0
        self.version = ""
        self.reason = ""
        self.headers = []
        self.body = b""
        self.framing = ""  # content-length | chunked | close | none
        self.complete = False  # properly terminated message
        self.error = ""  # "", "reset", "eof", "timeout"
        self.interim = []  # 1xx statuses seen
        self.t_head = self.t_first_body = self.t_end = 0.0
        self.keepalive = False
        self.body_len = 0
        self.start = b""  # of the body

    def h(self, name, default=None):
        for k, v in self.headers:
            if k.lower() == name.lower():
                return v
        return default

    def brief(self):
        return f"{self.status} {self.framing} len={self.body_len} complete={self.complete} err={self.error or '-'}"


class Conn:
    """One TCP connection. Records what was sent/received."""

    def __init__(self, url, timeout=20.0):
        u = urlsplit(url)
        self.hostport = u.netloc
        # Below which the server's own paths are.
        self.below = u.path.rstrip("/")
        self.sock = socket.create_connection((u.hostname, u.port), timeout=timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.timeout = timeout
        self.buf = b""
        self.sent = bytearray()
        self.sent_n = 0
        self.answers = []
        self.t0 = time.time()
        self.send_error = ""

    # -- send --------------------------------------------------------------
    def send(self, data):
        if len(self.sent) < KEEP:
            self.sent += data[: KEEP - len(self.sent)]
        self.sent_n += len(data)
        self.sock.sendall(data)

    def head(self, method, target, headers=(), version="HTTP/1.1"):
        if target.startswith("/"):
            target = self.below + target
        lines = [f"{method} {target} {version}", f"Host: {self.hostport}"]
        lines += [f"{k}: {v}" for k, v in headers]
        self.send(("\r\n".join(lines) + "\r\n\r\n").encode("latin1"))

    def send_chunked(self, it):
        for b in it:
            if b:
                self.send(b"%x\r\n" % len(b) + b + b"\r\n")
        self.send(b"0\r\n\r\n")

    # -- recv --------------------------------------------------------------
    def _more(self, n=1 << 18):
        d = self.sock.recv(n)
        if d:
            self.buf += d
        return d

    def readline(self):
        while b"\n" not in self.buf:
            if not self._more():
                return b""
        line, _, self.buf = self.buf.partition(b"\n")
        return line + b"\n"

    def readable(self, timeout):
        if self.buf:
            return True
        r, _, _ = select.select([self.sock], [], [], timeout)
        return bool(r)

    def read_head(self, method="GET"):
        """Parse status line + headers (skipping 1xx). Raises on abort."""
        r = Resp()
        while True:
            line = self.readline()
            if not line:
                r.error = "eof"
                return r
            parts = line.decode("latin1").rstrip().split(" ", 2)
            r.version, r.status = parts[0], int(parts[1])
            r.reason = parts[2] if len(parts) > 2 else ""
            r.headers = []
            while True:
                hl = self.readline()
                if hl in (b"\r\n", b"\n", b""):
                    break
                k, _, v = hl.decode("latin1").rstrip("\r\n").partition(":")
                r.headers.append((k, v.strip()))
            if 100 <= r.status < 200 and r.status != 101:
                r.interim.append(r.status)
                continue
            break
        r.t_head = time.time()
        self.answers.append(r)
        conn = (r.h("connection") or "").lower()
        r.keepalive = "close" not in conn and (r.version == "HTTP/1.1" or "keep-alive" in conn)
        if method == "HEAD" or r.status in (204, 304, 101):
            r.framing = "none"
        elif "chunked" in (r.h("transfer-encoding") or "").lower():
            r.framing = "chunked"
        elif r.h("content-length") is not None:
            r.framing = "content-length"
        else:
            r.framing = "close"
        return r

    def read_body(self, r, sink=None, limit=None, pace=None):
        """Read the body of r. sink(bytes) instead of accumulating; limit = stop after n bytes."""
        acc = bytearray()

        def feed(b):
            if b and not r.t_first_body:
                r.t_first_body = time.time()
            r.body_len += len(b)
            if len(r.start) < START:
                r.start += b[: START - len(r.start)]
            if sink:
                sink(b)
            else:
                acc.extend(b)
            if pace:
                time.sleep(pace)

        try:
            if r.framing == "none":
                r.complete = True
            elif r.framing == "content-length":
                left = int(r.h("content-length"))
                while left:
                    if not self.buf and not self._more():
                        r.error = "eof"
                        break
                    b, self.buf = self.buf[:left], self.buf[left:]
                    left -= len(b)
                    feed(b)
                    if limit and r.body_len >= limit:
                        break
                r.complete = left == 0
            elif r.framing == "chunked":
                while True:
                    line = self.readline()
                    if not line:
                        r.error = "eof"
                        break
                    try:
                        n = int(line.split(b";")[0].strip() or b"z", 16)
                    except ValueError:
                        r.error = "bad-chunk"
                        break
                    if n == 0:
                        while self.readline() not in (b"\r\n", b"\n", b""):
                            pass
                        r.complete = True
                        break
                    left = n
                    while left:
                        if not self.buf and not self._more():
                            r.error = "eof"
                            break
                        b, self.buf = self.buf[:left], self.buf[left:]
                        left -= len(b)
                        feed(b)
                    if left:
                        break
                    self.readline()
                    if limit and r.body_len >= limit:
                        break
            else:
                while True:
                    if not self.buf and not self._more():
                        r.complete = True
                        break
                    b, self.buf = self.buf, b""
                    feed(b)
                    if limit and r.body_len >= limit:
                        break
        except ConnectionResetError:
            r.error = "reset"
        except (TimeoutError, socket.timeout):
            r.error = "timeout"
        except OSError as e:
            r.error = repr(e)
        r.body = bytes(acc)
        r.t_end = time.time()
        return r

    def read(self, method="GET", **kw):
        try:
            r = self.read_head(method)
        except ConnectionResetError:
            r = Resp()
            r.error = "reset"
            return r
        except (TimeoutError, socket.timeout):
            r = Resp()
            r.error = "timeout"
            return r
        if r.error:
            return r
        return self.read_body(r, **kw)

    def request(self, method, target, headers=(), body=None, chunked=False, **kw):
        """Whole exchange. body: bytes | iterable (with chunked or explicit CL header)."""
        headers = list(headers)
        if isinstance(body, (bytes, bytearray)) and not chunked:
            if not any(k.lower() == "content-length" for k, _ in headers):
                headers.append(("Content-Length", len(body)))
            if len(body) <= 65536:
                try:
                    self.head(method, target, headers)
                    self.send(bytes(body))
                except OSError as e:
                    self.send_error = repr(e)
                return self.read(method, **kw)
            it = (body[i : i + 262144] for i in range(0, len(body), 262144))
        else:
            if chunked:
                headers.append(("Transfer-Encoding", "chunked"))
            it = body if body is not None else ()
            if isinstance(it, (bytes, bytearray)):
                b = bytes(it)
                it = (b[i : i + 65536] for i in range(0, len(b), 65536))
        try:
            self.head(method, target, headers)
        except OSError as e:
            self.send_error = repr(e)

        def pump():
            try:
                if chunked:
                    self.send_chunked(it)
                else:
                    for b in it:
                        self.send(b)
            except OSError as e:
                self.send_error = repr(e)

        th = threading.Thread(target=pump, daemon=True)
        th.start()
        r = self.read(method, **kw)
        th.join(10)
        return r

    def rst(self):
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self):
        try:
            self.sock.close()
        except OSError:
            pass

    def __enter__(self):
        return self

    def __exit__(self, *a):
        self.close()


def call(url, method, target, headers=(), body=None, chunked=False, timeout=20.0, **kw):
    c = Conn(url, timeout)
    try:
        r = c.request(method, target, headers, body, chunked, **kw)
        r.conn = c
        return r
    finally:
        c.close()


# ---------------------------------------------------------------- WebSocket
class WS:
    """Bare RFC 6455 client: no extensions, explicit frames."""

    def __init__(self, url, path="/ws", timeout=20.0, headers=()):
        self.c = Conn(url, timeout)
        key = base64.b64encode(os.urandom(16)).decode()
        self.c.head("GET", path, [("Upgrade", "websocket"), ("Connection", "Upgrade"),
                                  ("Sec-WebSocket-Key", key), ("Sec-WebSocket-Version", "13"), *headers])
        self.resp = self.c.read_head()
        self.ok = self.resp.status == 101
        self.log = []

    def frame(self, opcode, payload, fin=True):
        n = len(payload)
        first = (0x80 if fin else 0) | opcode
        self.log.append((f">{first:02x}", n, payload[:200].decode("latin1")))
        h = bytearray([first])
        if n < 126:
            h.append(0x80 | n)
        elif n < 65536:
            h.append(0x80 | 126)
            h += struct.pack(">H", n)
        else:
            h.append(0x80 | 127)
            h += struct.pack(">Q", n)
        mask = os.urandom(4)
        h += mask
        if n:
            big = int.from_bytes(payload, "little")
            m = int.from_bytes((mask * (n // 4 + 1))[:n], "little")
            payload = (big ^ m).to_bytes(n, "little")
        self.c.send(bytes(h) + payload)

    def binary(self, b):
        self.frame(2, b)

    def text(self, s):
        self.frame(1, s.encode())

    def ctrl(self, **kw):
        self.binary(json.dumps(kw).encode())

    def _exact(self, n):
        while len(self.c.buf) < n:
            if not self.c._more():
                raise EOFError
        b, self.c.buf = self.c.buf[:n], self.c.buf[n:]
        return b

    def recv(self):
        """-> (kind, payload); kind in text|binary|ping|pong|close|eof|reset|timeout"""
        data, kind, frames = [], None, 0
        try:
            while True:
                b0, b1 = self._exact(2)
                n = b1 & 0x7F
                if n == 126:
                    n = struct.unpack(">H", self._exact(2))[0]
                elif n == 127:
                    n = struct.unpack(">Q", self._exact(8))[0]
                parts, left = [], n
                while left:
                    if not self.c.buf and not self.c._more():
                        raise EOFError
                    p, self.c.buf = self.c.buf[:left], self.c.buf[left:]
                    parts.append(p)
                    left -= len(p)
                payload = b"".join(parts)
                op = b0 & 0xF
                if op in (8, 9, 10):
                    k = {8: "close", 9: "ping", 10: "pong"}[op]
                    self.log.append(("<" + k, len(payload), payload[:200].decode("latin1")))
                    return k, payload
                frames += 1
                if op:
                    kind = {1: "text", 2: "binary"}.get(op, str(op))
                data.append(payload)
                if b0 & 0x80:
                    data = b"".join(data)
                    self.log.append((f"<{kind}", len(data), data[:200].decode("latin1")))
                    self.frames = frames
                    return kind, data
        except EOFError:
            self.log.append(("<eof", 0, ""))
            return "eof", b""
        except ConnectionResetError:
            self.log.append(("<reset", 0, ""))
            return "reset", b""
        except (TimeoutError, socket.timeout):
            self.log.append(("<timeout", 0, ""))
            return "timeout", b""

    def close(self):
        self.c.close()
