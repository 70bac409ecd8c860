#!/usr/bin/env python3
"""Real SDK dendrite that calls the synapses of a file that `schwann axon` serves.

Prints one JSON line per case; exit code 0 if every case was as expected.
"""
import btcompat as C  # must be first
import argparse
import asyncio
import sys
from typing import ClassVar, Optional, Tuple

p = argparse.ArgumentParser()
p.add_argument("--port", type=int, required=True)
p.add_argument("--axon-hotkey", required=True)
p.add_argument("--uri", default="//interop-dendrite")
p.add_argument("--timeout", type=float, default=60.0)
a = p.parse_args(C.ARGV)
C.fix_external_ip()


class Translate(C.Synapse):
    text: str
    target: str
    translated: Optional[str] = None
    asked_by: Optional[str] = None
    required_hash_fields: ClassVar[Tuple[str, ...]] = ("text", "target")


class Strict(C.Synapse):
    """Its route demands signatures that the SDK cannot make."""


class TranslateStream(C.StreamingSynapse):
    text: str
    target: str
    translated: str = ""
    required_hash_fields: ClassVar[Tuple[str, ...]] = ("text", "target")

    async def process_streaming_response(self, response):
        async for chunk in response.content.iter_any():
            text = chunk.decode("utf-8", "replace")
            self.translated += text
            yield text

    def deserialize(self):
        return self.translated

    def extract_response_json(self, response):
        return {"text": self.text, "target": self.target, "translated": self.translated}


AXON = C.AxonInfo(version=C.version_as_int, ip="127.0.0.1", port=a.port, ip_type=4, hotkey=a.axon_hotkey,
                  coldkey="5Gp7eLFWH8TtpymVQjmyYLdabreB6j6Jgw2PMPf6DQFSh2sY")
CALLER = C.keypair(a.uri).ss58_address


async def call(d, synapse):
    r = await d(axons=AXON, synapse=synapse, timeout=a.timeout, deserialize=False)
    return r, {"status": r.dendrite.status_code, "message": r.dendrite.status_message}


async def stream(d, synapse):
    pieces, last = [], None
    async for piece in await d(axons=AXON, synapse=synapse, timeout=a.timeout, deserialize=False, streaming=True):
        if isinstance(piece, str):
            pieces.append(piece)
        else:
            last = piece
    await d.aclose_session()
    status = last.dendrite.status_code if last is not None else None
    message = last.dendrite.status_message if last is not None else None
    return "".join(pieces), {"status": status, "message": message, "pieces": pieces}


async def case_unary(d):
    r, shown = await call(d, Translate(text="abc", target="de"))
    return shown["status"] == 200 and (r.translated, r.asked_by) == ("cba@de", CALLER), shown


async def case_unicode(d):
    r, shown = await call(d, Translate(text="h\u00e9 \U0001f600 'x' \"y\"", target="de"))
    return shown["status"] == 200 and r.translated == "\"y\" 'x' \U0001f600 \u00e9h@de", shown


async def case_program_fails(d):
    r, shown = await call(d, Translate(text="abc", target="none"))
    told = str(shown["message"])
    return shown["status"] == 500 and told.startswith("Internal Server Error #") and "language" not in told, shown


async def case_in_turn(d):
    r = await d(axons=[AXON] * 3, synapse=Translate(text="abc", target="de"), timeout=a.timeout, deserialize=False,
                run_async=False)
    return [x.translated for x in r] == ["cba@de"] * 3, {"statuses": [x.dendrite.status_code for x in r]}


async def case_strict(d):
    r, shown = await call(d, Strict())
    return shown["status"] == 401 and "bound signature" in shown["message"], shown


async def case_stream(d):
    text, shown = await stream(d, TranslateStream(text="one two three", target="de"))
    return shown["status"] == 200 and text == "eno owt eerht ", shown


async def case_stream_cut(d):
    """The program fails after it has begun: the SDK must not take it for whole."""
    text, shown = await stream(d, TranslateStream(text="one two three", target="half"))
    return shown["status"] != 200 and "eno owt eerht ".startswith(text), shown


async def case_stream_refused(d):
    text, shown = await stream(d, TranslateStream(text="one", target="none"))
    return shown["status"] == 500, shown


CASES = {k[5:]: v for k, v in list(globals().items()) if k.startswith("case_")}


async def main():
    d = C.Dendrite(wallet=C.keypair(a.uri))
    bad = 0
    for name, case in CASES.items():
        try:
            ok, shown = await case(d)
        except Exception as e:  # noqa: BLE001
            ok, shown = False, {"exception": f"{type(e).__name__}: {e}"}
        bad += not ok
        C.say({"case": name, "ok": bool(ok), **shown})
    await d.aclose_session()
    return bad


sys.exit(1 if asyncio.run(main()) else 0)
