#!/usr/bin/env python3
"""`btauth/1` as the real SDK 11 signs and verifies it, from both ends.

    btauth_peer.py call --port P --axon-hotkey SS58 [--uri URI] [--cases all|NAME,..]
    btauth_peer.py serve --port P [--uri URI]

`call` signs requests with `bittensor.http_auth`, sends them with the standard
library, and prints one JSON line per case; exit code 0 if every case was as
expected. `serve` verifies requests with it and answers; it prints one JSON line
when it is ready.
"""
import argparse
import http.client
import http.server
import json
import os
import sys
import tempfile
import threading
import time

# The SDK writes into the home folder when it is imported.
os.environ["HOME"] = tempfile.mkdtemp(prefix="btauth-home-")

from bittensor import http_auth  # noqa: E402
from bittensor.sp_core import CRYPTO_ED25519, CRYPTO_SR25519, Keypair  # noqa: E402

SECOND = 1_000_000_000


def say(line):
    print(json.dumps(line), flush=True)


def arguments():
    p = argparse.ArgumentParser()
    what = p.add_subparsers(dest="what", required=True)
    call = what.add_parser("call")
    call.add_argument("--axon-hotkey", required=True, help="for whom requests are signed")
    call.add_argument("--uri", default="//interop-dendrite")
    call.add_argument("--cases", default="all", help="comma list or 'all'")
    call.add_argument("--timeout", type=float, default=60.0)
    serve = what.add_parser("serve")
    serve.add_argument("--uri", default="//interop-axon")
    for one in (call, serve):
        one.add_argument("--port", type=int, required=True)
    return p.parse_args()


# The calling end.

class Caller:
    """Signs and sends. What differs between the two is what a case is about."""

    def __init__(self, args):
        self.port, self.axon, self.timeout = args.port, args.axon_hotkey, args.timeout
        self.key = Keypair.create_from_uri(args.uri)
        self.other = Keypair.create_from_uri("//not-the-axon").ss58_address
        self.ed25519 = Keypair.create_from_uri(args.uri, crypto_type=CRYPTO_ED25519)

    def sign(self, path, body, method="POST", receiver="axon", age=0.0, key=None):
        receiver = self.axon if receiver == "axon" else receiver
        nonce = time.time_ns() - int(age * SECOND)
        return http_auth.sign(key or self.key, method=method, path=path, body=body, receiver_ss58=receiver,
                              nonce_ns=nonce)

    def send(self, path, body, headers, method="POST"):
        """Status, answer's headers, and the answer in the pieces in which it came."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.timeout)
        try:
            connection.request(method, path, body=body, headers={"content-type": "application/json", **headers})
            answer = connection.getresponse()
            self.pieces = pieces = []
            while piece := answer.read1(65536):
                pieces.append(piece)
            return answer.status, answer.headers, pieces
        finally:
            connection.close()

    def post(self, path, fields, **how):
        body = json.dumps(fields).encode()
        return self.send(path, body, self.sign(path, body, **how))


def seen(answer, **more):
    status, _, pieces = answer
    return {"status": status, "answer": b"".join(pieces).decode("utf-8", "replace")[:500], **more}


def fields(answer):
    return json.loads(b"".join(answer[2]))


def refused(answer, why):
    """401, and the reason is the class that the SDK itself would raise."""
    ok = answer[0] == 401 and fields(answer)["message"].startswith(why.__name__ + ":")
    return ok, seen(answer)


ECHO = {"text": "hi", "count": 3, "note": "n"}
REPLY = "hi|3|0.5|False|n"
PLAIN = json.dumps({"x": 21}).encode()


def plain(answer):
    return answer[0] == 200 and fields(answer)["y"] == 42, seen(answer)


def case_ping(c):
    answer = c.post("/Synapse", {})
    return answer[0] == 200, seen(answer)


def case_unary(c):
    answer = c.post("/EchoSynapse", ECHO)
    return answer[0] == 200 and fields(answer)["reply"] == REPLY, seen(answer)


def case_caller(c):
    nothing = {"s": "", "i": 0, "f": 0.5, "b": True, "l": [], "d": {}}
    answer = c.post("/AllTypesSynapse", nothing)
    return answer[0] == 200 and fields(answer)["out"]["caller"] == c.key.ss58_address, seen(answer)


def case_unicode(c):
    answer = c.post("/EchoSynapse", {**ECHO, "text": "h\u00e9 \U0001f600"})
    return answer[0] == 200 and fields(answer)["reply"].startswith("h\u00e9 \U0001f600|3"), seen(answer)


def case_stream(c):
    answer = c.post("/StreamSynapse", {"prompt": "go"})
    return answer[0] == 200 and b"".join(answer[2]) == b"tok0 tok1 tok2 tok3 tok4 ", seen(answer)


def case_stream_slow(c):
    answer = c.post("/StreamSynapse", {"prompt": "go", "n_tokens": 4, "delay": 0.15})
    whole = b"".join(answer[2]) == b"tok0 tok1 tok2 tok3 "
    return answer[0] == 200 and whole and len(answer[2]) >= 3, seen(answer, pieces=len(answer[2]))


def case_stream_error(c):
    """What had come is there, and then no final chunk."""
    try:
        return False, seen(c.post("/StreamSynapse", {"fail_at": 2, "delay": 0.05}))
    except http.client.IncompleteRead:
        return b"".join(c.pieces) == b"tok0 tok1 ", {"cut": True}


def case_query(c):
    body = PLAIN
    return plain(c.send("/PlainSynapse?x=1&y=%20", body, c.sign("/PlainSynapse?x=1&y=%20", body)))


def case_query_added(c):
    return refused(c.send("/PlainSynapse?x=1", PLAIN, c.sign("/PlainSynapse", PLAIN)), http_auth.BadSignature)


def case_query_dropped(c):
    return refused(c.send("/PlainSynapse", PLAIN, c.sign("/PlainSynapse?x=1", PLAIN)), http_auth.BadSignature)


def case_wrong_body(c):
    headers = c.sign("/PlainSynapse", PLAIN)
    return refused(c.send("/PlainSynapse", b'{"x": 22}', headers), http_auth.BadSignature)


def case_space_in_body(c):
    headers = c.sign("/PlainSynapse", PLAIN)
    return refused(c.send("/PlainSynapse", PLAIN + b" ", headers), http_auth.BadSignature)


def case_wrong_path(c):
    return refused(c.send("/PlainSynapse", PLAIN, c.sign("/EchoSynapse", PLAIN)), http_auth.BadSignature)


def case_wrong_method(c):
    return refused(c.send("/PlainSynapse", PLAIN, c.sign("/PlainSynapse", PLAIN, method="GET")),
                   http_auth.BadSignature)


def case_wrong_receiver(c):
    return refused(c.send("/PlainSynapse", PLAIN, c.sign("/PlainSynapse", PLAIN, receiver=c.other)),
                   http_auth.WrongReceiver)


def case_receiver_replaced(c):
    headers = c.sign("/PlainSynapse", PLAIN, receiver=c.other)
    headers[http_auth.HEADER_RECEIVER] = c.axon
    return refused(c.send("/PlainSynapse", PLAIN, headers), http_auth.BadSignature)


def case_unbound(c):
    return refused(c.send("/PlainSynapse", PLAIN, c.sign("/PlainSynapse", PLAIN, receiver=None)),
                   http_auth.WrongReceiver)


def case_wrong_sender(c):
    headers = c.sign("/PlainSynapse", PLAIN)
    headers[http_auth.HEADER_HOTKEY] = c.other
    return refused(c.send("/PlainSynapse", PLAIN, headers), http_auth.BadSignature)


def case_replay(c):
    headers = c.sign("/PlainSynapse", PLAIN)
    first = c.send("/PlainSynapse", PLAIN, headers)
    if first[0] != 200:
        return False, seen(first)
    return refused(c.send("/PlainSynapse", PLAIN, headers), http_auth.ReplayedRequest)


def case_nonce_again(c):
    """A nonce is used up for every body and every path."""
    now = time.time_ns()
    how = {"method": "POST", "receiver_ss58": c.axon, "nonce_ns": now}
    first = c.send("/PlainSynapse", PLAIN, http_auth.sign(c.key, path="/PlainSynapse", body=PLAIN, **how))
    if first[0] != 200:
        return False, seen(first)
    again = http_auth.sign(c.key, path="/Synapse", body=b"{}", **how)
    return refused(c.send("/Synapse", b"{}", again), http_auth.ReplayedRequest)


def case_nonces_out_of_order(c):
    later, sooner = c.sign("/PlainSynapse", PLAIN, age=-0.5), c.sign("/PlainSynapse", PLAIN)
    first = c.send("/PlainSynapse", PLAIN, later)
    return plain(c.send("/PlainSynapse", PLAIN, sooner)) if first[0] == 200 else (False, seen(first))


def case_stale(c):
    return refused(c.send("/PlainSynapse", PLAIN, c.sign("/PlainSynapse", PLAIN, age=10.5)),
                   http_auth.StaleRequest)


def case_ahead(c):
    return plain(c.send("/PlainSynapse", PLAIN, c.sign("/PlainSynapse", PLAIN, age=-1.5)))


def case_too_far_ahead(c):
    return refused(c.send("/PlainSynapse", PLAIN, c.sign("/PlainSynapse", PLAIN, age=-30.0)),
                   http_auth.StaleRequest)


def case_ed25519(c):
    nothing = {"s": "", "i": 0, "f": 0.5, "b": True, "l": [], "d": {}}
    answer = c.post("/AllTypesSynapse", nothing, key=c.ed25519)
    return answer[0] == 200 and fields(answer)["out"]["caller"] == c.ed25519.ss58_address, seen(answer)


def case_scheme_hidden(c):
    headers = c.sign("/PlainSynapse", PLAIN, key=c.ed25519)
    del headers[http_auth.HEADER_CRYPTO]
    return refused(c.send("/PlainSynapse", PLAIN, headers), http_auth.BadSignature)


def case_scheme_claimed(c):
    headers = {**c.sign("/PlainSynapse", PLAIN), http_auth.HEADER_CRYPTO: "ed25519"}
    return refused(c.send("/PlainSynapse", PLAIN, headers), http_auth.BadSignature)


def case_lower_case_headers(c):
    headers = {name.lower(): value for name, value in c.sign("/PlainSynapse", PLAIN).items()}
    return plain(c.send("/PlainSynapse", PLAIN, headers))


def case_no_signature(c):
    headers = c.sign("/PlainSynapse", PLAIN)
    del headers[http_auth.HEADER_SIGNATURE]
    return refused(c.send("/PlainSynapse", PLAIN, headers), http_auth.MalformedAuth)


def case_other_version(c):
    headers = {**c.sign("/PlainSynapse", PLAIN), http_auth.HEADER_VERSION: "2"}
    return refused(c.send("/PlainSynapse", PLAIN, headers), http_auth.MalformedAuth)


def case_no_headers(c):
    answer = c.send("/PlainSynapse", PLAIN, {})
    return answer[0] == 401, seen(answer)


def case_unknown(c):
    answer = c.post("/UnknownSynapse", {})
    return answer[0] == 404, seen(answer)


def case_blacklist(c):
    answer = c.post("/BlacklistedSynapse", {})
    return answer[0] == 403, seen(answer)


def case_raise(c):
    answer = c.post("/FailSynapse", {"mode": "raise"})
    return answer[0] == 500 and "secret" not in seen(answer)["answer"], seen(answer)


def case_teapot(c):
    answer = c.post("/FailSynapse", {"mode": "set_status"})
    return answer[0] == 418, seen(answer)


def case_at_once(c):
    """Many at a time, by one key."""
    statuses = []

    def some():
        for _ in range(8):
            statuses.append(c.post("/PlainSynapse", {"x": 1})[0])

    threads = [threading.Thread(target=some) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses == [200] * 64, {"statuses": sorted(set(statuses)), "answers": len(statuses)}


CASES = {name[5:]: case for name, case in list(globals().items()) if name.startswith("case_")}


def call(args):
    caller = Caller(args)
    bad = 0
    for name in CASES if args.cases == "all" else args.cases.split(","):
        try:
            ok, shown = CASES[name](caller)
        except Exception as e:  # noqa: BLE001
            ok, shown = False, {"exception": f"{type(e).__name__}: {e}"}
        bad += not ok
        say({"case": name, "ok": bool(ok), **shown})
    return 1 if bad else 0


# The serving end.

class Server(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hotkey = ""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        try:
            caller = http_auth.verify(dict(self.headers.items()), body, method=self.command, path=self.path,
                                      self_hotkey_ss58=self.hotkey)
        except http_auth.AuthError as e:
            return self.answer(401, {"message": f"{type(e).__name__}: {e}"})
        crypto = {CRYPTO_ED25519: "ed25519", CRYPTO_SR25519: "sr25519"}[caller.crypto_type]
        said = {"caller": caller.hotkey_ss58, "crypto": crypto, "nonce": str(caller.nonce_ns)}
        if self.path == "/StreamSynapse":
            return self.stream(json.loads(body), said)
        if self.path == "/EchoSynapse":
            return self.answer(200, {**json.loads(body), **said})
        return self.answer(404, {"message": "not here"})

    def answer(self, status, fields):
        body = json.dumps(fields).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, ask, said):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        pieces = [f"tok{n} " for n in range(ask["n_tokens"])] + [said["caller"], " ", said["crypto"]]
        for n, piece in enumerate(pieces):
            if n == ask.get("fail_at"):
                # Cut: no final chunk.
                self.close_connection = True
                return
            data = piece.encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_):
        pass


class Listener(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


def serve(args):
    Server.hotkey = Keypair.create_from_uri(args.uri).ss58_address
    with Listener(("127.0.0.1", args.port), Server) as listener:
        say({"ready": True, "hotkey": Server.hotkey, "port": listener.server_port})
        listener.serve_forever()


if __name__ == "__main__":
    given = arguments()
    sys.exit(call(given) if given.what == "call" else serve(given))
