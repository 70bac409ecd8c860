#!/usr/bin/env python3
"""The real SDK's dendrite calls many axons: the Python side of `cargo xtask bench`.

Reads one job a line, {"ports", "hotkey", "slow", "rounds", "timeout", "kept"}.  Says when it is prepared, begins at
the next line, and prints how many calls ended with which status.  Ends when its input does.
"""
import btcompat as C  # must be first: sets HOME, hides argv
import asyncio
import json
import sys

import synapses as S

C.fix_external_ip("203.0.113.7")
wallet = C.make_wallet("//bench-dendrite")


async def run(dendrite, job):
    axons = [C.AxonInfo(version=C.version_as_int, ip="127.0.0.1", port=port, ip_type=4, hotkey=job["hotkey"],
                        coldkey=job["hotkey"]) for port in job["ports"]]
    codes = {}
    for _ in range(job["rounds"]):
        caller = dendrite if job["kept"] else C.Dendrite(wallet=wallet)
        synapse = S.SlowSynapse(delay=1.0, done=False) if job["slow"] else S.PlainSynapse(x=21)
        for answer in await caller(axons=axons, synapse=synapse, timeout=job["timeout"], deserialize=False):
            code = str(answer.dendrite.status_code)
            codes[code] = codes.get(code, 0) + 1
    return {"operations": sum(codes.values()), "codes": codes}


loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
dendrite = C.Dendrite(wallet=wallet)
C.say({"ready": True, "sdk": C.VERSION})
while line := sys.stdin.readline():
    job = json.loads(line)
    C.say({"prepared": True})
    if not sys.stdin.readline():
        break
    C.say(loop.run_until_complete(run(dendrite, job)))
