// Calls synapses of the axon beside this server, from a card with the setting `axon`.
//
//     const { call, stream } = require("axon");
//     console.log(await call("Echo", { text: "hello" }));
//     for await (const piece of stream("Words", { text: "a b c" })) process.stdout.write(piece);
//
// A failure is an AxonError; so is a stream that was cut, which is never taken for a whole one.
"use strict";
const http = require("node:http");

class AxonError extends Error {
  constructor(message, status) {
    super(message);
    this.name = "AxonError";
    this.status = status;
  }
}

function ask(method, path, fields) {
  const socketPath = process.env.SCHWANN_AXON;
  if (!socketPath) {
    return Promise.reject(new AxonError("SCHWANN_AXON is not set: has the card the setting `axon`?"));
  }
  return new Promise((resolve, reject) => {
    const headers = { "Content-Type": "application/json", Host: "axon" };
    const request = http.request({ socketPath, method, path, headers, agent: false }, resolve);
    request.on("error", (error) => reject(new AxonError(`the axon cannot be reached: ${error.message}`)));
    request.end(fields === undefined ? undefined : JSON.stringify(fields));
  });
}

async function whole(answer) {
  const pieces = [];
  try {
    for await (const piece of answer) pieces.push(piece);
  } catch (error) {
    throw new AxonError(`the answer was cut: ${error.message}`);
  }
  return Buffer.concat(pieces).toString("utf8");
}

async function good(answer) {
  if (answer.statusCode === 200) return answer;
  let text = await whole(answer);
  try {
    text = JSON.parse(text).detail ?? text;
  } catch {}
  throw new AxonError(`${answer.statusCode}: ${text}`, answer.statusCode);
}

/** What can be called. */
async function names() {
  return JSON.parse(await whole(await good(await ask("GET", "/")))).synapses;
}

/** The fields of the synapse as it came back. */
async function call(name, fields = {}) {
  return JSON.parse(await whole(await good(await ask("POST", `/call/${name}`, fields))));
}

/** What a streaming synapse says, as text and as it arrives. */
async function* stream(name, fields = {}) {
  const answer = await good(await ask("POST", `/stream/${name}`, fields));
  answer.setEncoding("utf8");
  try {
    yield* answer;
  } catch (error) {
    throw new AxonError(`the stream was cut: ${error.message}`);
  }
}

module.exports = { AxonError, call, names, stream };
