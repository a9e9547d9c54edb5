//! `lorikeet inspect SRC`: what a model or an adapter is, or why it would be refused, without loading it. Must say what
//! serving says: it goes through the same readers, and a refusal is their message. With `--glimpse` it fetches nothing and
//! judges nothing: it says what the source says.

mod adapter;
mod glimpse;
mod locate;
mod model;
mod table;

use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;
use serde_json::json;

pub use adapter::AdapterReport;
pub use glimpse::glimpse;
pub use locate::{Located, locate};
pub use model::ModelReport;

use crate::adapters::build::{AdapterLimits, FILES};

/// What was found.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Report {
    /// A base model.
    Model(Box<ModelReport>),
    /// An adapter.
    Adapter(Box<AdapterReport>),
}

/// What to inspect, and how to say it.
#[derive(Clone, Copy, Debug)]
pub struct Inspection<'a> {
    /// A directory, or a GGUF file.
    pub path: &'a Path,
    /// The base model that an adapter is checked against.
    pub model: Option<&'a Path>,
    /// What an adapter may ask for.
    pub limits: AdapterLimits,
    /// JSON rather than a table.
    pub json: bool,
}

/// Inspects and writes what it found, or the refusal, to `out`. Whether it would be served.
///
/// # Errors
/// When `out` fails.
pub fn run(inspection: &Inspection<'_>, out: &mut dyn Write) -> io::Result<bool> {
    let found = inspect(inspection);
    match (&found, inspection.json) {
        (Ok(report), false) => write!(out, "{}", report.table())?,
        (Err(reason), json) => refuse(reason, json, out)?,
        (Ok(report), true) => {
            let mut value = serde_json::to_value(report)?;
            value["accepted"] = json!(true);
            writeln!(out, "{value:#}")?;
        }
    }
    Ok(found.is_ok())
}

/// Writes a refusal.
///
/// # Errors
/// When `out` fails.
pub fn refuse(reason: &str, json: bool, out: &mut dyn Write) -> io::Result<()> {
    match json {
        true => writeln!(out, "{:#}", json!({"accepted": false, "reason": reason})),
        false => writeln!(out, "refused: {reason}"),
    }
}

/// What is at the path.
///
/// # Errors
/// The message that serving would give.
pub fn inspect(inspection: &Inspection<'_>) -> Result<Report, String> {
    let path = inspection.path;
    let is_adapter = FILES.iter().any(|file| path.join(file).exists())
        || (path.is_dir() && !path.join("config.json").exists() && path.join("adapter_model.bin").exists());
    if is_adapter {
        let report = adapter::inspect(path, inspection.model, &inspection.limits)?;
        return Ok(Report::Adapter(Box::new(report)));
    }
    if inspection.model.is_some() {
        return Err(not_an_adapter(path));
    }
    Ok(Report::Model(Box::new(model::inspect(path)?)))
}

/// Why `path`, which is to be checked against a model, is no adapter.
fn not_an_adapter(path: &Path) -> String {
    let shown = path.display();
    if !path.exists() {
        format!("{shown}: not found")
    } else if path.join("config.json").exists() || path.extension().is_some_and(|name| name == "gguf") {
        format!("{shown}: this is a model; --model is for adapters, which are checked against one")
    } else if path.is_dir() {
        format!("{shown}: adapter_config.json: not found")
    } else {
        format!("{shown}: expected the directory of an adapter, got a file")
    }
}

impl Report {
    fn table(&self) -> String {
        match self {
            Self::Model(model) => model.table(),
            Self::Adapter(adapter) => adapter.table(),
        }
    }
}

#[cfg(test)]
mod tests;
