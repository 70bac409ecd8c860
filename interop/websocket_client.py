"""Two WebSocket clients that are widely used, against an ETL server that echoes: does it speak RFC 6455?

Both offer compression, which the server does not take. Prints one JSON line for each case.
"""

import asyncio
import json
import os
import sys

import aiohttp
import websockets

PORT = int(sys.argv[1])
URL = f"127.0.0.1:{PORT}/ws"
SIZES = (0, 1, 125, 126, 65535, 65536, 3_000_000)


async def case_websockets():
    async with websockets.connect(f"ws://{URL}", max_size=None) as client:
        for size in SIZES:
            sent = os.urandom(size)
            await client.send(json.dumps({"path": "o"}).encode())
            await client.send(sent)
            if await client.recv() != sent:
                return f"{size} bytes came back altered"
        return None


async def case_websockets_fragments():
    async with websockets.connect(f"ws://{URL}", max_size=None) as client:
        parts = [os.urandom(1000) for _ in range(50)]
        await client.send(b"{}")
        await client.send(iter(parts))
        if await client.recv() != b"".join(parts):
            return "fragments came back altered"
        await (await client.ping(b"hi"))
    return None if client.close_code == 1000 else f"closed with {client.close_code}"


async def case_aiohttp():
    async with aiohttp.ClientSession() as session:
        async with session.ws_connect(f"http://{URL}", max_msg_size=0, compress=15) as client:
            for size in SIZES:
                sent = os.urandom(size)
                await client.send_bytes(b'{"path":"o"}')
                await client.send_bytes(sent)
                back = await client.receive()
                if back.type != aiohttp.WSMsgType.BINARY or back.data != sent:
                    return f"{size} bytes came back altered"
            await client.send_str("{}")
            back = await client.receive()
            if back.type != aiohttp.WSMsgType.CLOSE or back.data != 1000:
                return f"a text as control message: {back}"
    return None


async def main():
    bad = 0
    for name, case in list(globals().items()):
        if not name.startswith("case_"):
            continue
        try:
            wrong = await asyncio.wait_for(case(), 60)
        except Exception as error:  # noqa: BLE001
            wrong = f"{type(error).__name__}: {error}"
        bad += wrong is not None
        print(json.dumps({"case": name[5:], "ok": wrong is None, "wrong": wrong}), flush=True)
    return bad


sys.exit(1 if asyncio.run(main()) else 0)
