"""Calls synapses of the axon beside this server, from a card with the setting `axon`.

    from axon import call, stream

    print(call("Echo", text="hello"))            # a dict of the synapse's fields
    for piece in stream("Words", text="a b c"):  # bytes of text as they arrive
        print(piece, end="")

A failure is an AxonError; so is a stream that was cut, which is never taken for a whole one.
"""

import codecs
import http.client
import json
import os
import socket

__all__ = ["AxonError", "call", "names", "stream", "stream_bytes"]


class AxonError(Exception):
    """The call failed; `status` is the answer's, or None if there was none."""

    def __init__(self, message, status=None):
        super().__init__(message)
        self.status = status


class _Connection(http.client.HTTPConnection):
    def __init__(self):
        super().__init__("axon")

    def connect(self):
        path = os.environ.get("SCHWANN_AXON")
        if not path:
            raise AxonError("SCHWANN_AXON is not set: has the card the setting `axon`?")
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(path)


def _ask(method, path, body=None):
    connection = _Connection()
    try:
        headers = {"Content-Type": "application/json", "Connection": "close"}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        if answer.status == 200:
            return connection, answer
        text = answer.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        raise AxonError(f"the axon cannot be reached: {error!r}") from error
    connection.close()
    try:
        text = json.loads(text)["detail"]
    except (KeyError, TypeError, ValueError):
        pass
    raise AxonError(f"{answer.status}: {text}", answer.status)


def names():
    """What can be called."""
    connection, answer = _ask("GET", "/")
    try:
        return json.loads(answer.read())["synapses"]
    except (OSError, http.client.HTTPException) as error:
        raise AxonError("the answer was cut") from error
    finally:
        connection.close()


def call(name, fields=None, /, **more):
    """The fields of the synapse as it came back."""
    body = json.dumps({**(fields or {}), **more})
    connection, answer = _ask("POST", f"/call/{name}", body)
    try:
        return json.loads(answer.read())
    except (OSError, http.client.HTTPException) as error:
        raise AxonError("the answer was cut") from error
    finally:
        connection.close()


def stream_bytes(name, fields=None, /, **more):
    """What a streaming synapse says, as it arrives."""
    body = json.dumps({**(fields or {}), **more})
    connection, answer = _ask("POST", f"/stream/{name}", body)
    try:
        while piece := answer.read1(65536):
            yield piece
        # `read1` takes the end of a connection for the end of the answer.
        if answer.chunked and not answer.isclosed():
            raise AxonError("the stream was cut")
    except (OSError, http.client.HTTPException) as error:
        raise AxonError("the stream was cut") from error
    finally:
        connection.close()


def stream(name, fields=None, /, **more):
    """The same as text, never cut within a character."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for piece in stream_bytes(name, fields, **more):
        text = decoder.decode(piece)
        if text:
            yield text
    rest = decoder.decode(b"", True)
    if rest:
        yield rest
