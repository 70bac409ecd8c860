#!/usr/bin/env python3
"""A card in one of the roles of the conformance client, published as a transform.

  card.py --role ROLE --listen ADDRESS      as any program under test; SCHWANN_BINARY is the `schwann` that is started

Starts `schwann cards`, makes a card with the role's code over its interface, publishes it and prints where it is
called.  It ends with the server, and the server with it.
"""
import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request

PASSWORD = "correct horse"

# What `reference_app.py` does with an object, of stdin and stdout.
CODE = '''
import hashlib, json, os, sys, time
ROLE = "@ROLE@"
CHUNK = 65536
given, taken = sys.stdin.buffer.raw, sys.stdout.buffer
args = os.environ["ETL_ARGS"]
cmd, _, arg = args.partition(":")

def full(n):
    parts = []
    while n > 0 and (part := given.read(min(n, CHUNK))):
        parts.append(part)
        n -= len(part)
    return b"".join(parts)

def give(data):
    taken.write(data)
    taken.flush()

def rest(change=bytes):
    while data := full(CHUNK):
        give(change(data))

def info(kind, length, digest):
    give(json.dumps({"path": os.environ["ETL_OBJECT"], "etl_args": args, "type": kind, "data": None, "len": length,
                     "md5": digest}).encode())

def probe(data):
    if cmd in ("raise", "raise-fnf"):
        sys.exit(arg or "boom")
    if cmd == "sleep":
        time.sleep(float(arg))
    if cmd in ("sleep", "pass"):
        give(data)
    elif cmd == "size":
        give(b"z" * int(arg))
    elif cmd != "empty":
        info("bytes", len(data), hashlib.md5(data).hexdigest())

def probe_stream():
    if cmd == "raise-before":
        sys.exit(arg or "boom")
    if cmd in ("raise-after", "raise-os-after"):
        give(full(int(arg)))
        sys.exit("boom-after")
    if cmd in ("empty", "drain-then-yield", "info"):
        n, digest = 0, hashlib.md5()
        while data := full(CHUNK):
            n += len(data)
            digest.update(data)
        if cmd == "info":
            info("reader", n, digest.hexdigest())
        elif cmd != "empty":
            give(str(n).encode())
    elif cmd == "early":
        give(full(int(arg)))
    elif cmd == "ignore":
        give(b"ignored")
    elif cmd == "gen":
        for _ in range(int(arg)):
            give(b"g" * (1 << 20))
    elif cmd == "readall":
        give(full(1 << 40))
    else:
        if cmd == "first-then-sleep":
            give(full(4))
            time.sleep(float(arg))
        rest()

if ROLE == "md5":
    digest = hashlib.md5()
    while data := full(CHUNK):
        digest.update(data)
    give(digest.hexdigest().encode())
elif ROLE == "upper":
    rest(bytes.upper)
elif ROLE in ("probe", "fqn"):
    probe(full(1 << 40))
elif ROLE == "probe-stream":
    probe_stream()
else:
    rest()
'''


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--role", required=True)
    ap.add_argument("--listen", required=True)
    a = ap.parse_args()
    folder = tempfile.mkdtemp(prefix="etl-card-", dir=os.getcwd())
    config = os.path.join(folder, "schwann.toml")
    with open(config, "w") as f:
        f.write(f"""
[cards]
listen = "127.0.0.1:0"
data = {json.dumps(os.path.join(folder, "data"))}
first_superuser_password = "{PASSWORD}"
publish = true
etl_listen = "{a.listen}"
max_running = 256
max_published_running = 512
max_queued_per_user = 1000
max_output = "4GiB"
keep_output = "64GiB"
[etl]
fqn_roots = ["/"]
""")
    binary = os.environ.get("SCHWANN_BINARY", "schwann")
    server = subprocess.Popen([binary, "cards", "--config", config, "--json"], stdout=subprocess.PIPE)
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    said = json.loads(server.stdout.readline())
    site = said["url"] + "/api/v1"

    def ask(method, path, body, token=None):
        headers = {"Content-Type": "application/json" if token else "application/x-www-form-urlencoded"}
        if token:
            headers["Authorization"] = "Bearer " + token
        data = json.dumps(body) if token else urllib.parse.urlencode(body)
        request = urllib.request.Request(site + path, data.encode(), headers, method=method)
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    token = ask("POST", "/login/access-token", {"username": "admin@example.com", "password": PASSWORD})["access_token"]
    book = ask("POST", "/books/", {"title": "roles"}, token)["id"]
    code = CODE.replace("@ROLE@", a.role)
    card = ask("POST", f"/books/{book}/cards/", {"language": "python", "code": code}, token)["id"]
    path = f"/books/{book}/cards/{card}/publication"
    url = ask("PUT", path, {"face": "etl", "name": "card"}, token)["url"]
    print(json.dumps({"ready": True, "listen": url.removeprefix("http://"), "pid": server.pid}), flush=True)
    sys.exit(server.wait())


if __name__ == "__main__":
    main()
