#!/usr/bin/env python3
"""The synapse classes of a shapes file, made with the real SDK: served as an axon that
echoes, or called as a dendrite.  Listens on 127.0.0.1 only.

    shapes_peer.py serve --shapes FILE --port P
    shapes_peer.py call --shapes FILE --port P --axon-hotkey SS58 --values FILE

`serve` prints one JSON line when it accepts connections.  `call` prints one for each
class, `ok` if every field came back as it was sent.  Types of a subnet's own become the
JSON type they are sent as.  A streaming class streams the JSON of its fields.
"""
import btcompat as C  # must be first: sets HOME, hides argv
import argparse
import asyncio
import json
import os
import signal
import socket
import sys
import threading
import time
import typing
from typing import Any, ClassVar, Optional, Tuple

from pydantic import create_model

p = argparse.ArgumentParser()
p.add_argument("mode", choices=["serve", "call"])
p.add_argument("--shapes", required=True)
p.add_argument("--port", type=int, required=True)
p.add_argument("--uri")
p.add_argument("--axon-hotkey")
p.add_argument("--values", help="a JSON object: class name to fields")
p.add_argument("--timeout", type=float, default=30.0)
a = p.parse_args(C.ARGV)

BASE = ("name", "timeout", "total_size", "header_size", "dendrite", "axon", "computed_body_hash")


def own(fields):
    return {k: v for k, v in fields.items() if k not in BASE and k != "streamed"}


class Streaming(C.StreamingSynapse):
    """What the SDK leaves to subnets, as they write it."""

    streamed: Optional[str] = None

    async def process_streaming_response(self, response):
        # Bytes first: a chunk may end within a character.
        data = b""
        async for chunk in response.content.iter_any():
            data += chunk
            yield chunk.decode("utf-8", "replace")
        self.streamed = data.decode("utf-8")

    def deserialize(self):
        return self.streamed

    def extract_response_json(self, response):
        headers = {k.decode("utf-8"): v.decode("utf-8") for k, v in response.__dict__["_raw_headers"]}

        def pick(prefix):
            return {k.split("_")[-1]: v for k, v in headers.items() if k.startswith(prefix)}

        said = own(self.model_dump())
        said.update(name=headers.get("name", ""), timeout=float(headers.get("timeout", 0)), streamed=self.streamed,
                    dendrite=pick("bt_header_dendrite"), axon=pick("bt_header_axon"))
        return said


def json_type(bases):
    """What a subnet's own type is sent as."""
    if "IntEnum" in bases:
        return int
    if "Enum" in bases:
        return str
    return dict


def types_of(shape):
    known = {name: getattr(typing, name) for name in typing.__all__}
    known.update(typing=typing, datetime=str, Any=Any)
    known.update({name: json_type(bases) for name, bases in (shape.get("custom_types") or {}).items()})

    class Names(dict):
        def __missing__(self, name):
            # A type that the file does not describe: some nested model.
            if hasattr(__builtins__, name):
                raise KeyError(name)
            return dict

    return Names(known)


def make(at, shape):
    names = types_of(shape)
    fields = {}
    for field in shape["fields"]:
        kind = eval(field["type"], {}, names)  # noqa: S307 the file is part of the project
        if kind is typing.Dict:
            kind = dict
        fields[field["name"]] = (kind, ...) if field["required"] else (Optional[kind], None)
    hashed = shape.get("required_hash_fields") or []
    if "Field" in (shape.get("rhf_style") or ""):
        # The old way to declare them hashes in the order of the model.
        order = [field["name"] for field in shape["fields"]]
        hashed = sorted(hashed, key=order.index)
    streams = any(base.endswith("StreamingSynapse") for base in shape["bases"])
    base = Streaming if streams else C.Synapse
    name = f"{shape['class']}{at}"
    parent = type(name + "Base", (base,), {
        "__module__": __name__,
        "__annotations__": {"required_hash_fields": ClassVar[Tuple[str, ...]]},
        "required_hash_fields": tuple(hashed),
    })
    return create_model(name, __base__=parent, __module__=__name__, **fields), streams


with open(a.shapes, encoding="utf-8") as f:
    CLASSES = [make(at, shape) for at, shape in enumerate(json.load(f))]


def serve():
    ax = C.make_axon(a.uri or "//interop-axon", a.port)
    for cls, streams in CLASSES:
        ax.attach(forward_fn=stream_of(cls) if streams else echo_of(cls))
    ax.start()
    for _ in range(1500):
        try:
            socket.create_connection(("127.0.0.1", a.port), 0.2).close()
            break
        except OSError:
            time.sleep(0.02)
    else:
        C.say({"ready": False})
        os._exit(1)
    C.say({"ready": True, "sdk": C.VERSION, "port": a.port, "hotkey": ax.wallet.hotkey.ss58_address,
           "synapses": list(ax.forward_class_types)})
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    while not stop.wait(0.2):
        pass
    ax.stop()
    os._exit(0)


def echo_of(cls):
    async def echo(synapse):
        return synapse
    echo.__annotations__ = {"synapse": cls, "return": cls}
    return echo


def stream_of(cls):
    async def stream(synapse):
        fields = own(synapse.model_dump())
        text = json.dumps(fields).encode()

        async def streamer(send):
            for start in range(0, len(text), 7):
                await send({"type": "http.response.body", "body": text[start:start + 7], "more_body": True})

        return synapse.create_streaming_response(streamer)
    stream.__annotations__ = {"synapse": cls}
    return stream


async def call():
    with open(a.values, encoding="utf-8") as f:
        values = json.load(f)
    C.fix_external_ip()
    dendrite = C.Dendrite(wallet=C.make_wallet(a.uri or "//interop-dendrite"))
    target = C.AxonInfo(version=C.version_as_int, ip="127.0.0.1", port=a.port, ip_type=4, hotkey=a.axon_hotkey, coldkey="")
    good = True
    for cls, streams in CLASSES:
        sent = values[cls.__name__]
        try:
            synapse = cls(**sent)
            if streams:
                final = None
                async for part in await dendrite(axons=target, synapse=synapse, timeout=a.timeout, deserialize=False, streaming=True):
                    final = part
                got = own(json.loads(final.streamed or "{}"))
            else:
                final = await dendrite(axons=target, synapse=synapse, timeout=a.timeout, deserialize=False)
                got = own(final.model_dump())
            ok = final.dendrite.status_code == 200 and same(got, sent)
            line = {"case": cls.__name__, "ok": ok, "status": final.dendrite.status_code, "message": final.dendrite.status_message}
            if not ok:
                line.update(got=got, sent=sent)
        except Exception as e:  # noqa: BLE001 it is this case's failure
            ok, line = False, {"case": cls.__name__, "ok": False, "error": f"{type(e).__name__}: {e}"}
        good = good and ok
        C.say(line)
    await dendrite.aclose_session()
    return good


def same(got, sent):
    # By text: 1 and 1.0 and True are equal to Python.
    return json.dumps(got, sort_keys=True) == json.dumps(sent, sort_keys=True)


if a.mode == "serve":
    serve()
else:
    all_good = asyncio.run(call())
    sys.stdout.flush()
    os._exit(0 if all_good else 1)
