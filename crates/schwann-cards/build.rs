//! Sees to it that the folder of the page's built files exists, as it is
//! embedded. What fills it is `cargo xtask`, so that building this crate needs
//! neither Node nor a network.

use std::{fs, io, path::Path};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=web/dist");
    fs::create_dir_all(Path::new(env!("CARGO_MANIFEST_DIR")).join("web/dist"))
}
