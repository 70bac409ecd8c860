//! What stands in `deploy/aistore` fits the binary and each other.

use std::{fs, path::PathBuf};

use crate::schwann;

fn file(name: &str) -> String {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../deploy/aistore");
    fs::read_to_string(folder.join(name)).unwrap()
}

/// The value of a key that stands once, without its comment.
#[track_caller]
fn value<'a>(text: &'a str, key: &str) -> &'a str {
    let of = |line: &'a str| {
        let (name, value) = line.trim_start_matches([' ', '-']).split_once(':')?;
        (name == key).then(|| value.trim().trim_matches('"'))
    };
    let mut values = text.lines().filter(|line| !line.trim_start().starts_with('#')).filter_map(of);
    let value = values.next().unwrap_or_else(|| panic!("no {key}"));
    assert!(values.next().is_none(), "{key} stands twice");
    value
}

#[test]
fn both_manifests_start_what_the_image_has_with_flags_that_it_knows() {
    let dockerfile = file("Dockerfile");
    let image = dockerfile.rsplit("\nFROM ").next().unwrap();
    for name in ["runtime.yaml", "pod.yaml"] {
        let text = file(name);
        assert!(!text.contains('\t'), "{name}: a tab indents nothing");
        let odd = text.lines().find(|line| (line.len() - line.trim_start().len()) & 1 == 1);
        assert_eq!(odd, None, "{name}: indented by an odd number");
        let command: Vec<String> = serde_json::from_str(value(&text, "command")).unwrap();
        let (program, args) = command.split_first().unwrap();
        assert!(image.contains(&format!("COPY --from=build /schwann {program}\n")), "{name}");
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        // Whatever is wrong with the command is said before that.
        schwann(&args).bad(1, "AIS_TARGET_URL is not set");
    }
}

#[test]
fn manifests_have_what_aistore_asks_for() {
    let runtime = file("runtime.yaml");
    let name = value(&runtime.replace("    - name: AIS", ""), "name").to_owned();
    assert!((6..=32).contains(&name.len()), "{name}");
    assert_eq!(value(&runtime, "communication"), "hpush://");
    for key in ["runtime", "init_timeout", "obj_timeout", "support_direct_put", "image"] {
        value(&runtime, key);
    }
    let pod = file("pod.yaml");
    assert_eq!(value(&pod, "kind"), "Pod");
    assert_eq!(value(&pod, "communication_type"), "hpush://");
    assert_eq!((value(&pod, "path"), value(&pod, "port")), ("/health", "default"));
    assert_eq!(value(&pod, "containerPort"), "8000");
    assert_eq!(value(&runtime, "image"), value(&pod, "image"));
}

#[test]
fn the_dockerfile_is_made_of_instructions() {
    let text = file("Dockerfile").replace("\\\n", " ");
    let known = ["FROM", "WORKDIR", "COPY", "ENV", "RUN", "EXPOSE", "ENTRYPOINT", "CMD"];
    let mut stages = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (word, rest) = line.split_once(' ').unwrap();
        assert!(known.contains(&word), "{line}");
        match word {
            "FROM" => stages.extend(rest.split_once(" AS ").map(|(_, name)| name)),
            "ENTRYPOINT" | "CMD" => {
                serde_json::from_str::<Vec<String>>(rest).unwrap();
            }
            "COPY" => {
                let from = rest.strip_prefix("--from=").map(|rest| rest.split(' ').next().unwrap());
                assert!(from.is_none_or(|from| stages.contains(&from)), "{line}");
            }
            _ => {}
        }
    }
    assert!(text.contains("EXPOSE 8000"));
}
