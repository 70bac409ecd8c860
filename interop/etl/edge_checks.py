"""Further checks of the same contract: its corners, memory, load, and the rest of the WebSocket face."""
import hashlib
import json
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs, unquote, urlsplit

import fake_target as ft
from conformance import DPL, NODE, PREFIX, RETRY, Skip, call, check, eq, need, one_of, rnd, rss_kb, settle, ws_open
from fake_target import reply
from raw_http import Conn


# =============================================================== A. health, methods, routing
@check("MUST", "echo")
def a02_health_keeps_connection(e):
    """The readiness probe and the target may use one connection many times."""
    c = Conn(e.u("echo"), 5)
    try:
        for _ in range(3):
            r = c.request("GET", "/health")
            eq((r.status, r.body), (200, b"Running"), "GET /health")
            if not r.keepalive:
                return "one request per connection"
        return "kept"
    finally:
        c.close()


@check("COMPAT", "echo")
def a05_post_rejected(e):
    r = call(e.u("echo"), "POST", "/src/o", body=b"x")
    one_of(r.status, (405, 501), "POST")
    return f"{r.status}, Allow: {r.h('allow')}"


# =============================================================== B. push
@check("MUST", "echo")
def b04_keep_alive_many(e):
    c = Conn(e.u("echo"), 10)
    try:
        for i in range(20):
            d = b"%d" % i * (i * 3)
            r = c.request("PUT", f"/src/ka{i}", [], d)
            eq((r.status, r.body), (200, d), f"request {i}")
            if not r.keepalive:
                return "one request per connection"
        return "20 requests over one connection"
    finally:
        c.close()


@check("MUST", "echo")
def b05_put_without_length_is_empty(e):
    r = call(e.u("echo"), "PUT", f"/src/{e.name()}")
    eq((r.status, r.body, r.complete), (200, b"", True), "neither Content-Length nor chunked")


@check("COMPAT", "probe")
def b14_etl_args_repeated(e):
    r = e.put("probe", e.name(), b"d", "etl_args=first&etl_args=second")
    v = json.loads(r.body)["etl_args"]
    one_of(v, ("first", "second"), "one of the two")
    return v


@check("MUST", "probe")
def b15_unknown_parameters_ignored(e):
    r = e.put("probe", e.name(), b"d", "foo=1&&=&latest-ver=true&etl_args=x&%zz")
    eq((r.status, json.loads(r.body)["etl_args"]), (200, "x"), "unknown parameters")


@check("MUST", "probe")
def b18_content_length_of_results(e):
    for n in (0, 1, 70000, 3 << 20):
        r = e.put("probe", e.name(), b"d", f"etl_args=size:{n}")
        eq((r.framing, r.h("content-length"), r.body_len), ("content-length", str(n), n), "a buffered result has its length")


@check("COMPAT", "probe")
def b21_error_format(e):
    r = e.put("probe", e.name(), b"d", "etl_args=raise:the-reason")
    eq(r.status, 500, "transform raised")
    return f"{r.h('content-type')} {r.body[:80]!r}"


@check("MUST", "probe")
def b24_connection_survives_errors(e):
    c = Conn(e.u("probe"), 5)
    try:
        r = c.request("PUT", "/src/x?etl_args=raise:first", [], b"d" * 5000)
        eq(r.status, 500, "error")
        if not r.keepalive:
            return "closed after the error"
        r = c.request("PUT", "/src/x?etl_args=pass", [], b"after")
        eq((r.status, r.body), (200, b"after"), "the next request on that connection")
        return "kept"
    finally:
        c.close()


@check("COMPAT", "echo")
def b26_long_header_and_query(e):
    r = e.put("echo", e.name(), b"x", "etl_args=" + "a" * 50000, headers=[("X-Long", "h" * 50000)])
    one_of(r.status, (200, 400, 414, 431), "long line and header")
    e.alive("echo")
    return str(r.status)


# =============================================================== C. FQN
@check("MUST", "echo")
def c01_fqn_double_escaped(e):
    """Exactly what the Go target sends: QueryEscape(PathEscape(fqn)), empty body."""
    p = e.file("sub dir/pla%in.bin", b"from-file")
    r = e.put("echo", e.name(), b"", e.fqn_q(p))
    eq((r.status, r.body, r.h("content-length")), (200, b"from-file", "9"), "double-escaped FQN")


@check("COMPAT", "echo")
def c11_fqn_symlink(e):
    p = e.file("real.bin", b"behind the link")
    link = os.path.join(e.tmp, "link.bin")
    os.symlink(p, link)
    r = e.put("echo", e.name(), b"", e.fqn_q(link))
    one_of(r.status, (200, 400, 403, 404, 500), "symlink")
    need(r.status != 200 or r.body == b"behind the link", "another file's bytes")
    return f"{r.status}"


@check("MUST", "echo")
def c17_fqn_large_file(e):
    d = rnd(8 << 20, 17)
    p = e.file("large.bin", d)
    r = e.put("echo", e.name(), b"", e.fqn_q(p), timeout=60)
    eq((r.status, r.complete, hashlib.md5(r.body).hexdigest()), (200, True, hashlib.md5(d).hexdigest()), "8 MiB file")


# =============================================================== D. pull
@check("MUST", "echo")
def d02_get_plain_path(e):
    o = e.name("plain")
    e.t.put_object(o, b"plain path")
    r = call(e.u("echo"), "GET", f"/src/{o}")
    eq((r.status, r.body), (200, b"plain path"), "GET /<bucket>/<object>")
    return e.t.find(o)[0].target[len(PREFIX):].replace(o, "<obj>")


@check("MUST", "down")
def d06_upstream_refused_502(e):
    r = e.get("down", "ais/@#/src/o")
    eq(r.status, 502, "the target refuses connections")
    need(b"s3cr3t" not in r.body, "the secret of AIS_TARGET_URL is in the error")
    return f"{r.body[:100]!r}"


@check("SAFE", "echo")
def d08_upstream_truncated_buffered(e):
    o = e.name("btrunc")
    e.t.on(o, ft.TRUNCATED_RESPONSE)
    r = e.get("echo", f"ais/@#/src/{o}")
    eq(r.status, 502, "a truncated source")


@check("MUST", "echo")
def d12_upstream_chunked(e):
    o = e.name("uchunk")
    d = rnd(300000, 12)
    e.t.on(o, reply(200, d, chunked=True))
    r = e.get("echo", f"ais/@#/src/{o}")
    eq((r.status, r.body), (200, d), "a chunked source")


@check("MUST", "echo")
def d14_upstream_empty(e):
    o = e.name("uempty")
    e.t.put_object(o, b"")
    r = e.get("echo", f"ais/@#/src/{o}")
    eq((r.status, r.body, r.complete), (200, b"", True), "an empty source")


# =============================================================== E. direct put and pipelines
@check("MUST", "echo")
def e01_direct_put(e):
    o = e.name("dp")
    r = e.put("echo", "s1", b"payload", headers=[(NODE, e.node(o))])
    eq((r.status, r.body, r.h(DPL)), (204, b"", "7"), "204 and the length")
    rec = e.t.find(o)[0]
    eq((rec.method, unquote(rec.path)), ("PUT", f"{PREFIX}/ais/@#/dst/{o}"), "where")
    eq((rec.body, rec.complete), (b"payload", True), "what")


@check("MUST", "echo")
def e03_direct_put_request(e):
    o = e.name("dpr")
    e.put("echo", "s1", b"payload", headers=[(NODE, e.node(o))])
    rec = e.t.find(o)[0]
    eq(rec.h(NODE), None, "no Ais-Node-Url towards the last hop")
    eq((rec.framing, rec.h("content-length")), ("content-length", "7"), "a buffered result goes out with its length")
    eq(parse_qs(rec.query), {"owt": ["3"], "uuid": ["xid-1"]}, "query of the hop")


@check("MUST", "echo")
def e06_dest_204_with_length(e):
    o = e.name("d204")
    e.t.on(o, reply(204, headers={DPL: "12345"}))
    r = e.put("echo", "s1", b"p", headers=[(NODE, e.node(o))])
    eq((r.status, r.h(DPL)), (204, "12345"), "the next stage's length is passed on")


@check("COMPAT", "echo")
def e10_dest_200_chunked_empty(e):
    o = e.name("d200ce")
    e.t.on(o, reply(200, b"", chunked=True))
    r = e.put("echo", "s1", b"p", headers=[(NODE, e.node(o))])
    one_of(r.status, (204, 200), "chunked and empty")
    return f"{r.status} {DPL}={r.h(DPL)}"


@check("COMPAT", "echo")
def e14_dest_retry_reason(e):
    """A 503 with a retry reason from stage 2: does stage 1 pass the reason on?"""
    o = e.name("d503r")
    e.t.on(o, reply(503, b"again", headers={RETRY: "direct-put-transient"}))
    r = e.put("echo", "s1", b"p", headers=[(NODE, e.node(o))])
    eq((r.status, r.body), (503, b"again"), "passed through")
    return f"{RETRY}: {r.h(RETRY)}"


@check("MUST", "upper")
def e20_stream_fqn_retries_locally(e):
    p, o = e.file("sfr.bin", b"abc" * 1000), e.name("sfr")
    e.t.on(o, ft.CLOSE_NO_RESPONSE, reply(200))
    r = e.put("upper", "s1", b"", e.fqn_q(p), headers=[(NODE, e.node(o))])
    eq((r.status, r.h(DPL)), (204, "3000"), "the file is read again")
    eq(e.t.find(o)[-1].body, b"ABC" * 1000, "and whole")


@check("MUST", "upper")
def e26_stream_dest_garbage_503(e):
    o = e.name("sgar")
    e.t.on(o, ft.GARBAGE_RESPONSE)
    r = e.put("upper", "s1", b"abc", headers=[(NODE, e.node(o))])
    eq((r.status, r.h(RETRY)), (503, "direct-put-transient"), "not an HTTP answer, one-shot body")


@check("MUST", "echo")
def e32_fqn_not_forwarded(e):
    o = e.name("nofqn")
    p = e.file("nofqn.bin", b"nf")
    e.t.on(o, reply(200, b"st"))
    r = e.put("echo", o, b"", e.fqn_q(p) + "&etl_args=a", headers=[(NODE, f"http://127.0.0.1:{e.tport}")])
    eq((r.status, r.body), (200, b"st"), "next stage's output")
    rec = e.t.find(o)[0]
    eq((rec.body, parse_qs(rec.query)), (b"nf", {"etl_args": ["a"]}), "etl_fqn stays here")


def _never_wrong(e, tag, put):
    d = b"abcdefgh" * 400000
    for first in (ft.CLOSE_NO_RESPONSE, ft.RESET_BEFORE_BODY, ft.RESET_MID_BODY, ft.GARBAGE_RESPONSE):
        o = e.name(tag)
        e.t.on(o, first, reply(200))
        r = put(o, d)
        bad = [x.body_len for x in e.t.find(o) if x.complete and x.md5 != hashlib.md5(d.upper()).hexdigest()]
        need(not bad, f"after {first}: the destination accepted a wrong object of {bad} bytes; client told {r.status} {DPL}={r.h(DPL)}")
        eq((r.status, r.h(DPL)), (204, str(len(d))), f"answer after {first}")


@check("SAFE", "upper")
def e46_stream_fqn_retry_whole(e):
    """A retry of a file's stream starts at the beginning of the file."""
    def put(o, d):
        return e.put("upper", "s1", b"", e.fqn_q(e.file("whole.bin", d)), headers=[(NODE, e.node(o))], timeout=60)
    _never_wrong(e, "sfw", put)


@check("SAFE", "upper")
def e47_stream_get_retry_whole(e):
    """A retry of a fetched source fetches it again."""
    def put(o, d):
        src = e.name("sgwsrc")
        e.t.put_object(src, d)
        return e.get("upper", f"ais/@#/src/{src}", headers=[(NODE, e.node(o))], timeout=60)
    _never_wrong(e, "sgw", put)


# =============================================================== F. streaming
@check("COMPAT", "probe-stream")
def f06_status_with_first_chunk(e):
    """Nothing is sent before the transform has produced something."""
    c = Conn(e.u("probe-stream"), 10)
    try:
        c.head("PUT", f"/src/{e.name()}?etl_args=drain-then-yield", [("Content-Length", 100000)])
        c.send(b"x" * 50000)
        early = c.readable(0.5)
        c.send(b"x" * 50000)
        r = c.read("PUT")
        eq((r.status, r.body), (200, b"100000"), "result")
        return f"status line before the first output: {early}"
    finally:
        c.close()


@check("COMPAT", "probe-stream")
def f10_keep_alive_after_early_exit(e):
    c = Conn(e.u("probe-stream"), 10)
    try:
        r = c.request("PUT", f"/src/{e.name()}?etl_args=early:10", [], b"x" * 200000)
        eq((r.status, r.body, r.complete), (200, b"x" * 10, True), "early exit")
        if not r.keepalive:
            return "closed"
        try:
            r = c.request("PUT", f"/src/{e.name()}?etl_args=info", [], b"abc")
        except OSError:
            return "closed without saying so"
        if not r.status:
            return "closed without saying so"
        eq(json.loads(r.body)["len"], 3, "the unread rest is not taken for the next request")
        return "kept"
    finally:
        c.close()


@check("SAFE", "upper")
def f13_short_request_body_streaming(e):
    o = e.name("shorts")
    c = Conn(e.u("upper"), 5)
    c.head("PUT", "/src/s1", [("Content-Length", 1000000), (NODE, e.node(o))])
    c.send(b"x" * 300000)
    time.sleep(0.2)
    c.close()
    recs = settle(e, o)
    need(not any(x.complete for x in recs), f"destination got a complete object of {[x.body_len for x in recs if x.complete]} bytes")
    e.alive("upper")
    return "nothing delivered" if not recs else f"incomplete PUT ({recs[0].body_len} bytes, aborted)"


def _peak(e, role, act):
    pids = e.pid.get(role)
    if not pids:
        raise Skip(f"no process id for {role}")
    base = peak = rss_kb(pids)
    done = threading.Event()
    th = threading.Thread(target=lambda: (act(), done.set()), daemon=True)
    th.start()
    while not done.wait(0.1):
        peak = max(peak, rss_kb(pids))
    grow = (max(peak, rss_kb(pids)) - base) / 1024
    need(grow < 64, f"RSS grew by {grow:.0f} MiB")
    return f"RSS growth {grow:.1f} MiB"


@check("SAFE", "probe-stream")
def f15_flat_memory_generated_output(e):
    """256 MiB of output from a small input."""
    def act():
        r = e.put("probe-stream", e.name(), b"x", "etl_args=gen:256", sink=lambda b: None, timeout=120)
        eq((r.body_len, r.complete), (256 << 20, True), "generated")
    return _peak(e, "probe-stream", act)


@check("SAFE", "probe-stream")
def f16_flat_memory_stalled_client(e):
    """A client that does not read stops the transform."""
    def act():
        c = Conn(e.u("probe-stream"), 10)
        c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        c.head("PUT", f"/src/{e.name()}?etl_args=gen:1024", [("Content-Length", 1)])
        c.send(b"x")
        time.sleep(1.5)
        c.rst()
    seen = _peak(e, "probe-stream", act)
    e.alive("probe-stream")
    return seen


@check("SAFE", "probe-stream")
def f17_flat_memory_stalled_destination(e):
    """A destination that does not read stops the transform."""
    o = e.name("stall")
    e.t.on(o, ft.STALL)

    def act():
        c = Conn(e.u("probe-stream"), 10)
        c.head("PUT", "/src/s1?etl_args=gen:1024", [("Content-Length", 1), (NODE, e.node(o))])
        c.send(b"x")
        time.sleep(1.5)
        c.rst()
    seen = _peak(e, "probe-stream", act)
    e.alive("probe-stream")
    return seen


# =============================================================== G. load behaviour
@check("COMPAT", "upper")
def g03_half_sent_uploads(e):
    """64 uploads that stop half-way: does /health answer, and does another upload get through?"""
    conns = []
    try:
        for i in range(64):
            c = Conn(e.u("upper"), 5)
            c.head("PUT", f"/src/half{i}", [("Content-Length", 1000)])
            c.send(b"x" * 500)
            conns.append(c)
        time.sleep(0.3)
        t = time.time()
        try:
            health = f"{call(e.u('upper'), 'GET', '/health', timeout=3).status} after {time.time() - t:.2f} s"
        except OSError as x:
            health = repr(x)
        t = time.time()
        try:
            r = e.put("upper", e.name(), b"abc", timeout=3)
            other = f"{r.status} {r.error} after {time.time() - t:.2f} s"
        except OSError as x:
            other = repr(x)
        return f"/health {health}; another upload {other}"
    finally:
        for c in conns:
            c.close()
        time.sleep(0.3)


@check("COMPAT", "echo")
def g04_64_quick_connects(e):
    """The start-up probe of the target: connections closed without a byte."""
    t = time.time()

    def one(_):
        try:
            socket.create_connection(("127.0.0.1", urlsplit(e.u("echo")).port), timeout=10).close()
            return True
        except OSError:
            return False
    with ThreadPoolExecutor(64) as ex:
        res = list(ex.map(one, range(64)))
    e.alive("echo")
    return f"{res.count(True)} of 64 in {time.time() - t:.2f} s"


# =============================================================== W. WebSocket
@check("MUST", "echo")
def w01_ws_echo(e):
    w = ws_open(e)
    try:
        w.ctrl(path="o")
        w.binary(b"hello")
        eq(w.recv(), ("binary", b"hello"), "reply")
    finally:
        w.close()


@check("MUST", "echo")
def w04_ws_direct_put(e):
    w = ws_open(e)
    try:
        o = e.name("wsdp")
        w.ctrl(path="o", pipeline=e.node(o), etl_args="aa")
        w.binary(b"to-dest")
        k, v = w.recv()
        eq(k, "text", "handled by direct put")
        rec = e.t.find(o)[0]
        eq((rec.body, parse_qs(rec.query)["etl_args"]), (b"to-dest", ["aa"]), "delivered")
        return repr(v)
    finally:
        w.close()


@check("MUST", "echo")
def w10_ws_fragmented(e):
    w = ws_open(e)
    try:
        w.ctrl(path="o")
        w.frame(2, b"frag", fin=False)
        w.frame(9, b"ping between")
        w.frame(0, b"", fin=False)
        w.frame(0, b"mented", fin=False)
        w.frame(0, b"!", fin=True)
        got = [w.recv(), w.recv()]
        eq(sorted(got), sorted([("pong", b"ping between"), ("binary", b"fragmented!")]), "fragments and a ping among them")
    finally:
        w.close()


@check("MUST", "echo")
def w11_ws_48mib(e):
    w = ws_open(e)
    try:
        d = rnd(48 << 20, 11)
        w.ctrl(path="o")
        th = threading.Thread(target=lambda: w.binary(d), daemon=True)
        th.start()
        k, v = w.recv()
        th.join(30)
        eq((k, hashlib.md5(v).hexdigest()), ("binary", hashlib.md5(d).hexdigest()), "48 MiB message")
    finally:
        w.close()


@check("COMPAT", "echo")
def w12_ws_bad_pipeline(e):
    w = ws_open(e)
    try:
        w.ctrl(path="o", pipeline="http://127.0.0.1:1,,http://b:2")
        w.binary(b"x")
        k, v = w.recv()
        if k != "text":
            return k
        w.ctrl(path="o")
        w.binary(b"after")
        eq(w.recv(), ("binary", b"after"), "the next object")
        return f"text {v[:60]!r}; connection usable afterwards"
    finally:
        w.close()


@check("MUST", "echo")
def w15_ws_empty_object(e):
    w = ws_open(e)
    try:
        w.ctrl(path="o")
        w.binary(b"")
        eq(w.recv(), ("binary", b""), "an empty object")
        w.ctrl(path="o")
        w.binary(b"next")
        eq(w.recv(), ("binary", b"next"), "the next one")
    finally:
        w.close()


@check("COMPAT", "upper")
def w17_ws_streaming_transform(e):
    w = ws_open(e, "upper")
    try:
        w.ctrl(path="o")
        w.binary(b"abc")
        k, v = w.recv()
        need(k != "binary" or v == b"ABC", f"a wrong answer: {v[:60]!r}")
        e.alive("upper")
        return f"{k} {v[:20]!r}"
    finally:
        w.close()


@check("MUST", "echo")
def w18_ws_parallel_connections(e):
    """A target keeps several connections; each has its own order."""
    def one(n):
        w = ws_open(e)
        try:
            for i in range(10):
                w.ctrl(path=f"o{n}-{i}")
                w.binary(b"%d.%d" % (n, i) * 1000)
            return all(w.recv() == ("binary", b"%d.%d" % (n, i) * 1000) for i in range(10))
        finally:
            w.close()
    ws_open(e).close()
    with ThreadPoolExecutor(8) as ex:
        res = list(ex.map(one, range(8)))
    need(all(res), f"{res.count(False)} of 8 wrong")


@check("COMPAT", "echo")
def w20_ws_bad_json(e):
    w = ws_open(e)
    try:
        w.binary(b"{not json")
        k, v = w.recv()
        e.alive("echo")
        return f"{k} {v[:60]!r}"
    finally:
        w.close()
