//! Reads an adapter's configuration and the size of its weights from a folder of this machine.

use std::fs::File;
use std::io::{Error, ErrorKind, Read as _};
use std::path::Path;

use crate::fleet::Probe;
use crate::probe::{config, weights};

/// What the adapter in `folder` says of itself.
///
/// # Errors
/// Its configuration, or its weights, cannot be read.
pub(super) fn read(folder: &Path) -> Result<Probe, String> {
    let read = opened(&folder.join("adapter_config.json")).and_then(|(file, _)| {
        let mut json = Vec::new();
        file.take(config::MAX_BYTES as u64 + 1).read_to_end(&mut json).map(|_| json)
    });
    let json = read.map_err(|error| format!("adapter_config.json: {error}"))?;
    Ok(match config::read(&json) {
        Probe::Facts(mut facts) => {
            let size = size(&folder.join("adapter_model.safetensors"));
            facts.bytes = size.map_err(|error| format!("adapter_model.safetensors: {error}"))?;
            Probe::Facts(facts)
        }
        other => other,
    })
}

/// A file that is one: opening a pipe would wait for its writer.
fn opened(path: &Path) -> std::io::Result<(File, u64)> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(Error::new(ErrorKind::InvalidInput, "not a file"));
    }
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    Ok((file, length))
}

fn size(path: &Path) -> std::io::Result<Option<u64>> {
    let (mut file, length) = opened(path)?;
    let mut start = [0; weights::START];
    file.read_exact(&mut start)?;
    Ok(weights::size(length, start))
}
