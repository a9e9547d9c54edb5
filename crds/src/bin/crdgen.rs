//! Writes the generated kinds into `crds/yaml` of this checkout: `cargo run --package lorikeet-crds --bin crdgen`.

use std::io;
use std::path::Path;

fn main() -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("yaml");
    lorikeet_crds::yaml::files()
        .into_iter()
        .try_for_each(|(name, text)| std::fs::write(folder.join(name), text))
}
