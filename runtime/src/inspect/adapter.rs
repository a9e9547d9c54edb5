//! An adapter's report: of its two files, and whether it fits a base model. Must not load the base model.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;

use super::model;
use super::table::{Table, bytes, count};
use crate::adapters::build::{self, AdapterLimits};
use crate::adapters::files;
use crate::adapters::peft::Peft;
use crate::model::modules::{BaseRows, Module};
use crate::safetensors::Header;
use crate::source::folder::Folder;

/// What an adapter is.
#[derive(Debug, Serialize)]
pub struct AdapterReport {
    /// Where it is.
    pub path: String,
    /// The content digest of its two files: its generation.
    pub digest: String,
    /// The model that it was trained on, as it was called there.
    pub base_model: Option<String>,
    /// The ranks of its updates.
    pub ranks: BTreeSet<usize>,
    /// Alpha, where no pattern says otherwise.
    pub alpha: f64,
    /// What updates are multiplied by.
    pub scales: Vec<f64>,
    /// Updates by the last name of their module.
    pub modules: BTreeMap<String, usize>,
    /// Features beyond a plain rank and alpha.
    pub features: BTreeMap<&'static str, String>,
    /// Parameters by how they are stored.
    pub dtypes: BTreeMap<String, u64>,
    /// Bytes of the weights file.
    pub file_bytes: u64,
    /// The base model that it was checked against, and fits.
    pub fits: Option<Fit>,
}

/// An adapter on a base model.
#[derive(Debug, Serialize)]
pub struct Fit {
    /// The base model.
    pub model: String,
    /// Bytes that the adapter takes in memory.
    pub memory_bytes: u64,
}

pub(super) fn inspect(
    path: &Path,
    base: Option<&Path>,
    limits: &AdapterLimits,
) -> Result<AdapterReport, String> {
    let folder = Folder::trusted(path.to_owned());
    let read = files::read(&folder, limits.file.file_bytes).map_err(|error| error.to_string())?;
    let peft = Peft::parse(&read.config, limits.rank).map_err(|error| error.to_string())?;
    let header = Header::parse(&read.weights, &limits.file)
        .map_err(|error| format!("adapter_model.safetensors: {error}"))?;
    let mut report = AdapterReport {
        path: path.display().to_string(),
        digest: build::digest(&read.config, &read.weights).to_string(),
        base_model: peft.base_model.clone(),
        ranks: BTreeSet::new(),
        alpha: peft.alpha,
        scales: Vec::new(),
        modules: BTreeMap::new(),
        features: peft.features(),
        dtypes: BTreeMap::new(),
        file_bytes: read.weights.len() as u64,
        fits: None,
    };
    for (name, tensor) in &header.tensors {
        *report.dtypes.entry(tensor.dtype.to_string().to_lowercase()).or_default() +=
            tensor.shape.iter().product::<usize>() as u64;
        let Some(path) = updated(name) else { continue };
        report.ranks.extend(tensor.shape.first());
        report.scales.push(peft.scale_of(path));
        *report.modules.entry(path.rsplit('.').next().unwrap_or(path).to_owned()).or_default() += 1;
    }
    report.scales.sort_by(f64::total_cmp);
    report.scales.dedup();
    if let Some(base) = base {
        let (_, shape) = model::open(base).map_err(|error| format!("--model {}: {error}", base.display()))?;
        let built = build::build(&read.config, &read.weights, &shape, &Ones, limits)
            .map_err(|error| error.to_string())?;
        report.fits = Some(Fit { model: base.display().to_string(), memory_bytes: built.bytes });
    }
    Ok(report)
}

/// The module that a tensor is the A of.
fn updated(name: &str) -> Option<&str> {
    let name = name.strip_prefix("base_model.model.").unwrap_or(name);
    name.strip_suffix(".lora_A.weight").or_else(|| name.strip_suffix(".lora_embedding_A"))
}

/// Rows that stand in for the base model's: whether an adapter fits is a matter of shapes.
struct Ones;

impl BaseRows for Ones {
    fn row(&self, _: &Module, _: usize, row: &mut [f32]) {
        row.fill(1.0);
    }

    fn bias(&self, module: &Module) -> Option<Vec<f32>> {
        module.has_bias.then(|| vec![0.0; module.outputs()])
    }
}

impl AdapterReport {
    pub(super) fn table(&self) -> String {
        let list = |items: &mut dyn Iterator<Item = String>| items.collect::<Vec<_>>().join(", ");
        let modules = list(&mut self.modules.iter().map(|(name, times)| format!("{name} ×{times}")));
        let dtypes =
            list(&mut self.dtypes.iter().map(|(name, elements)| format!("{} {name}", count(*elements))));
        let features = list(&mut self.features.iter().map(|(name, value)| match value.as_str() {
            "yes" => (*name).to_owned(),
            value => format!("{name}: {value}"),
        }));
        let scales = match self.scales.as_slice() {
            [] => "-".into(),
            [one] => format!("{one}"),
            [least, .., most] => format!("{least} to {most}"),
        };
        let fits = self.fits.as_ref();
        Table::new(format!("adapter {}", self.path))
            .row("digest", &self.digest)
            .row("trained on", self.base_model.as_deref().unwrap_or("not said"))
            .row("rank", list(&mut self.ranks.iter().map(ToString::to_string)))
            .row("alpha", self.alpha)
            .row("scale", scales)
            .row("modules", modules)
            .maybe("features", Some(features))
            .row("parameters", dtypes)
            .row("on disk", bytes(self.file_bytes))
            .maybe("in memory", fits.map(|fit| bytes(fit.memory_bytes)))
            .row("fits", fits.map_or_else(|| "not checked: give --model".into(), |fit| fit.model.clone()))
            .render()
    }
}
