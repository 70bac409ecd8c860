"""A scriptable AIS target on raw sockets, at a free port.

Plays three parts:
  * the *source* target:       GET  <prefix>/<uname>            -> object bytes
  * the *destination* target:  PUT  <prefix>/<uname>?uuid&owt   -> 200, empty body
  * a *next pipeline stage*:   PUT  /<bucket>/<object>          -> 200 + body, 204, 5xx ...

Every request is recorded byte-exactly (request target, header list in wire
order, framing, body digest).  What to answer is scripted with `on()`.
"""
import hashlib
import select
import socket
import struct
import threading
import time
from collections import namedtuple

KEEP_BODY = 1 << 20  # bodies up to this size are kept verbatim


class Record:
    """One recorded request."""

    def __init__(self):
        self.method = self.target = self.version = ""
        self.headers = []  # list of (name, value), wire order, original case
        self.framing = "none"  # none | content-length | chunked
        self.body = b""
        self.body_len = 0
        self.md5 = ""
        self.conn_id = 0
        self.complete = False  # whole body arrived
        self.t_start = self.t_first_body = self.t_end = 0.0
        self.chunk_count = 0
        self.error = ""
        self.did = ""

    def h(self, name, default=None):
        name = name.lower()
        for k, v in self.headers:
            if k.lower() == name:
                return v
        return default

    @property
    def path(self):
        return self.target.split("?", 1)[0]

    @property
    def query(self):
        return self.target.split("?", 1)[1] if "?" in self.target else ""

    def as_dict(self):
        return {
            "method": self.method,
            "target": self.target,
            "version": self.version,
            "headers": self.headers,
            "framing": self.framing,
            "body_len": self.body_len,
            "body_md5": self.md5,
            "body": self.body.decode("latin1") if self.body_len <= 4096 else None,
            "conn_id": self.conn_id,
            "complete": self.complete,
            "chunks": self.chunk_count,
            "error": self.error,
            "did": self.did,
        }


# An action is a callable (conn, record, read_body) or one of these helpers.
Reply = namedtuple("Reply", "status headers body chunked close delay early")


def reply(status=200, body=b"", headers=None, chunked=False, close=False, delay=0.0, early=False):
    """Ordinary answer. early=True answers before the request body is read."""
    return Reply(status, list((headers or {}).items()), body, chunked, close, delay, early)


def described(act):
    body = act.body
    return {"status": act.status, "headers": act.headers, "chunked": act.chunked, "body_len": len(body),
            "body": body[:300].decode("latin1")}


RESET_BEFORE_BODY = "reset-before-body"  # RST once the headers are in
RESET_MID_BODY = "reset-mid-body"  # RST after the first body bytes
CLOSE_NO_RESPONSE = "close-no-response"  # read the whole body, then FIN
TRUNCATED_RESPONSE = "truncated-response"  # 200, Content-Length 100, 10 bytes, FIN
GARBAGE_RESPONSE = "garbage-response"  # not HTTP at all
STALL = "stall"  # read headers, never read the body, never answer
SLOW_READ = "slow-read"  # read the body slowly, then 200
ECHO_STREAM = "echo-stream"  # a streaming next stage: 200, every piece is sent back as soon as it is read

REASONS = {200: "OK", 201: "Created", 204: "No Content", 206: "Partial Content",
           301: "Moved Permanently", 307: "Temporary Redirect", 400: "Bad Request",
           403: "Forbidden", 404: "Not Found", 409: "Conflict", 416: "Range",
           500: "Internal Server Error", 502: "Bad Gateway", 503: "Service Unavailable",
           507: "Insufficient Storage"}


class FakeTarget:
    def __init__(self, port=0, host="127.0.0.1"):
        self.host = host
        self.lock = threading.Lock()
        self.records = []
        self.rules = []  # (substring, [actions]); last action is sticky
        self.objects = {}  # substring -> bytes | callable generator
        self.conn_seq = 0
        self.stop_evt = threading.Event()
        self.lsock = socket.socket()
        self.lsock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.lsock.bind((host, port))
        self.lsock.listen(256)
        self.port = self.lsock.getsockname()[1]
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()

    @property
    def url(self):
        return f"http://{self.host}:{self.port}"

    # -- scripting ---------------------------------------------------------
    def on(self, substr, *actions):
        """Requests whose target contains `substr` get these answers in turn."""
        with self.lock:
            self.rules.insert(0, [substr, list(actions)])

    def put_object(self, substr, data):
        with self.lock:
            self.objects[substr] = data

    def reset(self):
        with self.lock:
            self.rules.clear()
            self.objects.clear()
            self.records.clear()

    def find(self, substr, method=None):
        with self.lock:
            return [r for r in self.records if substr in r.target and (not method or r.method == method)]

    def wait_for(self, substr, n=1, timeout=10.0, method=None, complete=True):
        end = time.time() + timeout
        while time.time() < end:
            recs = self.find(substr, method)
            done = [r for r in recs if (r.t_end or not complete)]
            if len(done) >= n:
                return done
            time.sleep(0.01)
        return self.find(substr, method)

    def close(self):
        self.stop_evt.set()
        try:
            self.lsock.close()
        except OSError:
            pass

    # -- plumbing ----------------------------------------------------------
    def _accept(self):
        while not self.stop_evt.is_set():
            try:
                r, _, _ = select.select([self.lsock], [], [], 0.2)
                if not r:
                    continue
                conn, _ = self.lsock.accept()
            except OSError:
                return
            with self.lock:
                self.conn_seq += 1
                cid = self.conn_seq
            threading.Thread(target=self._serve, args=(conn, cid), daemon=True).start()

    def _action_for(self, target):
        with self.lock:
            for rule in self.rules:
                if rule[0] in target:
                    acts = rule[1]
                    return acts.pop(0) if len(acts) > 1 else acts[0]
        return None

    def _object_for(self, target):
        with self.lock:
            for k, v in self.objects.items():
                if k in target:
                    return v
        return None

    @staticmethod
    def _rst(conn):
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        conn.close()

    def _serve(self, conn, cid):
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        f = conn.makefile("rb", buffering=1 << 18)
        try:
            while not self.stop_evt.is_set():
                if not self._one(conn, f, cid):
                    break
        except (OSError, ValueError):
            pass
        finally:
            try:
                f.close()
                conn.close()
            except OSError:
                pass

    def _one(self, conn, f, cid):
        line = f.readline(65536)
        if not line.strip():
            return False
        rec = Record()
        rec.conn_id = cid
        rec.t_start = time.time()
        parts = line.decode("latin1").rstrip("\r\n").split(" ")
        rec.method, rec.target, rec.version = parts[0], parts[1], parts[-1]
        while True:
            hl = f.readline(65536)
            if hl in (b"\r\n", b"\n", b""):
                break
            k, _, v = hl.decode("latin1").rstrip("\r\n").partition(":")
            rec.headers.append((k, v.strip()))
        te = (rec.h("transfer-encoding") or "").lower()
        cl = rec.h("content-length")
        rec.framing = "chunked" if "chunked" in te else ("content-length" if cl is not None else "none")
        with self.lock:
            self.records.append(rec)
        act = self._action_for(rec.target)
        if act is None:
            act = self._default(rec)
        rec.did = act if isinstance(act, str) else described(act)
        if (rec.h("expect") or "").lower() == "100-continue" and act not in (RESET_BEFORE_BODY, STALL):
            conn.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")

        md5 = hashlib.md5()
        keep = bytearray()

        def feed(b):
            if not rec.t_first_body:
                rec.t_first_body = time.time()
            rec.body_len += len(b)
            md5.update(b)
            if len(keep) < KEEP_BODY:
                keep.extend(b[: KEEP_BODY - len(keep)])

        def body_iter(slow=0.0):
            if rec.framing == "chunked":
                while True:
                    sz = f.readline(1024)
                    if not sz:
                        raise ConnectionError("eof in chunk header")
                    n = int(sz.split(b";")[0].strip() or b"0", 16)
                    if n == 0:
                        while f.readline(65536) not in (b"\r\n", b"\n", b""):
                            pass
                        rec.complete = True
                        return
                    rec.chunk_count += 1
                    left = n
                    while left:
                        b = f.read(min(left, 1 << 18))
                        if not b:
                            raise ConnectionError("eof in chunk")
                        left -= len(b)
                        feed(b)
                        yield
                        if slow:
                            time.sleep(slow)
                    f.readline(8)
            else:
                left = int(cl or 0)
                while left:
                    b = f.read(min(left, 1 << 18))
                    if not b:
                        raise ConnectionError("eof in body")
                    left -= len(b)
                    feed(b)
                    yield
                    if slow:
                        time.sleep(slow)
                rec.complete = True

        def finish():
            rec.body = bytes(keep)
            rec.md5 = md5.hexdigest()
            rec.t_end = time.time()

        try:
            if act == RESET_BEFORE_BODY:
                self._rst(conn)
                return False
            if act == STALL:
                self.stop_evt.wait(60)
                return False
            if act == RESET_MID_BODY:
                for _ in body_iter():
                    break
                self._rst(conn)
                return False
            if isinstance(act, Reply) and act.early:
                self._answer(conn, rec, act)
                return False
            if act == ECHO_STREAM:
                conn.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                blk = b"e" * (1 << 18)
                done = 0
                for _ in body_iter():
                    n = rec.body_len - done
                    done = rec.body_len
                    if n:
                        conn.sendall(b"%x\r\n" % n + blk[:n] + b"\r\n")
                conn.sendall(b"0\r\n\r\n")
                return False
            for _ in body_iter(0.01 if act == SLOW_READ else 0.0):
                pass
        except (ConnectionError, OSError, ValueError) as e:
            rec.error = repr(e)
            return False
        finally:
            finish()
        if act == CLOSE_NO_RESPONSE:
            return False
        if act == TRUNCATED_RESPONSE:
            conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789")
            return False
        if act == GARBAGE_RESPONSE:
            conn.sendall(b"\x00\x01garbage not http\r\n\r\n")
            return False
        if act == SLOW_READ:
            act = reply(200)
        if callable(act):
            act = act(rec)
        return self._answer(conn, rec, act)

    def _default(self, rec):
        if rec.method in ("GET", "HEAD"):
            data = self._object_for(rec.target)
            if data is None:
                return reply(404, b"object not found")
            return reply(200, data, {"Content-Type": "application/octet-stream"})
        return reply(200)  # what a real target answers to a direct PUT

    @staticmethod
    def _answer(conn, rec, act):
        if act.delay:
            time.sleep(act.delay)
        head = [f"HTTP/1.1 {act.status} {REASONS.get(act.status, 'X')}"]
        body = act.body
        gen = None
        if callable(body):
            gen = body
        for k, v in act.headers:
            head.append(f"{k}: {v}")
        names = {k.lower() for k, _ in act.headers}
        if gen is not None or act.chunked:
            head.append("Transfer-Encoding: chunked")
        elif act.status not in (204, 304) and "content-length" not in names:
            head.append(f"Content-Length: {len(body)}")
        if act.close:
            head.append("Connection: close")
        conn.sendall(("\r\n".join(head) + "\r\n\r\n").encode("latin1"))
        if rec.method == "HEAD" or act.status in (204, 304):
            return not act.close
        try:
            if gen is not None:
                for b in gen():
                    conn.sendall(b"%x\r\n" % len(b) + b + b"\r\n")
                conn.sendall(b"0\r\n\r\n")
            elif act.chunked:
                for i in range(0, len(body), 65536):
                    b = body[i : i + 65536]
                    conn.sendall(b"%x\r\n" % len(b) + b + b"\r\n")
                conn.sendall(b"0\r\n\r\n")
            elif body:
                conn.sendall(body)
        except OSError:
            return False
        return not act.close

