//! Documents become objects that are applied: what a person would get from `kubectl apply` is told of each file. What is
//! refused leaves the object that is there as it is, and touches no other. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use lorikeet_crds::{Adapter, Deployment};
use serde_json::Value;

use crate::up::admit::{Fault, Rules, admit_metadata};
use crate::up::files::Document;
use crate::up::state::{Kept, Key, Objects, manifest_of};

/// The content of Secrets, by name.
pub type Secrets = BTreeMap<Key, BTreeMap<String, ByteString>>;

/// What the documents say together.
#[derive(Default)]
pub struct Manifests {
    deployments: Vec<(Deployment, String)>,
    adapters: Vec<(Adapter, String)>,
    /// Every object that a document names, refused or not, and the document that it is read from.
    named: BTreeMap<(&'static str, Key), Arc<Document>>,
    /// Files with a document of which nobody can say what it names: what came from them stays.
    unclear: BTreeSet<String>,
    /// The labels of namespaces.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// The content of Secrets.
    pub secrets: Secrets,
    /// The file that each of both was read from.
    origins: BTreeMap<(&'static str, Key), String>,
    /// What is wrong: `FILE:LINE: OBJECT: FIELD: what`.
    pub faults: Vec<String>,
    /// Kinds that mean nothing here: `FILE:LINE: KIND`.
    pub skipped: Vec<String>,
}

/// The rules of both kinds.
pub struct Admission {
    deployments: Rules,
    adapters: Rules,
}

impl Default for Admission {
    fn default() -> Self {
        Self { deployments: Rules::of::<Deployment>(), adapters: Rules::of::<Adapter>() }
    }
}

impl Admission {
    /// Reads `documents` against the objects that are there.
    #[must_use]
    pub fn read(
        &self,
        documents: &[Arc<Document>],
        deployments: &Objects<Deployment>,
        adapters: &Objects<Adapter>,
    ) -> Manifests {
        let mut read = Manifests { named: owners(documents, deployments, adapters), ..Manifests::default() };
        for document in documents {
            let file = document.file.display().to_string();
            let value = match &document.content {
                Ok(value) => value,
                Err((line, why)) => {
                    read.faults.push(format!("{file}:{line}: {why}"));
                    read.unclear.insert(file);
                    continue;
                }
            };
            let (group, kind) = (document.text_at("/apiVersion"), document.text_at("/kind"));
            match (group.map(|group| group.split('/').next().unwrap_or(group)), kind) {
                (Some(lorikeet_crds::GROUP), Some("Deployment")) => {
                    let found = self.object(&mut read, document, value, &self.deployments, deployments);
                    read.deployments.extend(found.map(|object| (object, file)));
                }
                (Some(lorikeet_crds::GROUP), Some("Adapter")) => {
                    let found = self.object(&mut read, document, value, &self.adapters, adapters);
                    read.adapters.extend(found.map(|object| (object, file)));
                }
                // A file of a model or an adapter that lies beside the manifests.
                (None, None) if document.file.extension().is_some_and(|ending| ending == "json") => {
                    read.unclear.insert(file);
                }
                (Some(lorikeet_crds::GROUP), _) | (None, _) | (_, None) => {
                    let (field, got) = if group.is_none() { ("apiVersion", group) } else { ("kind", kind) };
                    let fault = Fault::new(
                        field,
                        format!(
                            "expected lorikeet.dev/v1alpha1 and Deployment or Adapter, or a kind of Kubernetes' own, got {}",
                            got.map_or_else(|| "none".to_owned(), |got| format!("{got:?}"))
                        ),
                    );
                    read.fault(document, &fault);
                    read.unclear.insert(file);
                }
                (Some("v1"), Some("Namespace")) => read.namespace(document, value),
                (Some("v1"), Some("Secret")) => read.secret(document, value),
                (Some(_), Some(kind)) => read.skipped.push(format!("{file}:{}: {kind}", document.line)),
            }
        }
        read
    }

    /// The object that the document is, where it is admitted.
    fn object<K: Kept>(
        &self,
        read: &mut Manifests,
        document: &Document,
        value: &Value,
        rules: &Rules,
        there: &Objects<K>,
    ) -> Option<K> {
        let key = read.claim(document)?;
        let expected = K::api_version(&());
        if document.text_at("/apiVersion") != Some(&*expected) {
            read.fault(document, &Fault::new("apiVersion", format!("expected {expected}")));
            return None;
        }
        match rules.admit::<K>(value, there.get(&key).map(AsRef::as_ref)) {
            Ok(mut object) => {
                object.meta_mut().namespace = Some(key.0);
                Some(object)
            }
            Err(faults) => {
                faults.iter().for_each(|fault| read.fault(document, fault));
                None
            }
        }
    }
}

/// Which document each object is read from, where several name it: the one that it came from when it was last applied, or
/// the first.
fn owners(
    documents: &[Arc<Document>],
    deployments: &Objects<Deployment>,
    adapters: &Objects<Adapter>,
) -> BTreeMap<(&'static str, Key), Arc<Document>> {
    let mut owners: BTreeMap<(&'static str, Key), Arc<Document>> = BTreeMap::new();
    for document in documents {
        let Some(name) = document.name() else { continue };
        let from = match name.0 {
            "Deployment" => deployments.get(&name.1).and_then(|object| manifest_of(object.as_ref())),
            "Adapter" => adapters.get(&name.1).and_then(|object| manifest_of(object.as_ref())),
            _ => None,
        };
        let is_from =
            |document: &Document| from.is_some_and(|file| document.file.display().to_string() == file);
        match owners.get(&name) {
            Some(owner) if is_from(owner) || !is_from(document) => {}
            _ => drop(owners.insert(name, Arc::clone(document))),
        }
    }
    owners
}

impl Document {
    /// The object that it names, of the kinds that a name is taken in once.
    fn name(&self) -> Option<(&'static str, Key)> {
        let group = self.text_at("/apiVersion")?.split('/').next()?;
        let kind = match (group, self.text_at("/kind")?) {
            (lorikeet_crds::GROUP, "Deployment") => "Deployment",
            (lorikeet_crds::GROUP, "Adapter") => "Adapter",
            ("v1", "Secret") => "Secret",
            ("v1", "Namespace") => "Namespace",
            _ => return None,
        };
        let namespace = match kind {
            "Namespace" => "",
            _ => self.text_at("/metadata/namespace").unwrap_or("default"),
        };
        Some((kind, (namespace.to_owned(), self.text_at("/metadata/name")?.to_owned())))
    }

    /// `FILE:LINE`.
    fn place(&self) -> String {
        format!("{}:{}", self.file.display(), self.line)
    }
}

/// An object as people are told of it.
#[must_use]
pub fn shown(kind: &str, key: &Key) -> String {
    format!("{kind} {}", called(key))
}

/// A name as people say it: with its namespace where that is not the default one.
#[must_use]
pub fn called((namespace, name): &Key) -> String {
    match &**namespace {
        "" | "default" => name.clone(),
        namespace => format!("{namespace}/{name}"),
    }
}

impl Manifests {
    fn fault(&mut self, document: &Document, fault: &Fault) {
        let line = document.line_of(&fault.field);
        let object = document.name().map(|(kind, key)| format!("{}: ", shown(kind, &key)));
        let file = document.file.display();
        self.faults.push(format!("{file}:{line}: {}{fault}", object.unwrap_or_default()));
    }

    /// `FILE:LINE` of a field of an object's spec, as `source`; of the spec, where nothing in it is called so.
    #[must_use]
    pub fn place(&self, kind: &'static str, key: &Key, field: &str) -> Option<String> {
        let document = self.named.get(&(kind, key.clone()))?;
        let outermost = field.split(['.', '[']).next().unwrap_or(field);
        let spec = document.content.as_ref().ok().map(|content| &content["spec"]);
        let is_written = spec.is_some_and(|spec| spec.get(outermost).is_some());
        let line =
            if is_written { document.line_of(&format!("spec.{field}")) } else { document.line_of("spec") };
        Some(format!("{}:{line}", document.file.display()))
    }

    /// The name of `document`, where it has one and no other document has it; else that is told.
    fn claim(&mut self, document: &Document) -> Option<Key> {
        let Some(name) = document.name() else {
            self.fault(document, &Fault::new("metadata.name", "expected a name, but none is there"));
            self.unclear.insert(document.file.display().to_string());
            return None;
        };
        let owner = self.named.get(&name).filter(|owner| !std::ptr::eq(&***owner, document));
        let Some(place) = owner.map(|owner| owner.place()) else { return Some(name.1) };
        let fault = format!("is in {place} already; this one is not taken");
        self.fault(document, &Fault::new("metadata.name", fault));
        None
    }

    /// `document` as an object of Kubernetes' own, with its name.
    fn core(&mut self, document: &Document, value: &Value) -> Option<(Key, Value)> {
        let key = self.claim(document)?;
        match admit_metadata(value) {
            Ok(value) => Some((key, value)),
            Err(faults) => {
                faults.iter().for_each(|fault| self.fault(document, fault));
                None
            }
        }
    }

    /// Of a Namespace the labels mean something here.
    fn namespace(&mut self, document: &Document, value: &Value) {
        let Some((key, mut value)) = self.core(document, value) else { return };
        let labels = serde_json::from_value(value["metadata"]["labels"].take()).unwrap_or_default();
        self.namespaces.insert(key.1.clone(), labels);
        self.origins.insert(("Namespace", key), document.file.display().to_string());
    }

    fn secret(&mut self, document: &Document, value: &Value) {
        let Some((key, value)) = self.core(document, value) else { return };
        let has_data = value.get("data").is_some();
        let Ok(secret) = serde_json::from_value::<Secret>(value) else {
            // The reader's own words would quote the value.
            let expected = "expected texts, those of data in base64; this Secret is not taken";
            let field = if has_data { "data" } else { "stringData" };
            return self.fault(document, &Fault::new(field, expected));
        };
        let mut data = secret.data.unwrap_or_default();
        let written = secret.string_data.unwrap_or_default();
        data.extend(written.into_iter().map(|(name, text)| (name, ByteString(text.into_bytes()))));
        self.origins.insert(("Secret", key.clone()), document.file.display().to_string());
        self.secrets.insert(key, data);
    }

    /// Secrets and labels that were read `before` stay as they were where their document is refused now, or nobody can say
    /// what their file names.
    pub fn keep(&mut self, before: &Self) {
        for (name, file) in &before.origins {
            let is_refused = self.named.contains_key(name) || self.unclear.contains(file);
            if self.origins.contains_key(name) || !is_refused {
                continue;
            }
            self.origins.insert(name.clone(), file.clone());
            let (kind, key) = name;
            if *kind == "Secret" {
                self.secrets.extend(before.secrets.get(key).map(|secret| (key.clone(), secret.clone())));
            } else {
                let labels = before.namespaces.get(&key.1);
                self.namespaces.extend(labels.map(|labels| (key.1.clone(), labels.clone())));
            }
        }
    }

    /// Applies what was admitted, and deletes what no document names any more. Returns the Deployments that are gone by that.
    pub fn apply(
        &self,
        deployments: &mut Objects<Deployment>,
        adapters: &mut Objects<Adapter>,
        now: Timestamp,
    ) -> Vec<Key> {
        for (object, file) in &self.deployments {
            deployments.apply(object, file, now);
        }
        for (object, file) in &self.adapters {
            adapters.apply(object, file, now);
        }
        // A Deployment goes at once and its replicas after it, as in a cluster; an Adapter once it has drained.
        let gone = self.unnamed("Deployment", deployments);
        for key in &gone {
            deployments.remove(key);
        }
        for key in self.unnamed("Adapter", adapters) {
            adapters.begin_deletion(&key, now);
        }
        gone
    }

    fn unnamed<K: Kept>(&self, kind: &'static str, objects: &Objects<K>) -> Vec<Key> {
        let stays = |key: &Key, object: &K| {
            self.named.contains_key(&(kind, key.clone()))
                || manifest_of(object).is_some_and(|file| self.unclear.contains(file))
        };
        objects.all().filter(|(key, object)| !stays(key, object)).map(|(key, _)| key.clone()).collect()
    }
}

#[cfg(test)]
mod tests;
