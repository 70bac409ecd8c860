"""Holds an OpenAPI document against the specification, and a server against its document.

    openapi_peer.py validate URL
    openapi_peer.py fuzz URL TOKEN [LEFT-OUT-OPERATION-ID ...]

Prints a JSON line for each case, with `ok`. The second way sends many requests that schemathesis makes up, good ones and bad ones, and
looks at what comes back.
"""

import json
import subprocess
import sys
import tempfile
import urllib.request

CHECKS = "not_a_server_error,content_type_conformance,response_schema_conformance"


def say(case, ok, **more):
    print(json.dumps({"case": case, "ok": ok, **more}), flush=True)


def validate(url):
    from openapi_spec_validator import validate as check

    with urllib.request.urlopen(url, timeout=30) as answer:
        document = json.load(answer)
    try:
        check(document)
    except Exception as error:  # The validator's errors have no common class.
        say("valid", False, error=str(error)[:2000])
        return
    say("valid", True)
    ids = [
        operation["operationId"]
        for item in document["paths"].values()
        for operation in item.values()
    ]
    say("operation ids differ", len(ids) == len(set(ids)), count=len(ids))


def fuzz(url, token, left_out):
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", url,
        "--header", f"Authorization: Bearer {token}",
        "--checks", CHECKS,
        "--phases", "examples,coverage,fuzzing",
        "--max-examples", "15",
        "--seed", "1",
        "--generation-deterministic",
        "--request-timeout", "30",
        # With more, a thread that raises the recursion limit makes CPython 3.11 fail in another.
        "--workers", "1",
        "--suppress-health-check", "all",
        "--no-color",
    ]
    for operation in left_out:
        command += ["--exclude-operation-id", operation]
    # It keeps what it found in the folder it runs in.
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    print(done.stdout[-12000:], done.stderr[-4000:], file=sys.stderr)
    say("no request makes the server fail", done.returncode == 0)


if __name__ == "__main__":
    if sys.argv[1] == "validate":
        validate(sys.argv[2])
    else:
        fuzz(sys.argv[2], sys.argv[3], sys.argv[4:])
