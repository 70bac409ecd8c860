//! The real Python SDK calls what `schwann axon` serves from a file.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use schwann_testkit::peer::{self, Peer};

/// What `translate_client.py` has.
const CASES: usize = 8;

const FILE: &str = r#"
[axon]
listen = "127.0.0.1:0"
[key]
uri = "//interop-axon"
[[synapse]]
name = "Translate"
command = ["python3", "translate.py"]
stream = false
hash = ["text", "target"]
sandbox = "none"
[[synapse]]
name = "TranslateStream"
command = ["python3", "translate_stream.py"]
stream = true
hash = ["text", "target"]
sandbox = "none"
[[synapse]]
name = "Strict"
builtin = "echo"
bound = "required"
"#;

const TRANSLATE: &str = r#"
import json, os, sys
ask = json.load(sys.stdin)
if ask["target"] == "none":
    sys.exit("no such language")
said = ask["text"][::-1] + "@" + ask["target"]
print(json.dumps({"translated": said, "asked_by": os.environ["SYNAPSE_CALLER"]}))
"#;

const TRANSLATE_STREAM: &str = r#"
import json, sys
ask = json.load(sys.stdin)
if ask["target"] == "none":
    sys.exit("no such language")
for word in ask["text"].split():
    print(word[::-1], end=" ", flush=True)
if ask["target"] == "half":
    sys.exit("lost the rest")
"#;

#[tokio::test]
async fn its_dendrite_calls_programs() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("translate.py", TRANSLATE);
    write("translate_stream.py", TRANSLATE_STREAM);
    write("schwann.toml", FILE);
    let file = folder.path().join("schwann.toml");
    let file = file.to_str().unwrap();
    let axon =
        Peer::start(env!("CARGO_BIN_EXE_schwann"), ["axon", "--json", "--config", file]).await;
    let client = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../interop/translate_client.py");
    let port = axon.ready()["port"].to_string();
    let client = client.to_str().unwrap();
    let args = [client, "--port", &port, "--axon-hotkey", axon.said("hotkey")];
    let python = peer::interpreter("SCHWANN_PEER_SDK_10_5");
    peer::run(python, args, Duration::from_secs(180)).await.expect_all(CASES);
}

/// The same synapses as cards of `schwann up`.
const BESIDE: &str = r#"
[axon]
listen = "127.0.0.1:0"
[cards]
listen = "127.0.0.1:0"
first_superuser_password = "correct horse"
[key]
uri = "//interop-axon"
[[synapse]]
name = "Strict"
builtin = "echo"
bound = "required"
"#;

#[tokio::test]
async fn its_dendrite_calls_published_cards() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("schwann.toml");
    fs::write(&file, BESIDE).unwrap();
    let (file, data) = (file.to_str().unwrap(), folder.path().join("data"));
    let data = data.to_str().unwrap();
    let args = ["up", "--json", "--config", file, "--data", data];
    let up = Peer::start(env!("CARGO_BIN_EXE_schwann"), args).await;
    let python = peer::interpreter("SCHWANN_PEER_SDK_10_5");
    let publish = folder.path().join("publish.py");
    fs::write(&publish, PUBLISH).unwrap();
    for (name, file, code, stream) in [
        ("Translate", "translate.py", TRANSLATE, "false"),
        ("TranslateStream", "translate_stream.py", TRANSLATE_STREAM, "true"),
    ] {
        let card = folder.path().join(file);
        fs::write(&card, code).unwrap();
        let site = up.ready()["cards"]["url"].as_str().unwrap();
        let args = [publish.to_str().unwrap(), site, name, card.to_str().unwrap(), stream];
        peer::run(python.clone(), args, Duration::from_secs(60)).await.expect_all(1);
    }
    let client = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../interop/translate_client.py");
    let port = up.ready()["port"].to_string();
    let args = [client.to_str().unwrap(), "--port", &port, "--axon-hotkey", up.said("hotkey")];
    peer::run(python, args, Duration::from_secs(180)).await.expect_all(CASES);
}

/// Publishes a card with the code of a file, over the interface.
const PUBLISH: &str = r#"
import json, sys, urllib.parse, urllib.request
site, name, path, stream = sys.argv[1:]
def ask(method, path, body, token=None):
    kind = "application/json" if token else "application/x-www-form-urlencoded"
    text = json.dumps(body) if token else urllib.parse.urlencode(body)
    headers = {"Content-Type": kind, **({"Authorization": "Bearer " + token} if token else {})}
    request = urllib.request.Request(site + "/api/v1" + path, text.encode(), headers, method=method)
    return json.load(urllib.request.urlopen(request))
login = {"username": "admin@example.com", "password": "correct horse"}
token = ask("POST", "/login/access-token", login)["access_token"]
book = ask("POST", "/books/", {"title": name}, token)["id"]
card = ask("POST", f"/books/{book}/cards/", {"language": "python", "code": open(path).read()}, token)["id"]
how = {"face": "synapse", "name": name, "stream": stream == "true", "hash": ["text", "target"]}
said = ask("PUT", f"/books/{book}/cards/{card}/publication", how, token)
print(json.dumps({"case": name, "ok": said["unavailable"] is None and said["hash"] == ["text", "target"]}))
"#;

/// How many checks the conformance client of transforms has.
const CHECKS: usize = 172;

/// Each known difference is in `interop/etl/known.json` with its reason, and must be there.
#[tokio::test]
async fn a_published_card_is_a_transform_for_the_conformance_client() {
    let interop = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../interop/etl");
    let python = peer::interpreter("SCHWANN_PYTHON");
    let folder = tempfile::tempdir().unwrap();
    let card = folder.path().join("card");
    let text = format!(
        "#!/bin/sh\nSCHWANN_BINARY='{}' exec '{}' '{}' \"$@\"\n",
        env!("CARGO_BIN_EXE_schwann"),
        python.display(),
        interop.join("card.py").display()
    );
    fs::write(&card, text).unwrap();
    fs::set_permissions(&card, fs::Permissions::from_mode(0o755)).unwrap();
    let (client, card) = (interop.join("run.py"), card.as_os_str());
    let args = [client.as_os_str(), "program".as_ref(), "--profile".as_ref(), "card".as_ref()];
    let args = args.into_iter().chain(["--program".as_ref(), card]);
    // Most of its time it waits.
    let report = peer::run_in_parts(python, args, 3, Duration::from_secs(540)).await;
    report.expect_all(CHECKS);
}
