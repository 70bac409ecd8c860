#!/usr/bin/env python3
"""Black-box conformance checks for servers of AIStore's ETL contract.

Needs the base URL of one server per role, and plays the AIS target (source, destination and next stage) itself.
`run.py` starts the servers and runs this; `README.md` says what the roles and levels are.

Every server under test must have been started with
    AIS_TARGET_URL=<the fake target's URL>/v1/etl/_object/etl-x/s3cr3t  DIRECT_PUT=true  AIS_DIRECT_PUT_RETRIES=1
"""
import argparse
import hashlib
import json
import os
import random
import shutil
import socket
import string
import sys
import tempfile
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs, quote, unquote

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import fake_target as ft  # noqa: E402
import raw_http  # noqa: E402
from fake_target import reply  # noqa: E402
from raw_http import WS, Conn, call  # noqa: E402

PREFIX = "/v1/etl/_object/etl-x/s3cr3t"
NODE = "Ais-Node-Url"
DPL = "Ais-Direct-Put-Length"
RETRY = "Ais-Etl-Retry-Reason"
CHECKS = []

# Where a family of servers is known to deviate (family -> check -> reason). Reported as XFAIL.
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "known.json")) as known_file:
    KNOWN = json.load(known_file)


class Fail(Exception):
    pass


class Skip(Exception):
    pass


def need(cond, msg):
    if not cond:
        raise Fail(msg)


def eq(got, want, what=""):
    if got != want:
        raise Fail(f"{what}: got {got!r:.300}, want {want!r:.300}")


def one_of(got, wants, what=""):
    if got not in wants:
        raise Fail(f"{what}: got {got!r:.300}, want one of {list(wants)!r:.300}")


def check(level, *roles):
    def deco(fn):
        CHECKS.append((fn.__name__, level, roles, fn))
        return fn
    return deco


def pe(s):
    """Go url.PathEscape."""
    return quote(s, safe="$&+:=@-_.~")


def qe(s):
    """Go url.QueryEscape."""
    return quote(s, safe="-_.~").replace("%20", "+")


class Env:
    """What a check has to work with: the servers by role, the fake target, and a folder for files."""

    def __init__(self, urls, target, pids=None, profile="strict", large=False):
        self.urls = {role: url.rstrip("/") for role, url in urls.items()}
        self.t = target
        self.tport = target.port
        self.pid = pids or {}
        self.profile = profile
        self.large = large
        self.tmp = tempfile.mkdtemp(prefix="etl-conformance-")
        self.seq = 0
        self.files = {}
        # Bound and never listened on: connections to it are refused.
        self.refusing = socket.socket()
        self.refusing.bind(("127.0.0.1", 0))
        self.refused = "127.0.0.1:%d" % self.refusing.getsockname()[1]

    def close(self):
        self.refusing.close()
        shutil.rmtree(self.tmp, ignore_errors=True)

    def u(self, role):
        return self.urls[role]

    def name(self, tag="o"):
        self.seq += 1
        return f"{tag}-{self.seq}-" + "".join(random.choices(string.ascii_lowercase, k=5))

    def file(self, name, data):
        p = os.path.join(self.tmp, name)
        os.makedirs(os.path.dirname(p), exist_ok=True)
        with open(p, "wb") as f:
            f.write(data)
        self.files[name] = data
        return p

    def fqn_q(self, path):
        """etl_fqn exactly as the Go target encodes it."""
        return "etl_fqn=" + qe(pe(path))

    def node(self, obj, xid="xid-1", owt="3", bck="dst", host=None, scheme="http"):
        """Destination URL exactly as the Go target builds it."""
        return f"{scheme}://{host or '127.0.0.1:%d' % self.tport}/" + pe(f"ais/@#/{bck}/{obj}") + f"?owt={owt}&uuid={xid}"

    def put(self, role, obj, body=b"", q="", headers=(), bck="src", **kw):
        return call(self.u(role), "PUT", f"/{bck}/{obj}" + ("?" + q if q else ""), headers, body, **kw)

    def get(self, role, uname, q="", headers=(), **kw):
        return call(self.u(role), "GET", "/" + pe(uname) + ("?" + q if q else ""), headers, None, **kw)

    def alive(self, role):
        r = call(self.u(role), "GET", "/health")
        eq(r.status, 200, "server alive afterwards")


def settle(e, substr, quiet=0.6, timeout=3.0):
    """Requests for `substr`, once none is in progress and none came for `quiet` seconds."""
    end = time.time() + timeout
    last, n = time.time(), -1
    while time.time() < end:
        recs = e.t.find(substr)
        busy = any(not r.t_end for r in recs)
        if len(recs) != n or busy:
            last, n = time.time(), len(recs)
        if time.time() - last > quiet:
            break
        time.sleep(0.02)
    return e.t.find(substr)


def rnd(n, seed=0):
    return random.Random(seed).randbytes(n)


# =============================================================== A. health, methods, routing
@check("MUST", "echo")
def a01_health(e):
    r = call(e.u("echo"), "GET", "/health")
    eq((r.status, r.body), (200, b"Running"), "GET /health")
    return f"content-type={r.h('content-type')}"


@check("COMPAT", "echo")
def a03_head_health(e):
    r = call(e.u("echo"), "HEAD", "/health")
    one_of(r.status, (200, 405, 501), "HEAD /health")
    return str(r.status)


@check("COMPAT", "echo")
def a04_put_health(e):
    r = call(e.u("echo"), "PUT", "/health", body=b"x")
    one_of(r.status, (200, 405), "PUT /health")
    return f"{r.status} {r.body[:40]!r}"


@check("COMPAT", "echo")
def a06_delete_rejected(e):
    r = call(e.u("echo"), "DELETE", "/src/o")
    one_of(r.status, (405, 501), "DELETE")
    return str(r.status)


@check("COMPAT", "echo")
def a07_head_object(e):
    o = e.name("head")
    e.t.put_object(o, b"hello")
    r = call(e.u("echo"), "HEAD", "/" + pe(f"ais/@#/src/{o}"))
    one_of(r.status, (200, 405, 501), "HEAD object")
    return f"{r.status}, upstream requests: {[x.method for x in e.t.find(o)]}"


@check("COMPAT", "echo")
def a08_put_root(e):
    r = call(e.u("echo"), "PUT", "/", body=b"x")
    one_of(r.status, (200, 404), "PUT /")
    return str(r.status)


# =============================================================== B. push (PUT with body)
@check("MUST", "echo")
def b01_put_small(e):
    r = e.put("echo", e.name(), b"hello")
    eq((r.status, r.body, r.complete), (200, b"hello", True), "PUT")
    return f"{r.version} {r.framing} ct={r.h('content-type')}"


@check("MUST", "echo")
def b02_put_content_type_default(e):
    r = e.put("echo", e.name(), b"hello")
    one_of(r.h("content-type"), ("application/octet-stream", "binary/octet-stream"), "Content-Type")
    return r.h("content-type")


@check("MUST", "echo")
def b03_buffered_has_content_length(e):
    r = e.put("echo", e.name(), rnd(100000))
    eq(r.h("content-length"), "100000", "Content-Length on a buffered result")


@check("MUST", "echo")
def b06_put_all_bytes(e):
    d = bytes(range(256)) * 17
    r = e.put("echo", e.name(), d)
    eq((r.status, r.body), (200, d), "binary")


@check("MUST", "echo")
def b07_put_32mib(e):
    d = rnd(32 << 20, 1)
    r = e.put("echo", e.name(), d, timeout=60)
    eq((r.status, hashlib.md5(r.body).hexdigest()), (200, hashlib.md5(d).hexdigest()), "32 MiB")


@check("MUST", "md5")
def b08_md5(e):
    d = rnd(1 << 20, 2)
    r = e.put("md5", e.name(), d)
    eq((r.status, r.body.decode()), (200, hashlib.md5(d).hexdigest()), "md5")


@check("COMPAT", "echo")
def b09_put_chunked_request(e):
    d = rnd(300000, 3)
    r = e.put("echo", e.name(), d, chunked=True)
    if r.status == 501:
        return "501 (Transfer-Encoding refused)"
    eq((r.status, r.body), (200, d), "chunked request body")
    return "200"


@check("COMPAT", "echo")
def b10_expect_100(e):
    c = Conn(e.u("echo"), 5)
    try:
        c.head("PUT", f"/src/{e.name()}", [("Content-Length", 5), ("Expect", "100-continue")])
        t = time.time()
        got = c.readable(1.5)
        dt = time.time() - t
        interim = got and c.readline().startswith(b"HTTP/1.1 100")
        if interim:
            c.readline()
        c.send(b"hello")
        r = c.read("PUT")
        eq((r.status, r.body), (200, b"hello"), "after Expect")
        return f"100 Continue sent: {bool(interim)} ({dt:.2f} s)"
    finally:
        c.close()


@check("MUST", "probe")
def b11_etl_args(e):
    for v in ("plain", '{"from_time":2.43,"to_time":3.43}', "a+b c%25&=?#/é", "x" * 1500):
        r = e.put("probe", e.name(), b"d", "etl_args=" + qe(v))
        eq(json.loads(r.body)["etl_args"], v, "etl_args")


@check("MUST", "probe")
def b12_etl_args_absent_and_empty(e):
    for q in ("", "etl_args=", "foo=1"):
        r = e.put("probe", e.name(), b"d", q)
        eq(json.loads(r.body)["etl_args"], "", f"etl_args for {q!r}")


@check("COMPAT", "probe")
def b13_etl_args_whitespace(e):
    r = e.put("probe", e.name(), b"d", "etl_args=" + qe("  x  "))
    v = json.loads(r.body)["etl_args"]
    one_of(v, ("x", "  x  "), "surrounding white space")
    return repr(v)


@check("COMPAT", "probe")
def b16_path_seen_by_transform(e):
    o = e.name()
    r = e.put("probe", f"dir/{o}", b"d")
    p = json.loads(r.body)["path"]
    one_of(p, (f"src/dir/{o}", f"/src/dir/{o}"), "path argument")
    return "leading slash" if p[0] == "/" else "no leading slash"


@check("COMPAT", "probe")
def b17_path_escapes(e):
    """Percent-escaped object name: is `path` decoded for the transform?"""
    r = e.put("probe", "a%20b%2Fc%25d%2Be%23f%C3%A9@g", b"d")
    p = json.loads(r.body)["path"].lstrip("/")
    dec = "src/a b/c%d+e#fé@g"
    one_of(p, (dec, "src/a%20b%2Fc%25d%2Be%23f%C3%A9@g"), "path")
    return "decoded" if p == dec else "raw"


@check("MUST", "probe")
def b19_empty_result(e):
    r = e.put("probe", e.name(), b"d", "etl_args=empty")
    eq((r.status, r.body, r.complete), (200, b"", True), "empty result")


@check("MUST", "probe")
def b20_transform_error_is_500(e):
    r = e.put("probe", e.name(), b"d", "etl_args=raise:kaboom")
    eq(r.status, 500, "transform raised")
    e.alive("probe")
    return f"message in body: {b'kaboom' in r.body}; body {r.body[:80]!r}"


@check("MUST", "probe")
def b22_file_not_found_is_404(e):
    r = e.put("probe", e.name(), b"d", "etl_args=raise-fnf:/no/such")
    eq(r.status, 404, "FileNotFoundError from the transform")
    return f"{r.body[:100]!r}"


@check("MUST", "echo")
def b23_32_parallel_puts(e):
    def one(i):
        d = rnd(200000 + i, i)
        r = e.put("echo", e.name(f"par{i}"), d, timeout=60)
        return r.status == 200 and r.body == d
    with ThreadPoolExecutor(32) as ex:
        res = list(ex.map(one, range(64)))
    need(all(res), f"{res.count(False)} of 64 wrong")


@check("MUST", "echo")
def b25_long_object_name(e):
    n = "n" * 1024
    r = e.put("echo", n, b"x")
    eq((r.status, r.body), (200, b"x"), "1 KiB object name")


@check("MUST", "echo")
def b27_unread_garbage_tolerated(e):
    """A malformed request must not take the server down."""
    c = Conn(e.u("echo"), 3)
    try:
        c.send(b"\x16\x03\x01 nonsense\r\n\r\n")
        c.read()
    except Exception:
        pass
    finally:
        c.close()
    e.alive("echo")


# =============================================================== C. FQN


@check("MUST", "echo")
def c02_get_fqn(e):
    p = e.file("plain2.bin", b"from-file-2")
    o = e.name("getfqn")
    r = e.get("echo", f"ais/@#/src/{o}", e.fqn_q(p))
    eq((r.status, r.body), (200, b"from-file-2"), "GET ?etl_fqn")
    eq(e.t.find(o), [], "no upstream request when FQN is given")


@check("MUST", "echo")
def c03_fqn_single_escaped(e):
    p = e.file("plain3.bin", b"ff3")
    r = e.put("echo", e.name(), b"", "etl_fqn=" + qe(p))
    eq((r.status, r.body), (200, b"ff3"), "single-escaped FQN")


@check("MUST", "echo")
def c04_fqn_special_chars(e):
    for i, n in enumerate(("a b", "p%20q", "r+s", "h#t", "q?u=1&v", "ünï", "semi;colon,comma", "pct%41")):
        p = e.file(f"d/{n}", f"c{i}".encode())
        r = e.put("echo", e.name(), b"", e.fqn_q(p))
        eq((r.status, r.body), (200, f"c{i}".encode()), f"file name {n!r}")


@check("MUST", "echo")
def c05_fqn_missing_is_404(e):
    r = e.put("echo", e.name(), b"", e.fqn_q(e.tmp + "/nope"))
    eq(r.status, 404, "missing file")
    return f"{r.body[:160]!r}"


@check("MUST", "upper")
def c06_fqn_missing_streaming_404(e):
    r = e.put("upper", e.name(), b"", e.fqn_q(e.tmp + "/nope"))
    eq(r.status, 404, "missing file (streaming)")


@check("MUST", "echo")
def c07_fqn_directory_is_error(e):
    r = e.put("echo", e.name(), b"", e.fqn_q(e.tmp))
    need(r.status >= 400, f"directory as FQN: {r.status}")
    return str(r.status)


@check("COMPAT", "echo")
def c08_fqn_dotdot(e):
    """'..' is normalised lexically, not rejected."""
    p = e.file("x/y/z.bin", b"dots")
    r = e.put("echo", e.name(), b"", e.fqn_q(e.tmp + "/x/y/../y/z.bin"))
    if r.status == 200:
        eq(r.body, b"dots", "normalised")
        r2 = e.put("echo", e.name(), b"", e.fqn_q(e.tmp + "/no-such-dir/../x/y/z.bin"))
        return f"served; lexical normalisation: {r2.status == 200}"
    return f"rejected with {r.status}"


@check("COMPAT", "echo")
def c09_fqn_escape_outside(e):
    """Any absolute path readable by the process is served (no root confinement)."""
    r = e.put("echo", e.name(), b"", e.fqn_q("/etc/hostname"))
    return f"/etc/hostname -> {r.status}"


@check("COMPAT", "echo")
def c10_fqn_relative(e):
    p = e.file("rel.bin", b"rel")
    r = e.put("echo", e.name(), b"", e.fqn_q(p.lstrip("/")))
    return f"relative path -> {r.status} (anchored at /: {r.status == 200})"


@check("MUST", "fqn")
def c12_direct_fqn_passes_path(e):
    p = e.file("direct one.bin", b"dd")
    r = e.put("fqn", e.name(), b"", e.fqn_q(p))
    j = json.loads(r.body)
    eq((j["type"], j["data"]), ("str", p), "ETL_DIRECT_FQN")


@check("MUST", "fqn")
def c13_direct_fqn_get(e):
    p = e.file("direct two.bin", b"dd")
    r = e.get("fqn", "ais/@#/src/whatever", e.fqn_q(p))
    eq(json.loads(r.body)["data"], p, "ETL_DIRECT_FQN GET")


@check("MUST", "fqn")
def c14_direct_fqn_without_fqn_gets_bytes(e):
    r = e.put("fqn", e.name(), b"abc")
    eq((json.loads(r.body)["type"], json.loads(r.body)["len"]), ("bytes", 3), "no FQN -> bytes")


@check("MUST", "fqn")
def c15_direct_fqn_missing_file_404(e):
    r = e.put("fqn", e.name(), b"", e.fqn_q(e.tmp + "/nope2"))
    eq(r.status, 404, "transform opens a missing path")


@check("MUST", "echo")
def c16_fqn_empty_means_none(e):
    r = e.put("echo", e.name(), b"body", "etl_fqn=")
    eq((r.status, r.body), (200, b"body"), "empty etl_fqn")


@check("MUST", "echo")
def c18_fqn_wins_over_body(e):
    p = e.file("w.bin", b"file-wins")
    c = Conn(e.u("echo"))
    try:
        r = c.request("PUT", "/src/fw?" + e.fqn_q(p), [], b"the-body")
        eq(r.body, b"file-wins", "FQN beats body")
        if r.keepalive:
            r = c.request("PUT", "/src/fw2", [], b"next")
            eq(r.body, b"next", "unread body does not poison the connection")
    finally:
        c.close()


# =============================================================== D. pull (GET)
@check("MUST", "echo")
def d01_get_uname(e):
    o = e.name("pull")
    e.t.put_object(o, b"pulled")
    r = e.get("echo", f"ais/@#/src/{o}")
    eq((r.status, r.body), (200, b"pulled"), "GET")
    rec = e.t.find(o)[0]
    eq(unquote(rec.path), f"{PREFIX}/ais/@#/src/{o}", "decoded upstream path")
    return f"upstream target: {rec.target.replace(o, '<obj>')}"


@check("MUST", "echo")
def d03_get_special_name(e):
    o = e.name("sp") + " a%b+c#d?eé"
    e.t.put_object(o.split(" ")[0], b"sp")
    r = e.get("echo", f"ais/@#/src/{o}")
    eq((r.status, r.body), (200, b"sp"), "GET special")
    rec = e.t.find(o.split(" ")[0])[0]
    eq(unquote(rec.path), f"{PREFIX}/ais/@#/src/{o}", "decoded upstream path")
    return rec.target[len(PREFIX):]


@check("MUST", "echo")
def d04_upstream_errors_forwarded(e):
    for st in (404, 403, 500, 503):
        o = e.name(f"e{st}")
        e.t.on(o, reply(st, b"upstream says no"))
        r = e.get("echo", f"ais/@#/src/{o}")
        eq(r.status, st, "upstream status")
    return f"last body: {r.body[:80]!r}"


@check("MUST", "upper")
def d05_upstream_errors_forwarded_stream(e):
    for st in (404, 500):
        o = e.name(f"e{st}")
        e.t.on(o, reply(st, b"upstream says no"))
        r = e.get("upper", f"ais/@#/src/{o}")
        eq(r.status, st, "upstream status (streaming)")


@check("MUST", "echo")
def d07_upstream_reset_502(e):
    o = e.name("rst")
    e.t.on(o, ft.RESET_BEFORE_BODY)
    r = e.get("echo", f"ais/@#/src/{o}")
    eq(r.status, 502, "upstream reset")
    return f"upstream attempts: {len(e.t.find(o))}"


@check("SAFE", "upper")
def d09_upstream_truncated_stream(e):
    o = e.name("trunc")
    e.t.on(o, ft.TRUNCATED_RESPONSE)
    r = e.get("upper", f"ais/@#/src/{o}")
    need(not (r.status == 200 and r.complete), f"truncated source served as complete: {r.brief()}")
    return r.brief()


@check("COMPAT", "echo")
def d10_query_not_forwarded_upstream(e):
    """latest-ver is added by the target to the redirect; the SDK drops it."""
    o = e.name("q")
    e.t.put_object(o, b"v")
    e.get("echo", f"ais/@#/src/{o}", "latest-ver=true&etl_args=abc")
    q = e.t.find(o)[0].query
    return f"upstream query: {q!r}"


@check("COMPAT", "echo")
def d11_upstream_redirect(e):
    o = e.name("redir")
    e.t.on(o, reply(307, b"", {"Location": f"http://127.0.0.1:{e.tport}/elsewhere-{o[6:]}"}))
    e.t.put_object(f"elsewhere-{o[6:]}", b"moved")
    r = e.get("echo", f"ais/@#/src/{o}")
    return f"{r.status} (followed: {r.body == b'moved'})"


@check("MUST", "upper")
def d13_get_stream_16mib(e):
    o = e.name("big")
    d = b"streaming abc " * 1200000
    e.t.put_object(o, d)
    r = e.get("upper", f"ais/@#/src/{o}", timeout=60)
    eq((r.status, r.complete, r.body == d.upper()), (200, True, True), "16 MiB GET")
    return r.framing


@check("COMPAT", "echo")
def d15_upstream_request_headers(e):
    o = e.name("hdr")
    e.t.put_object(o, b"v")
    e.get("echo", f"ais/@#/src/{o}", headers=[("Range", "bytes=0-1"), ("X-Foo", "1")])
    rec = e.t.find(o)[0]
    return "; ".join(f"{k}: {v}" for k, v in rec.headers if k.lower() != "host")


@check("MUST", "auth")
def d16_bearer_token(e):
    o = e.name("auth")
    e.t.put_object(o, b"v")
    e.get("auth", f"ais/@#/src/{o}")
    eq(e.t.find(o)[0].h("authorization"), "Bearer tok-123", "GET upstream")
    e.put("auth", o, b"x", headers=[(NODE, e.node(o + "-dp"))])
    eq(e.t.find(o + "-dp")[0].h("authorization"), "Bearer tok-123", "direct put")


@check("COMPAT", "echo")
def d17_upstream_gzip_encoding(e):
    import gzip
    o = e.name("gz")
    e.t.on(o, reply(200, gzip.compress(b"zipped"), {"Content-Encoding": "gzip"}))
    r = e.get("echo", f"ais/@#/src/{o}")
    return f"{r.status} decoded: {r.body == b'zipped'}"


# =============================================================== E. direct put and pipelines


@check("COMPAT", "echo")
def e02_direct_put_path_stays_escaped(e):
    """Python keeps %2F; Go re-encodes the decoded path. The target accepts both."""
    o = e.name("dpe") + " a%b"
    e.put("echo", "s1", b"p", headers=[(NODE, e.node(o))])
    rec = e.t.find(o.split(" ")[0])[0]
    eq(unquote(rec.path), f"{PREFIX}/ais/@#/dst/{o}", "decoded")
    return rec.path[len(PREFIX):]


@check("MUST", "echo")
def e04_node_url_header_case(e):
    o = e.name("dpc")
    r = e.put("echo", "s1", b"p", headers=[("ais-node-url", e.node(o))])
    eq((r.status, len(e.t.find(o))), (204, 1), "lower-case header name")


@check("MUST", "upper")
def e05_stream_direct_put(e):
    o = e.name("dps")
    d = b"abc" * 100000
    r = e.put("upper", "s1", d, headers=[(NODE, e.node(o))])
    eq((r.status, r.body, r.h(DPL)), (204, b"", str(len(d))), "204 + counted length")
    rec = e.t.find(o)[0]
    eq((rec.complete, rec.md5), (True, hashlib.md5(d.upper()).hexdigest()), "streamed body")
    return f"{rec.framing}, {rec.chunk_count} chunks; " + "; ".join(f"{k}: {v}" for k, v in rec.headers if k.lower() != "host")


@check("MUST", "echo")
def e07_dest_204_without_length(e):
    o = e.name("d204n")
    e.t.on(o, reply(204))
    r = e.put("echo", "s1", b"p", headers=[(NODE, e.node(o))])
    eq((r.status, r.h(DPL)), (204, None), "204, no length")


@check("MUST", "echo")
def e08_dest_200_with_body(e):
    o = e.name("d200")
    e.t.on(o, reply(200, b"next-stage-output"))
    r = e.put("echo", "s1", b"p", headers=[(NODE, e.node(o))])
    eq((r.status, r.body, r.h(DPL)), (200, b"next-stage-output", None), "next stage's output is passed back")
    return f"content-type={r.h('content-type')}"


@check("MUST", "echo")
def e09_dest_200_chunked_body(e):
    o = e.name("d200c")
    e.t.on(o, reply(200, b"z" * 200000, chunked=True))
    r = e.put("echo", "s1", b"p", headers=[(NODE, e.node(o))])
    eq((r.status, r.body), (200, b"z" * 200000), "chunked output is passed back")
    return r.framing


@check("MUST", "probe")
def e11_empty_object_direct_put(e):
    o = e.name("dpz")
    r = e.put("probe", "s1", b"x", "etl_args=empty", headers=[(NODE, e.node(o))])
    eq((r.status, r.h(DPL)), (204, None), "empty output: 204 and no length header")
    eq((e.t.find(o)[0].body_len, e.t.find(o)[0].complete), (0, True), "empty PUT arrived")


@check("MUST", "echo")
def e12_dest_errors_forwarded_no_retry(e):
    for st in (400, 403, 404, 500, 503, 507):
        o = e.name(f"d{st}")
        e.t.on(o, reply(st, b"dest says no"))
        r = e.put("echo", "s1", b"p", headers=[(NODE, e.node(o))])
        eq((r.status, r.body, r.h(DPL)), (st, b"dest says no", None), "destination error passed through")
        eq(len(e.t.find(o)), 1, "HTTP errors are not retried")


@check("COMPAT", "echo")
def e13_dest_other_2xx(e):
    out = []
    for st in (201, 202, 206):
        o = e.name(f"d{st}")
        e.t.on(o, reply(st, b"odd"))
        r = e.put("echo", "s1", b"p", headers=[(NODE, e.node(o))])
        out.append(f"{st}->{r.status}")
    return ", ".join(out)


@check("MUST", "echo")
def e15_reset_once_then_ok_buffered(e):
    o = e.name("rst1")
    e.t.on(o, ft.RESET_BEFORE_BODY, reply(200))
    d = b"retry-me" * 5000
    t = time.time()
    r = e.put("echo", "s1", d, headers=[(NODE, e.node(o))])
    dt = time.time() - t
    eq((r.status, r.h(DPL)), (204, str(len(d))), "retried")
    recs = e.t.find(o)
    eq((len(recs), recs[-1].md5), (2, hashlib.md5(d).hexdigest()), "second attempt carries the whole body")
    return f"retried after {dt:.2f} s ({'with' if dt >= 0.9 else 'NO'} back-off)"


@check("MUST", "echo")
def e16_reset_exhausted_502(e):
    o = e.name("rstx")
    e.t.on(o, ft.CLOSE_NO_RESPONSE)
    r = e.put("echo", "s1", b"p", headers=[(NODE, e.node(o))])
    eq(r.status, 502, "retries exhausted")
    eq(r.h(RETRY), None, "no retry-reason header on 502")
    n = len(e.t.find(o))
    need(n >= 2, "retried at least once")
    return f"{n} attempts on the wire (documented: 1 + AIS_DIRECT_PUT_RETRIES = 2); body {r.body[:100]!r}"


@check("COMPAT", "echo")
def e17_dest_refused(e):
    """Flask/HTTP: immediate 502. FastAPI: retried like any transient error, then 502."""
    t = time.time()
    r = e.put("echo", "s1", b"p", headers=[(NODE, f"http://{e.refused}/ais%2F@%23%2Fd%2Fo")], timeout=60)
    eq(r.status, 502, "connection refused")
    eq(r.h(RETRY), None, "no retry-reason")
    return f"502 after {time.time() - t:.2f} s"


@check("MUST", "upper")
def e18_stream_put_transient_503(e):
    """One-shot body: no local retry; 503 + retry reason asks AIS to replay the PUT."""
    o = e.name("s503")
    e.t.on(o, ft.CLOSE_NO_RESPONSE)
    r = e.put("upper", "s1", b"abc" * 1000, headers=[(NODE, e.node(o))])
    eq((r.status, r.h(RETRY)), (503, "direct-put-transient"), "503 contract")
    return f"{len(e.t.find(o))} attempt(s) on the wire; {r.body[:60]!r}"


@check("MUST", "upper")
def e19_stream_put_transient_503_midbody(e):
    o = e.name("s503m")
    e.t.on(o, ft.RESET_MID_BODY)
    r = e.put("upper", "s1", b"abc" * 3000000, headers=[(NODE, e.node(o))], timeout=60)
    eq((r.status, r.h(RETRY)), (503, "direct-put-transient"), "503 contract (reset while uploading)")


@check("MUST", "upper")
def e21_stream_get_retries_locally(e):
    o = e.name("sgr")
    src = e.name("sgsrc")
    e.t.put_object(src, b"abc" * 1000)
    e.t.on(o, ft.CLOSE_NO_RESPONSE, reply(200))
    r = e.get("upper", f"ais/@#/src/{src}", headers=[(NODE, e.node(o))])
    eq((r.status, r.h(DPL)), (204, "3000"), "GET source is replayed")
    need(len(e.t.find(o)) >= 2, "destination re-put")
    return f"source fetched {len(e.t.find(src))}x, destination put {len(e.t.find(o))}x"


@check("MUST", "upper")
def e22_stream_replayable_exhausted_502(e):
    p = e.file("retryx.bin", b"abc")
    o = e.name("sfx")
    e.t.on(o, ft.CLOSE_NO_RESPONSE)
    r = e.put("upper", "s1", b"", e.fqn_q(p), headers=[(NODE, e.node(o))])
    eq((r.status, r.h(RETRY)), (502, None), "exhausted -> 502 without retry reason")
    return f"{len(e.t.find(o))} attempts on the wire"


@check("COMPAT", "upper")
def e23_stream_put_refused(e):
    """FastAPI: 503 + reason. Flask/HTTP: 502 (refused = permanent)."""
    r = e.put("upper", "s1", b"abc", headers=[(NODE, f"http://{e.refused}/ais%2F@%23%2Fd%2Fo")], timeout=60)
    one_of((r.status, r.h(RETRY)), ((503, "direct-put-transient"), (502, None)), "refused")
    return f"{r.status} {r.h(RETRY)}"


@check("MUST", "echo")
def e24_dest_truncated_response(e):
    o = e.name("dtr")
    e.t.on(o, ft.TRUNCATED_RESPONSE, reply(200))
    r = e.put("echo", "s1", b"p", headers=[(NODE, e.node(o))])
    eq((r.status, len(e.t.find(o))), (204, 2), "truncated response is transient")


@check("MUST", "echo")
def e25_dest_garbage_response(e):
    o = e.name("dgr")
    e.t.on(o, ft.GARBAGE_RESPONSE, reply(200))
    r = e.put("echo", "s1", b"p", headers=[(NODE, e.node(o))])
    eq((r.status, len(e.t.find(o))), (204, 2), "non-HTTP response is transient")


@check("SAFE", "probe-stream")
def e27_stream_error_mid_direct_put(e):
    """A transform that dies half-way must leave the destination with an *incomplete* body."""
    o = e.name("tem")
    r = e.put("probe-stream", "s1", b"x" * 500000, "etl_args=raise-after:200000", headers=[(NODE, e.node(o))])
    need(r.status >= 500 or r.error, f"client told success: {r.brief()}")
    recs = settle(e, o)
    need(not any(x.complete for x in recs), "destination saw a complete (truncated) object")
    return f"client {r.brief()}; dest complete={[x.complete for x in recs]} len={[x.body_len for x in recs]}"


@check("SAFE", "probe-stream")
def e28_stream_error_before_first_chunk_direct_put(e):
    o = e.name("teb")
    r = e.put("probe-stream", "s1", b"x" * 1000, "etl_args=raise-before:early", headers=[(NODE, e.node(o))])
    eq(r.status, 500, "500")
    recs = settle(e, o)
    need(not any(x.complete for x in recs), "destination saw a complete (empty) object")
    return f"dest requests: {len(recs)}; message in body: {b'early' in r.body}"


@check("MUST", "upper")
def e29_etl_args_forwarded(e):
    o = e.name("args")
    v = '{"k": "a b&c=d+é"}'
    e.put("upper", "s1", b"p", "etl_args=" + qe(v), headers=[(NODE, e.node(o))])
    q = parse_qs(e.t.find(o)[0].query)
    eq(q, {"owt": ["3"], "uuid": ["xid-1"], "etl_args": [v]}, "etl_args appended, rest kept")


@check("MUST", "echo")
def e30_etl_args_replaced_not_duplicated(e):
    o = e.name("argr")
    e.put("echo", "s1", b"p", "etl_args=new", headers=[(NODE, e.node(o) + "&etl_args=old")])
    eq(parse_qs(e.t.find(o)[0].query)["etl_args"], ["new"], "etl_args replaced")


@check("MUST", "echo")
def e31_pipeline_two_stages(e):
    o = e.name("pipe")
    stage = f"http://127.0.0.1:{e.tport}"
    rest = f"http://10.9.9.9:1234,{e.node(o + '-final')}"
    e.t.on(o, reply(200, b"stage2"))
    r = e.put("echo", o, b"p", "etl_args=zz", headers=[(NODE, f"{stage},{rest}")])
    eq((r.status, r.body), (200, b"stage2"), "result of the next stage")
    rec = e.t.find(o)[0]
    eq(rec.path, f"/src/{o}", "next stage gets /<bucket>/<object>")
    eq(rec.h(NODE), rest, "remaining stages in Ais-Node-Url")
    eq(parse_qs(rec.query), {"etl_args": ["zz"]}, "only etl_args in the query (no etl_fqn)")


@check("MUST", "echo")
def e33_pipeline_spaces_trimmed(e):
    o = e.name("psp")
    e.t.on(o, reply(200, b"ok"))
    r = e.put("echo", o, b"p", headers=[(NODE, f"  http://127.0.0.1:{e.tport}  ,  http://h2:1 , http://h3:2  ")])
    eq((r.status, r.body), (200, b"ok"), "spaces")
    return f"remaining forwarded as {e.t.find(o)[0].h(NODE)!r}"


@check("MUST", "echo")
def e34_pipeline_empty_entry_400(e):
    for h in (",,,,", "http://127.0.0.1:1,", ",http://127.0.0.1:1", "http://a:1,,http://b:2"):
        r = e.put("echo", e.name(), b"p", headers=[(NODE, h)])
        eq(r.status, 400, f"header {h!r}")
        need(b"Invalid pipeline" in r.body or "Invalid pipeline" in r.reason, "message")


@check("MUST", "echo")
def e35_empty_node_url_ignored(e):
    for h in ("", "   "):
        r = e.put("echo", e.name(), b"p", headers=[(NODE, h)])
        eq((r.status, r.body), (200, b"p"), f"header {h!r}")


@check("MUST", "echo")
def e36_scheme_from_target_url(e):
    o = e.name("sch")
    r = e.put("echo", "s1", b"p", headers=[(NODE, e.node(o, scheme="https"))])
    eq((r.status, len(e.t.find(o))), (204, 1), "scheme comes from AIS_TARGET_URL, not from the header")


@check("MUST", "echo")
def e37_stage_url_with_path_gets_prefix(e):
    o = e.name("swp")
    e.put("echo", "s1", b"p", headers=[(NODE, f"http://127.0.0.1:{e.tport}/{o}")])
    eq(e.t.find(o)[0].path, f"{PREFIX}/{o}", "any non-empty path is treated as a target path")


@check("COMPAT", "echo")
def e38_stage_path_encoding(e):
    """Object name with special characters towards a next stage."""
    o = e.name("spe")
    r = call(e.u("echo"), "PUT", f"/src/{o}%20a%25b%2Bc%23d%3Fe", [(NODE, f"http://127.0.0.1:{e.tport}")], b"p")
    recs = e.t.find(o)
    need(recs, f"next stage not reached ({r.status} {r.body[:100]!r})")
    eq(unquote(recs[0].path), f"/src/{o} a%b+c#d?e", "decoded path")
    return recs[0].target.replace(o, "<obj>")


@check("MUST", "echo")
def e39_parallel_direct_puts(e):
    tag = e.name("pdp")
    def one(i):
        d = rnd(50000 + i, i)
        r = e.put("echo", "s1", d, headers=[(NODE, e.node(f"{tag}-{i:03d}-"))], timeout=60)
        recs = e.t.find(f"{tag}-{i:03d}-")
        ok = r.status == 204 and r.h(DPL) == str(len(d)) and recs[-1].md5 == hashlib.md5(d).hexdigest()
        return None if ok else f"{r.brief()} {r.conn.send_error} dest {[(x.complete, x.body_len, x.error) for x in recs]}"
    with ThreadPoolExecutor(16) as ex:
        res = [x for x in ex.map(one, range(48)) if x]
    need(not res, f"{len(res)} of 48 wrong: {res[:2]}")


@check("COMPAT", "echo")
def e40_direct_put_connection_reuse(e):
    tag = e.name("reuse")
    for i in range(5):
        e.put("echo", "s1", b"p", headers=[(NODE, e.node(f"{tag}-{i}"))])
    ids = [r.conn_id for r in e.t.find(tag)]
    return f"5 puts over {len(set(ids))} connection(s)"


@check("MUST", "echo")
def e41_get_direct_put(e):
    o, src = e.name("gdp"), e.name("gsrc")
    e.t.put_object(src, b"pulled-then-put")
    r = e.get("echo", f"ais/@#/src/{src}", headers=[(NODE, e.node(o))])
    eq((r.status, r.h(DPL)), (204, "15"), "GET + direct put")
    eq(e.t.find(o)[0].body, b"pulled-then-put", "delivered")


@check("MUST", "echo")
def e42_fqn_direct_put(e):
    o = e.name("fdp")
    p = e.file("fdp.bin", b"file-to-dest")
    r = e.put("echo", "s1", b"", e.fqn_q(p), headers=[(NODE, e.node(o))])
    eq((r.status, r.h(DPL), e.t.find(o)[0].body), (204, "12", b"file-to-dest"), "FQN + direct put")


@check("COMPAT", "echo")
def e43_dest_redirect(e):
    o = e.name("drd")
    e.t.on(o, reply(307, b"", {"Location": f"http://127.0.0.1:{e.tport}/moved-{o[4:]}"}))
    r = e.put("echo", "s1", b"p", headers=[(NODE, e.node(o))])
    return f"{r.status}; followed: {bool(e.t.find('moved-' + o[4:]))}"


@check("COMPAT", "echo")
def e44_direct_put_large_header(e):
    """Longest Ais-Node-Url accepted."""
    best = 0
    for n in (4000, 8000, 16000, 32000, 60000):
        o = e.name("dlh")
        r = e.put("echo", "s1", b"p", headers=[(NODE, e.node(o) + "," + ",".join(["http://h:1"] * (n // 11)))])
        if r.status not in (200, 204):
            return f"ok up to {best}, {r.status or r.error} at {n}"
        best = n
    return f"ok up to {best}"


@check("MUST", "probe-stream")
def e45_stream_early_exit_direct_put(e):
    """transform_stream that does not read all its input is fine; unread input is discarded."""
    o = e.name("eex")
    r = e.put("probe-stream", "s1", b"x" * 3000000, "etl_args=early:10", headers=[(NODE, e.node(o))])
    eq((r.status, r.h(DPL), e.t.find(o)[0].body_len), (204, "10", 10), "early exit")
    e.alive("probe-stream")


def _stored(recs):
    """What a real destination would have stored: the last complete PUT."""
    done = [r for r in recs if r.complete]
    return done[-1] if done else None


@check("SAFE", "upper")
def e48_stream_put_one_shot_not_resent(e):
    """One-shot source: exactly one attempt; never a second PUT made from the leftovers."""
    d = b"abcdefgh" * 400000
    for first in (ft.CLOSE_NO_RESPONSE, ft.RESET_BEFORE_BODY, ft.RESET_MID_BODY):
        o = e.name("oneshot")
        e.t.on(o, first, reply(200))
        r = e.put("upper", "s1", d, headers=[(NODE, e.node(o))])
        time.sleep(0.1)
        recs = e.t.find(o)
        bad = [x.body_len for x in recs if x.complete and x.md5 != hashlib.md5(d.upper()).hexdigest()]
        need(not bad, f"after {first}: destination accepted a wrong object of {bad} bytes (want {len(d)}); client told {r.status} {DPL}={r.h(DPL)}")
        eq(len(recs), 1, f"attempts after {first}")
        eq((r.status, r.h(RETRY)), (503, "direct-put-transient"), f"answer after {first}")


@check("SAFE", "probe-stream")
def e50_stream_oserror_mid_direct_put(e):
    """An I/O error inside the transform (bad disk, client gone) must not be replayed as an empty PUT."""
    o = e.name("tio")
    r = e.put("probe-stream", "s1", b"x" * 500000, "etl_args=raise-os-after:200000", headers=[(NODE, e.node(o))])
    recs = settle(e, o)
    bad = [x.body_len for x in recs if x.complete]
    need(not bad, f"destination stored a complete object of {bad} bytes; client told {r.status} {DPL}={r.h(DPL)}")
    need(r.status >= 500 or r.error, f"client told success: {r.brief()}")
    return f"client {r.status}; dest {[(x.complete, x.body_len) for x in recs]}"


@check("SAFE", "upper")
def e51_stream_get_source_truncated_direct_put(e):
    """GET source breaks off mid-way: nothing complete may reach the destination."""
    o, src = e.name("gtd"), e.name("gts")
    e.t.on(src, ft.TRUNCATED_RESPONSE)
    r = e.get("upper", f"ais/@#/src/{src}", headers=[(NODE, e.node(o))])
    recs = settle(e, o)
    bad = [x.body_len for x in recs if x.complete]
    need(not bad, f"destination stored a complete object of {bad} bytes; client told {r.status} {DPL}={r.h(DPL)}")
    return f"client {r.status}; dest {[(x.complete, x.body_len) for x in recs]}"


def _duplex(e, role, mib):
    o = e.name("dup")
    e.t.on(o, ft.ECHO_STREAM)
    n = mib << 20
    r = call(e.u(role), "PUT", f"/src/{o}", [(NODE, f"http://127.0.0.1:{e.tport}"), ("Content-Length", n)], (b"a" * (1 << 20) for _ in range(mib)), sink=lambda b: None, timeout=8)
    need(not r.error and r.status == 200 and r.body_len == n, f"{mib} MiB: {r.brief()} (the next stage saw {[x.body_len for x in e.t.find(o)]} bytes)")


@check("SAFE", "echo")
def e52_next_stage_full_duplex_buffered(e):
    """The next stage answers while it is still being fed: read and write concurrently or dead-lock."""
    _duplex(e, "echo", 1)
    _duplex(e, "echo", 96)


@check("SAFE", "upper")
def e53_next_stage_full_duplex_streaming(e):
    _duplex(e, "upper", 1)
    _duplex(e, "upper", 96)


@check("COMPAT", "echo")
def e49_attempt_count_buffered(e):
    """FastAPI: 1 + retries. Flask/HTTP: urllib3 multiplies every attempt by 4 (max_retries=None -> Retry(3))."""
    o = e.name("cnt")
    e.t.on(o, ft.CLOSE_NO_RESPONSE)
    t = time.time()
    e.put("echo", "s1", b"p", headers=[(NODE, e.node(o))])
    n = len(e.t.find(o))
    one_of(n, (2, 8), "wire attempts with AIS_DIRECT_PUT_RETRIES=1")
    return f"{n} in {time.time() - t:.2f} s"


# =============================================================== F. streaming
@check("MUST", "upper")
def f01_stream_put_8mib(e):
    d = b"hello stream " * 650000
    r = e.put("upper", e.name(), d, timeout=60)
    eq((r.status, r.complete, r.body == d.upper()), (200, True, True), "8 MiB stream")
    return f"{r.version} {r.framing}"


@check("SAFE", "upper")
def f02_stream_response_self_delimited(e):
    """Chunked (or length-delimited): a truncated result must be detectable."""
    r = e.put("upper", e.name(), b"abc")
    one_of(r.framing, ("chunked", "content-length"), "framing of a streamed result")


@check("COMPAT", "upper")
def f03_stream_put_chunked_request(e):
    d = b"abc" * 200000
    r = e.put("upper", e.name(), d, chunked=True)
    if r.status == 501:
        return "501"
    eq((r.status, r.body == d.upper()), (200, True), "chunked in, stream out")
    return "200"


@check("MUST", "upper")
def f04_stream_empty_input(e):
    r = e.put("upper", e.name(), b"")
    eq((r.status, r.body, r.complete), (200, b"", True), "empty in, empty out")
    return r.framing


@check("COMPAT", "upper")
def f05_full_duplex(e):
    """Output for the first half must arrive while the second half has not been sent."""
    c = Conn(e.u("upper"), 10)
    try:
        half = b"a" * (256 * 1024)
        c.head("PUT", f"/src/{e.name()}", [("Content-Length", 2 * len(half))])
        c.send(half)
        got = c.readable(2.0)
        c.send(half)
        r = c.read("PUT")
        eq((r.status, r.body_len, r.complete), (200, 2 * len(half), True), "whole result")
        return f"first bytes before the request was complete: {got}"
    finally:
        c.close()


@check("SAFE", "probe-stream")
def f07_error_before_first_chunk(e):
    """Nothing sent yet -> a clean 500."""
    r = e.put("probe-stream", e.name(), b"x" * 10, "etl_args=raise-before:kaboom")
    eq(r.status, 500, "error before the first chunk")
    e.alive("probe-stream")
    return f"message in body: {b'kaboom' in r.body}; {r.h('content-type')} {r.body[:60]!r}; connection {'kept' if r.keepalive else 'closed'}"


@check("SAFE", "probe-stream")
def f08_error_after_first_chunk(e):
    """Bytes already sent -> abort so that the client sees an incomplete message."""
    r = e.put("probe-stream", e.name(), b"x" * 500000, "etl_args=raise-after:200000")
    need(not (r.status == 200 and r.complete), f"truncated result looks complete: {r.brief()} tail={r.body[-120:]!r}")
    need(b"HTTP/1" not in r.body, f"error text injected into the payload: {r.body[-200:]!r}")
    e.alive("probe-stream")
    return r.brief()


@check("MUST", "probe-stream")
def f09_stream_no_output(e):
    r = e.put("probe-stream", e.name(), b"x" * 100000, "etl_args=empty")
    eq((r.status, r.body, r.complete), (200, b"", True), "generator yields nothing")
    return r.framing


@check("MUST", "probe-stream")
def f11_stream_ignores_input(e):
    r = e.put("probe-stream", e.name(), b"x" * 3000000, "etl_args=ignore")
    eq((r.status, r.body, r.complete), (200, b"ignored", True), "never reads its input")
    e.alive("probe-stream")


@check("SAFE", "echo")
def f12_short_request_body_buffered(e):
    """Client dies mid-upload: the truncated body must not be transformed and delivered."""
    o = e.name("short")
    c = Conn(e.u("echo"), 5)
    c.head("PUT", "/src/s1", [("Content-Length", 1000000), (NODE, e.node(o))])
    c.send(b"x" * 300000)
    time.sleep(0.2)
    c.close()
    recs = settle(e, o)
    need(not any(x.complete for x in recs), f"destination got a complete object of {[x.body_len for x in recs if x.complete]} bytes")
    e.alive("echo")
    return "nothing delivered" if not recs else f"incomplete PUT ({recs[0].body_len} bytes, aborted)"


@check("SAFE", "upper")
def f14_short_chunked_request_streaming(e):
    o = e.name("shortc")
    c = Conn(e.u("upper"), 5)
    c.head("PUT", "/src/s1", [("Transfer-Encoding", "chunked"), (NODE, e.node(o))])
    c.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")
    time.sleep(0.2)
    c.close()
    recs = settle(e, o)
    need(not any(x.complete for x in recs), f"destination got a complete object of {[x.body_len for x in recs if x.complete]} bytes")
    e.alive("upper")
    return "nothing delivered" if not recs else "incomplete PUT (aborted)"


@check("SAFE", "echo-stream")
def f18_flat_memory_large_stream(e):
    pids = e.pid.get("echo-stream") if e.pid else None
    if not pids:
        raise Skip("no --pid for echo-stream")
    n = (1024 if e.large else 256) << 20
    blk = rnd(1 << 20, 9)
    cnt = [0]
    peak = [rss_kb(pids)]
    base = peak[0]
    def sink(b):
        cnt[0] += len(b)
        if cnt[0] % (32 << 20) < len(b):
            peak[0] = max(peak[0], rss_kb(pids))
    r = call(e.u("echo-stream"), "PUT", f"/src/{e.name()}", [("Content-Length", n)], (blk for _ in range(n >> 20)), sink=sink, timeout=120)
    eq((r.status, r.body_len, r.complete), (200, n, True), "large stream")
    grow = (peak[0] - base) / 1024
    need(grow < 64, f"RSS grew by {grow:.0f} MiB for a {n >> 20} MiB stream")
    return f"{n >> 20} MiB, RSS growth {grow:.1f} MiB"


@check("MUST", "upper")
def f19_16_parallel_streams(e):
    def one(i):
        d = (b"par%02d " % i) * 60000
        r = e.put("upper", e.name(), d, timeout=60)
        return r.status == 200 and r.body == d.upper()
    with ThreadPoolExecutor(16) as ex:
        res = list(ex.map(one, range(32)))
    need(all(res), f"{res.count(False)} of 32 wrong")


@check("MUST", "probe-stream")
def f20_stream_info(e):
    r = e.put("probe-stream", e.name(), b"abc", "etl_args=info")
    j = json.loads(r.body)
    eq((j["len"], j["md5"], j["etl_args"]), (3, hashlib.md5(b"abc").hexdigest(), "info"), "reader + args")
    eq((r.h("content-type") or "").split(";")[0], "application/x-probe", "mime type")


@check("MUST", "probe-stream")
def f21_stream_read_to_eof(e):
    """reader.read() with no size ends at the end of this request body."""
    r = e.put("probe-stream", e.name(), b"k" * 200000, "etl_args=readall")
    eq((r.status, r.body_len), (200, 200000), "read() to EOF")


@check("COMPAT", "probe-stream")
def f22_direct_fqn_stream_gets_reader(e):
    p = e.file("rd.bin", b"reader-data")
    r = e.put("probe-stream", e.name(), b"", e.fqn_q(p) + "&etl_args=info")
    eq(json.loads(r.body)["len"], 11, "reader over a file")


# =============================================================== W. WebSocket
def ws_open(e, role="echo"):
    w = WS(e.u(role))
    if not w.ok:
        st = w.resp.status
        w.close()
        raise Skip(f"no WebSocket endpoint (status {st})")
    return w


@check("MUST", "echo")
def w02_ws_many_in_order(e):
    w = ws_open(e)
    try:
        for i in range(50):
            w.ctrl(path=f"o{i}")
            w.binary(b"%05d" % i * 100)
        for i in range(50):
            eq(w.recv(), ("binary", b"%05d" % i * 100), f"reply {i}")
    finally:
        w.close()


@check("MUST", "echo")
def w03_ws_fqn(e):
    w = ws_open(e)
    try:
        p = e.file("ws file.bin", b"ws-file")
        w.ctrl(path="o", fqn=pe(p))
        eq(w.recv(), ("binary", b"ws-file"), "FQN: no data message")
        w.ctrl(path="o2")
        w.binary(b"plain")
        eq(w.recv(), ("binary", b"plain"), "mixed on one connection")
    finally:
        w.close()


@check("MUST", "echo")
def w05_ws_next_stage_output(e):
    w = ws_open(e)
    try:
        o = e.name("wsst")
        e.t.on(o, reply(200, b"stage-out"))
        w.ctrl(path=o, pipeline=f"http://127.0.0.1:{e.tport}")
        w.binary(b"x")
        eq(w.recv(), ("binary", b"stage-out"), "next stage output comes back as binary")
        return f"path at the next stage: {e.t.find(o)[0].path}"
    finally:
        w.close()


@check("COMPAT", "echo")
def w06_ws_direct_put_error(e):
    """Python: text '0'. Go: text with the error, then closes."""
    w = ws_open(e)
    try:
        o = e.name("wse")
        e.t.on(o, reply(500, b"dest broken"))
        w.ctrl(path="o", pipeline=e.node(o))
        w.binary(b"x")
        k, v = w.recv()
        return f"{k} {v[:60]!r}"
    finally:
        w.close()


@check("COMPAT", "probe")
def w07_ws_transform_error(e):
    w = ws_open(e, "probe")
    try:
        w.ctrl(path="o", etl_args="raise:wsboom")
        w.binary(b"x")
        k, v = w.recv()
        if k == "text":
            w.ctrl(path="o", etl_args="pass")
            w.binary(b"after")
            return f"{k} {v[:60]!r}; connection usable afterwards: {w.recv() == ('binary', b'after')}"
        return k
    finally:
        w.close()


@check("COMPAT", "echo")
def w08_ws_missing_fqn(e):
    w = ws_open(e)
    try:
        w.ctrl(path="o", fqn=pe(e.tmp + "/nope"))
        k, v = w.recv()
        e.alive("echo")
        return f"{k} {v[:60]!r}"
    finally:
        w.close()


@check("MUST", "probe")
def w09_ws_args_and_path(e):
    w = ws_open(e, "probe")
    try:
        w.ctrl(path="dir/obj", etl_args='{"a":1}')
        w.binary(b"abc")
        k, v = w.recv()
        j = json.loads(v)
        eq((j["path"], j["etl_args"], j["len"]), ("dir/obj", '{"a":1}', 3), "ctrl fields")
    finally:
        w.close()


@check("MUST", "echo")
def w13_ws_ping(e):
    w = ws_open(e)
    try:
        w.frame(9, b"hi")
        eq(w.recv(), ("pong", b"hi"), "ping")
    finally:
        w.close()


@check("MUST", "echo")
def w14_ws_close_handshake(e):
    w = ws_open(e)
    try:
        w.frame(8, b"\x03\xe8")
        k, _ = w.recv()
        one_of(k, ("close", "eof"), "close handshake")
    finally:
        w.close()
    e.alive("echo")


@check("COMPAT", "echo")
def w16_ws_text_ctrl(e):
    """The target sends the control message as a *binary* frame."""
    w = ws_open(e)
    try:
        w.text('{"path":"o"}')
        w.binary(b"x")
        k, v = w.recv()
        return f"text control frame -> {k} {v[:40]!r}"
    finally:
        w.close()


@check("MUST", "echo")
def w19_ws_direct_put_sequence(e):
    """What the target does: control+data back to back, acks in order."""
    w = ws_open(e)
    try:
        tag = e.name("wseq")
        for i in range(20):
            w.ctrl(path="o", pipeline=e.node(f"{tag}-{i:02d}-"))
            w.binary(b"%d" % i * 10)
        for i in range(20):
            eq(w.recv()[0], "text", f"ack {i}")
        eq([r.body for r in e.t.find(tag)], [b"%d" % i * 10 for i in range(20)], "in order")
    finally:
        w.close()


@check("SAFE", "echo")
def w21_ws_no_stale_fqn(e):
    """Fields absent from a control message must not be inherited from the previous one."""
    w = ws_open(e)
    try:
        p = e.file("stale.bin", b"stale-file")
        w.ctrl(path="o", fqn=pe(p))
        eq(w.recv(), ("binary", b"stale-file"), "FQN message")
        w.ctrl(path="o2")
        w.binary(b"fresh")
        eq(w.recv(), ("binary", b"fresh"), "message without fqn after a message with fqn")
    finally:
        w.close()


@check("SAFE", "echo")
def w22_ws_no_stale_pipeline(e):
    """Same for `pipeline`: object 2 (local destination) must not go to object 1's destination."""
    w = ws_open(e)
    try:
        o = e.name("stalep")
        w.ctrl(path="o1", pipeline=e.node(o))
        w.binary(b"first")
        eq(w.recv()[0], "text", "ack")
        w.ctrl(path="o2")
        w.binary(b"second")
        k, v = w.recv()
        eq([r.body for r in e.t.find(o)], [b"first"], "PUTs at object 1's destination")
        eq((k, v), ("binary", b"second"), "object 2 comes back over the socket")
    finally:
        w.close()


# =============================================================== G. load behaviour
@check("COMPAT", "probe")
def g01_health_while_transform_blocks(e):
    """/health (readiness, 5 s timeout) while a transform is computing."""
    th = threading.Thread(target=lambda: e.put("probe", e.name(), b"x", "etl_args=sleep:2"), daemon=True)
    th.start()
    time.sleep(0.3)
    t = time.time()
    r = call(e.u("probe"), "GET", "/health")
    dt = time.time() - t
    th.join(10)
    eq(r.status, 200, "health")
    return f"/health took {dt:.2f} s ({'BLOCKED by the transform' if dt > 0.5 else 'responsive'})"


@check("COMPAT", "probe")
def g02_two_transforms_overlap(e):
    """Two transforms that each take 1 s: 1 s (parallel) or 2 s (serialised)?"""
    t = time.time()
    with ThreadPoolExecutor(2) as ex:
        list(ex.map(lambda i: e.put("probe", e.name(), b"x", "etl_args=sleep:1"), range(2)))
    dt = time.time() - t
    return f"{dt:.2f} s ({'parallel' if dt < 1.6 else 'serialised'})"


@check("COMPAT", "echo")
def g05_idle_keep_alive_timeout(e):
    """Idle keep-alive connections: AIS keeps its side for 6 s."""
    c = Conn(e.u("echo"), 12)
    try:
        r = c.request("PUT", "/src/idle", [], b"x")
        if not r.keepalive:
            return "no keep-alive"
        t = time.time()
        c.sock.settimeout(9)
        try:
            d = c.sock.recv(1)
            return f"server closed after {time.time() - t:.1f} s idle"
        except (TimeoutError, socket.timeout):
            return "still open after 9 s"
        except ConnectionResetError:
            return f"server reset after {time.time() - t:.1f} s idle"
    finally:
        c.close()


# =============================================================== runner
def rss_kb(pids):
    tot = 0
    for p in pids:
        try:
            with open(f"/proc/{p}/status") as f:
                for line in f:
                    if line.startswith("VmRSS:"):
                        tot += int(line.split()[1])
        except OSError:
            pass
    return tot


class Recording:
    """The connections that a check has opened."""

    def __init__(self):
        self.conns, self.wss = [], []

    def __enter__(self):
        self.inits = raw_http.Conn.__init__, raw_http.WS.__init__
        inits, conns, wss = self.inits, self.conns, self.wss

        def conn_init(conn, *a, **k):
            inits[0](conn, *a, **k)
            conns.append(conn)

        def ws_init(ws, *a, **k):
            inits[1](ws, *a, **k)
            wss.append(ws)

        raw_http.Conn.__init__, raw_http.WS.__init__ = conn_init, ws_init
        return self

    def __exit__(self, *a):
        raw_http.Conn.__init__, raw_http.WS.__init__ = self.inits

    def clear(self):
        self.conns.clear()
        self.wss.clear()

    def write(self, folder, result, env):
        """What is needed to see the same again; bodies are cut."""
        os.makedirs(folder, exist_ok=True)
        time.sleep(0.02)
        with env.t.lock:
            recs = [r.as_dict() for r in env.t.records][:60]
        for r in recs:
            if r["body"] and len(r["body"]) > 300:
                r["body"] = r["body"][:300]
        of_ws = [w.c for w in self.wss]
        roles = {url.split("//")[1]: role for role, url in env.urls.items()}
        files = {}
        for name, data in env.files.items():
            files[name] = {"length": len(data), "start": data[:300].decode("latin1")}
        out = {
            **{k: result[k] for k in ("check", "level", "status")}, "observed": result["detail"],
            "folder": env.tmp, "target": f"127.0.0.1:{env.tport}", "refused": env.refused, "files": files,
            "exchanges": [{"role": roles[c.hostport], "sent": cut(c.sent), "sent_bytes": c.sent_n, "answers": [answered(r) for r in c.answers]}
                          for c in self.conns[:12] if c not in of_ws],
            "websockets": [{"role": roles[w.c.hostport], "messages": w.log[:200]} for w in self.wss[:3]],
            "target_saw": recs,
        }
        with open(os.path.join(folder, result["check"] + ".json"), "w") as f:
            json.dump(out, f, indent=1)
            f.write("\n")


def cut(sent):
    """A head whole, and the start of what follows."""
    sent = bytes(sent)
    end = sent.find(b"\r\n\r\n") + 4
    return sent[:max(end + 600, 4096)].decode("latin1")


def answered(r):
    return {"status": r.status, "headers": r.headers, "framing": r.framing, "complete": r.complete, "error": r.error,
            "body_len": r.body_len, "body": r.start.decode("latin1")}


def run(env, only="", part=(0, 1), folder=None):
    """Yields a result for each check; `part` is (which, of how many)."""
    wanted = [c for c in sorted(CHECKS) if only in c[0]]
    with Recording() as recording:
        for name, level, roles, fn in wanted[part[0]::part[1]]:
            recording.clear()
            env.t.reset()
            env.files.clear()
            missing = [r for r in roles if r not in env.urls]
            t = time.time()
            if missing:
                st, detail = "SKIP", "role not configured: " + ", ".join(missing)
            else:
                try:
                    detail = fn(env) or ""
                    st = "PASS"
                except Skip as x:
                    st, detail = "SKIP", str(x)
                except Fail as x:
                    st, detail = "FAIL", str(x)
                except Exception as x:
                    st, detail = "FAIL", "".join(traceback.format_exception_only(type(x), x)).strip() + " @ " + traceback.format_exc().strip().splitlines()[-3].strip()
            known = KNOWN.get(env.profile, {}).get(name)
            if st == "FAIL" and known:
                st, detail = "XFAIL", f"{known} [{detail}]"
            elif st == "PASS" and known and not known.startswith("flaky"):
                st = "XPASS"
            result = {"check": name, "level": level, "status": st, "detail": detail, "seconds": round(time.time() - t, 2)}
            if folder and not missing:
                recording.write(folder, result, env)
            yield result
