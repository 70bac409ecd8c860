#!/usr/bin/env python3
"""Starts the servers of one family in every role, and runs the conformance checks against them.

  run.py program --program PATH      a program that takes `--role ROLE --listen ADDRESS` and says its address
  run.py fastapi | flask | flaskdev | http      the servers of the Python SDK that this interpreter has

Prints a JSON line for each check, with `case` and `ok`, and a summary; its exit code is 0 if every check was as
expected.  `--part 1/3` runs every third check, so that three runs share the work; `--only TEXT` those whose name
contains it; `--record FOLDER` keeps what was on the wire.
"""
import argparse
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import conformance  # noqa: E402
import edge_checks  # noqa: E402,F401  registers its checks
from fake_target import FakeTarget  # noqa: E402
from launch import Server, prefixed  # noqa: E402

ROLES = ("echo", "md5", "upper", "probe", "probe-stream", "echo-stream")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("family", choices=["program", "fastapi", "flask", "flaskdev", "http"])
    ap.add_argument("--program")
    ap.add_argument("--only", default="")
    ap.add_argument("--part", default="1/1")
    ap.add_argument("--record", metavar="FOLDER")
    ap.add_argument("--large", action="store_true", help="1 GiB in place of 256 MiB where memory is measured")
    ap.add_argument("--profile", default="strict", help="of a program: the known differences in known.json")
    a = ap.parse_args()
    if (a.family == "program") != bool(a.program):
        ap.error("--program PATH belongs to the family `program`")
    which, of = (int(n) for n in a.part.split("/"))
    target = FakeTarget()
    servers = {}
    counts = {}
    good = True
    try:
        def start(name, role, **env):
            servers[name] = Server(a.family, role, target.port, program=a.program, env=env)

        for role in ROLES:
            start(role, role)
        start("fqn", "fqn" if a.program else "probe", ETL_DIRECT_FQN="true")
        start("auth", "echo", AIS_AUTHN_TOKEN="tok-123")
        pids = {name: s.pids() for name, s in servers.items()}
        env = conformance.Env({name: s.url for name, s in servers.items()}, target, pids,
                              a.profile if a.program else a.family, a.large)
        start("down", "echo", AIS_TARGET_URL=prefixed(env.refused))
        env.urls["down"] = servers["down"].url
        try:
            for r in conformance.run(env, a.only, (which - 1, of), a.record):
                # A check that a server gives no occasion for is no pass of ours.
                ok = r["status"] in (("PASS", "XFAIL") if a.program else ("PASS", "XFAIL", "SKIP"))
                good &= ok
                counts[r["status"]] = counts.get(r["status"], 0) + 1
                print(json.dumps({"case": r["check"], "ok": ok, **r}), flush=True)
        finally:
            env.close()
    finally:
        for s in servers.values():
            s.stop()
        target.close()
    print(json.dumps({"family": a.family, "summary": counts}), flush=True)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
