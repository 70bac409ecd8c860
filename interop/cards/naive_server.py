#!/usr/bin/env python3
"""Cards as one would write them in Python in an afternoon: the Python side of `cargo xtask bench`.

A FastAPI route that answers with a StreamingResponse over a subprocess, line by line. No sandbox, no log, no account, no
database, no limit: what it costs is the streaming alone.

naive_server.py async|threaded PYTHON.  Says its port when it answers, and ends when its input does.
"""
import asyncio
import json
import os
import socket
import subprocess
import sys
import threading

import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

kind, python = sys.argv[1:3]
app = FastAPI()


class Card(BaseModel):
    code: str


async def lines_of_process(code: str):
    process = await asyncio.create_subprocess_exec(
        python, "-u", "-c", code, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    async for line in process.stdout:
        yield line
    await process.wait()


def lines_of_thread(code: str):
    process = subprocess.Popen(
        [python, "-u", "-c", code], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    yield from process.stdout
    process.wait()


lines = {"async": lines_of_process, "threaded": lines_of_thread}[kind]


@app.post("/api/v1/books/{book_id}/cards/{id}/run")
async def run(book_id: str, id: str, card: Card) -> StreamingResponse:
    return StreamingResponse(lines(card.code), media_type="text/plain")


listener = socket.create_server(("127.0.0.1", 0))


class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        print(json.dumps({"ready": True, "port": listener.getsockname()[1], "api": False}), flush=True)


def leave():
    sys.stdin.read()
    os._exit(0)


threading.Thread(target=leave, daemon=True).start()
Server(uvicorn.Config(app, log_level="error", access_log=False)).run(sockets=[listener])
