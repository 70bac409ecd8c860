//! The page's types are made from `web/openapi.json`, so that file is what the server says of itself.

use std::{fs, path::Path};

#[test]
fn the_page_is_built_for_the_interface_that_is_served() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("web/openapi.json");
    let served = schwann_cards::Application::openapi() + "\n";
    if std::env::var_os("SCHWANN_WRITE_OPENAPI").is_some() {
        fs::write(&file, &served).expect("the file can be written");
    }
    let kept = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        kept == served,
        "{} is not what the server says; write it anew, and look at what changed:\n\
         SCHWANN_WRITE_OPENAPI=1 cargo test -p schwann-cards --test openapi",
        file.display()
    );
}
