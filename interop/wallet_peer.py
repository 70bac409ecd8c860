"""The real Python wallet, answering one JSON request per line on stdin with one JSON line on stdout."""

import base64
import ctypes
import hashlib
import hmac
import json
import os
import sys
import time

# The wallet prints to stdout whatever it likes; answers go where stdout was.
answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)

from bittensor_wallet import Keyfile, Keypair  # noqa: E402


def make(request):
    """The key of a request; wallets before 4.1 have no crypto_type."""
    value, kind = request["value"], request["kind"]
    options = {"crypto_type": 0} if request.get("ed25519") else {}
    if kind == "uri":
        return Keypair.create_from_uri(value, **options)
    if kind == "mnemonic":
        return Keypair.create_from_mnemonic(value, **options)
    if kind == "seed":
        return Keypair.create_from_seed(value, **options)
    if kind == "private":
        return Keypair.create_from_private_key(value, **options)
    if kind == "public":
        return Keypair(ss58_address=value, **options)
    raise ValueError(kind)


def derive(request):
    return {"address": make(request).ss58_address}


def mnemonic(request):
    return {"phrase": Keypair.generate_mnemonic(request["words"])}


def sign(request):
    return {"signature": "0x" + make(request).sign(bytes.fromhex(request["message"])).hex()}


def verify(request):
    return {"valid": make(request).verify(bytes.fromhex(request["message"]), request["signature"])}


def write(request):
    password = request.get("password")
    keyfile = Keyfile(request["path"], "peer")
    keyfile.set_keypair(make(request), encrypt=password is not None, overwrite=True, password=password)
    return {}


def read(request):
    keyfile = Keyfile(request["path"], "peer")
    password = request.get("password")
    pair = keyfile.get_keypair(password) if password else keyfile.get_keypair()
    answer = {"address": pair.ss58_address}
    if "message" in request:
        answer["signature"] = "0x" + pair.sign(bytes.fromhex(request["message"])).hex()
    return answer


def padded(content):
    """PKCS#7."""
    padding = 16 - len(content) % 16
    return content + bytes([padding]) * padding


def ansible(request):
    """A vault as Ansible 1.1 makes it."""
    from Crypto.Cipher import AES

    salt = os.urandom(32)
    keys = hashlib.pbkdf2_hmac("sha256", request["password"].encode(), salt, 10_000, 80)
    cipher = AES.new(keys[:32], AES.MODE_CTR, nonce=b"", initial_value=keys[64:])
    sealed = cipher.encrypt(padded(request["text"].encode()))
    tag = hmac.new(keys[32:64], sealed, "sha256").hexdigest()
    inner = "\n".join([salt.hex(), tag, sealed.hex()]).encode().hex()
    lines = [inner[at : at + 80] for at in range(0, len(inner), 80)]
    store(request["path"], "\n".join(["$ANSIBLE_VAULT;1.1;AES256", *lines, ""]).encode())
    return {}


def fernet(request):
    """A Fernet token under the key of wallets before 2.0."""
    from Crypto.Cipher import AES

    salt = b"Iguesscyborgslikemyselfhaveatendencytobeparanoidaboutourorigins"
    key = hashlib.pbkdf2_hmac("sha256", request["password"].encode(), salt, 10_000_000, 32)
    first = os.urandom(16)
    sealed = AES.new(key[16:], AES.MODE_CBC, iv=first).encrypt(padded(request["text"].encode()))
    signed = b"\x80" + int(time.time()).to_bytes(8, "big") + first + sealed
    tag = hmac.new(key[:16], signed, "sha256").digest()
    store(request["path"], base64.urlsafe_b64encode(signed + tag))
    return {}


def store(path, content):
    with open(path, "wb") as file:
        file.write(content)
    os.chmod(path, 0o600)


def hide(request):
    """The password as the wallet puts it into the environment, past Python's copy of it."""
    keyfile = Keyfile(request["path"], "peer")
    keyfile.save_password_to_env(request["password"])
    name = keyfile.env_var_name()
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_char_p
    return {"name": name, "value": getenv(name.encode()).decode()}


OPERATIONS = {
    operation.__name__: operation
    for operation in (derive, mnemonic, sign, verify, write, read, ansible, fernet, hide)
}

for line in sys.stdin:
    request = json.loads(line)
    try:
        answer = OPERATIONS[request["op"]](request)
    except BaseException as error:  # The wallet's errors are not all Exceptions.
        answer = {"error": f"{type(error).__name__}: {error}"}
    answers.write(json.dumps(answer) + "\n")
    answers.flush()
