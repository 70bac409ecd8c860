//! The real Python SDK calls what `schwann axon` serves from a file.

use std::{fs, path::Path, time::Duration};

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
