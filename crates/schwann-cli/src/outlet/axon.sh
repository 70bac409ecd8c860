#!/bin/sh
# Calls synapses of the axon beside this server, from a card with the setting `axon`:
#
#     axon call Echo '{"text": "hello"}'
#     axon stream Words '{"text": "a b c"}'
#     axon names
#
# Exit codes: 0 done, 1 the call failed or the stream was cut, 2 wrong usage.
usage() {
    echo "usage: axon call NAME [JSON] | axon stream NAME [JSON] | axon names" >&2
    exit 2
}
case "$1" in
    call | stream) [ $# -eq 2 ] || [ $# -eq 3 ] || usage ;;
    names) [ $# -eq 1 ] || usage ;;
    *) usage ;;
esac
if [ -z "$SCHWANN_AXON" ]; then
    echo "axon: SCHWANN_AXON is not set: has the card the setting \`axon\`?" >&2
    exit 1
fi
if ! command -v curl >/dev/null 2>&1; then
    exec python3 - "$@" <<'PYTHON'
import json, sys
import axon
try:
    if sys.argv[1] == "names":
        print(json.dumps({"synapses": axon.names()}))
    elif sys.argv[1] == "call":
        print(json.dumps(axon.call(sys.argv[2], json.loads((sys.argv + ["{}"])[3]))))
    else:
        for piece in axon.stream_bytes(sys.argv[2], json.loads((sys.argv + ["{}"])[3])):
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
except (axon.AxonError, ValueError) as error:
    sys.exit(f"axon: {error}")
PYTHON
fi
if [ "$1" = names ]; then
    curl -sS --fail-with-body --unix-socket "$SCHWANN_AXON" http://axon/ || exit 1
else
    curl -sSN --fail-with-body --unix-socket "$SCHWANN_AXON" --data-binary "${3-"{}"}" "http://axon/$1/$2" || exit 1
fi
[ "$1" = stream ] || echo
