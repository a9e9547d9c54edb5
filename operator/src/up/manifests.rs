//! Documents become objects that are applied: what a person would get from `kubectl apply` is told of each file. What is
//! refused leaves the object that is there as it is, and touches no other. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use lorikeet_crds::{Adapter, Deployment};
use serde_json::Value;

use crate::up::admit::{Fault, Rules};
use crate::up::files::Document;
use crate::up::state::{Kept, Key, Objects, key, manifest_of};

/// The content of Secrets, by name.
pub type Secrets = BTreeMap<Key, BTreeMap<String, ByteString>>;

/// What the documents say together.
#[derive(Default)]
pub struct Manifests {
    deployments: Vec<(Deployment, String)>,
    adapters: Vec<(Adapter, String)>,
    /// Every object that a document names, refused or not, and the document that it is read from.
    named: BTreeMap<(&'static str, Key), Document>,
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
        documents: &[Document],
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
                // The configuration of a model or an adapter that lies beside the manifests.
                (None, None) if document.file.extension().is_some_and(|ending| ending == "json") => {
                    read.unclear.insert(file);
                }
                (Some(lorikeet_crds::GROUP), _) | (None, _) | (_, None) => {
                    let fault = Fault::new(
                        if group.is_none() { "apiVersion" } else { "kind" },
                        "expected lorikeet.dev/v1alpha1 and Deployment or Adapter, or a kind of Kubernetes' own",
                    );
                    read.fault(document, &fault);
                    read.unclear.insert(file);
                }
                (Some("v1"), Some("Namespace")) => read.namespace(file, value),
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
        let file = document.file.display().to_string();
        let Some(name) = document.text_at("/metadata/name") else {
            read.fault(document, &Fault::new("metadata.name", "expected a name, but none is there"));
            read.unclear.insert(file);
            return None;
        };
        let namespace = document.text_at("/metadata/namespace").unwrap_or("default");
        let key = (namespace.to_owned(), name.to_owned());
        if read.is_taken(document) {
            return None;
        }
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
    documents: &[Document],
    deployments: &Objects<Deployment>,
    adapters: &Objects<Adapter>,
) -> BTreeMap<(&'static str, Key), Document> {
    let mut owners: BTreeMap<(&'static str, Key), Document> = BTreeMap::new();
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
            _ => drop(owners.insert(name, document.clone())),
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
            _ => return None,
        };
        let namespace = self.text_at("/metadata/namespace").unwrap_or("default").to_owned();
        Some((kind, (namespace, self.text_at("/metadata/name")?.to_owned())))
    }

    /// `FILE:LINE`.
    fn place(&self) -> String {
        format!("{}:{}", self.file.display(), self.line)
    }
}

/// An object as people are told of it: with its namespace where that is not the default one.
#[must_use]
pub fn shown(kind: &str, (namespace, name): &Key) -> String {
    if namespace == "default" { format!("{kind} {name}") } else { format!("{kind} {namespace}/{name}") }
}

impl Manifests {
    fn fault(&mut self, document: &Document, fault: &Fault) {
        let line = document.line_of(&fault.field);
        let object = document.name().map(|(kind, key)| format!("{}: ", shown(kind, &key)));
        let file = document.file.display();
        self.faults.push(format!("{file}:{line}: {}{fault}", object.unwrap_or_default()));
    }

    /// `FILE:LINE` of a field of an object, as `spec.source`.
    #[must_use]
    pub fn place(&self, kind: &'static str, key: &Key, field: &str) -> Option<String> {
        let document = self.named.get(&(kind, key.clone()))?;
        Some(format!("{}:{}", document.file.display(), document.line_of(field)))
    }

    /// Whether the name of `document` is another's, which is told.
    fn is_taken(&mut self, document: &Document) -> bool {
        let owner = document.name().and_then(|name| self.named.get(&name)).filter(|owner| *owner != document);
        let Some(place) = owner.map(Document::place) else { return false };
        let fault = format!("is in {place} already; this one is not taken");
        self.fault(document, &Fault::new("metadata.name", fault));
        true
    }

    fn namespace(&mut self, file: String, value: &Value) {
        let Ok(namespace) = serde_json::from_value::<Namespace>(value.clone()) else { return };
        let name = namespace.metadata.name.unwrap_or_default();
        self.origins.insert(("Namespace", (String::new(), name.clone())), file);
        self.namespaces.insert(name, namespace.metadata.labels.unwrap_or_default());
    }

    fn secret(&mut self, document: &Document, value: &Value) {
        if self.is_taken(document) {
            return;
        }
        let Ok(secret) = serde_json::from_value::<Secret>(value.clone()) else {
            // The reader's own words would quote the value.
            let expected = "expected texts, those of data in base64; this Secret is not taken";
            let field = if value.get("data").is_some() { "data" } else { "stringData" };
            return self.fault(document, &Fault::new(field, expected));
        };
        let mut data = secret.data.clone().unwrap_or_default();
        let written = secret.string_data.clone().unwrap_or_default();
        data.extend(written.into_iter().map(|(name, text)| (name, ByteString(text.into_bytes()))));
        self.origins.insert(("Secret", key(&secret)), document.file.display().to_string());
        self.secrets.insert(key(&secret), data);
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

    /// Applies what was admitted, and deletes what no document names any more.
    pub fn apply(
        &self,
        deployments: &mut Objects<Deployment>,
        adapters: &mut Objects<Adapter>,
        now: Timestamp,
    ) {
        for (object, file) in &self.deployments {
            deployments.apply(object, file, now);
        }
        for (object, file) in &self.adapters {
            adapters.apply(object, file, now);
        }
        // A Deployment goes at once and its replicas after it, as in a cluster; an Adapter once it has drained.
        for key in self.unnamed("Deployment", deployments) {
            deployments.remove(&key);
        }
        for key in self.unnamed("Adapter", adapters) {
            adapters.begin_deletion(&key, now);
        }
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
mod tests {
    use std::path::Path;

    use super::*;
    use crate::up::files::{documents, stamps};

    struct World {
        folder: tempfile::TempDir,
        _state: tempfile::TempDir,
        deployments: Objects<Deployment>,
        adapters: Objects<Adapter>,
    }

    impl World {
        fn new() -> Self {
            let state = tempfile::tempdir().unwrap();
            Self {
                folder: tempfile::tempdir().unwrap(),
                deployments: Objects::open(state.path()).unwrap(),
                adapters: Objects::open(state.path()).unwrap(),
                _state: state,
            }
        }

        fn write(&self, name: &str, text: &str) {
            std::fs::write(self.folder.path().join(name), text).unwrap();
        }

        fn step(&mut self) -> Manifests {
            let stamps = stamps(self.folder.path(), Path::new("/nowhere")).unwrap();
            let documents = documents(self.folder.path(), &stamps);
            let read = Admission::default().read(&documents, &self.deployments, &self.adapters);
            read.apply(&mut self.deployments, &mut self.adapters, Timestamp::UNIX_EPOCH);
            read
        }

        /// Names of Adapters, with what becomes of them.
        fn adapters(&self) -> Vec<String> {
            let of = |(key, object): (&Key, &std::sync::Arc<Adapter>)| {
                let leaving = if object.metadata.deletion_timestamp.is_some() { " leaves" } else { "" };
                format!("{} {}{leaving}", key.1, object.spec.source.source)
            };
            self.adapters.all().map(of).collect()
        }
    }

    fn adapter(name: &str, source: &str) -> String {
        format!(
            "apiVersion: lorikeet.dev/v1alpha1\nkind: Adapter\nmetadata: {{name: {name}}}\nspec:\n  deploymentRef: {{name: x}}\n  source: {source}\n"
        )
    }

    #[test]
    fn a_broken_document_is_told_with_file_line_and_field_and_nothing_else_suffers() {
        let mut world = World::new();
        world.write("a.yaml", &format!("{}---\n{}", adapter("a", "hf://x/a"), adapter("b", "hf://x/b")));
        world.write("c.yaml", &adapter("c", "hf://x/c"));
        assert!(world.step().faults.is_empty());
        assert_eq!(world.adapters(), ["a hf://x/a", "b hf://x/b", "c hf://x/c"]);

        world.write("a.yaml", &format!("{}---\n{}", adapter("a", "ftp://x/a"), adapter("b", "hf://x/b2")));
        let faults = world.step().faults;
        assert!(faults[0].starts_with("a.yaml:6: Adapter a: spec.source: expected one of"), "{faults:?}");
        assert_eq!(world.adapters(), ["a hf://x/a", "b hf://x/b2", "c hf://x/c"]);

        world.write(
            "a.yaml",
            &format!("{}  - [\n---\n{}", adapter("a", "hf://x/a"), adapter("b", "hf://x/b3")),
        );
        let faults = world.step().faults;
        assert!(faults[0].starts_with("a.yaml:"), "{faults:?}");
        assert_eq!(
            world.adapters(),
            ["a hf://x/a", "b hf://x/b3", "c hf://x/c"],
            "nobody knows whose the broken one is"
        );

        world.write("a.yaml", &adapter("a", "hf://x/a4"));
        std::fs::remove_file(world.folder.path().join("c.yaml")).unwrap();
        world.step();
        assert_eq!(world.adapters(), ["a hf://x/a4", "b hf://x/b3 leaves", "c hf://x/c leaves"]);
    }

    #[test]
    fn one_name_twice_is_told_and_other_kinds_are_passed_over() {
        let mut world = World::new();
        world.write("a.yaml", &adapter("a", "hf://x/a"));
        world.write("b.yaml", &adapter("a", "hf://x/b"));
        world.write("c.yaml", "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [a.yaml]\n---\napiVersion: apps/v1\nkind: Deployment\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: team, labels: {a: b}}\n---\nhello: world\n");
        let read = world.step();
        assert_eq!(read.skipped, ["c.yaml:1: Kustomization", "c.yaml:5: Deployment"]);
        assert_eq!(read.namespaces["team"]["a"], "b");
        assert_eq!(read.faults.len(), 2, "{:?}", read.faults);
        assert!(
            read.faults[0]
                .starts_with("b.yaml:3: Adapter a: metadata.name: is in a.yaml:1 already; this one"),
            "{:?}",
            read.faults
        );
        assert!(read.faults[1].starts_with("c.yaml:12: apiVersion: expected"), "{:?}", read.faults);
        assert_eq!(world.adapters(), ["a hf://x/a"]);
    }

    #[test]
    fn a_secret_that_cannot_be_read_is_told_without_what_is_in_it() {
        let mut world = World::new();
        let secret = |data: &str| format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: hf}}\n{data}\n");
        for (data, told) in [
            ("stringData: {token: 123456}", "a.yaml:4: Secret hf: stringData: expected texts"),
            ("data: {token: 'not base64: 123456'}", "a.yaml:4: Secret hf: data: expected texts"),
        ] {
            world.write("a.yaml", &secret(data));
            let read = world.step();
            assert!(read.faults.len() == 1 && read.faults[0].starts_with(told), "{:?}", read.faults);
            assert!(!read.faults[0].contains("123456") && read.secrets.is_empty(), "{:?}", read.faults);
        }
        world.write("a.yaml", &secret("data: {token: YQ==}\nstringData: {other: b}"));
        let read = world.step();
        let of = &read.secrets[&("default".to_owned(), "hf".to_owned())];
        assert_eq!((&*of["token"].0, &*of["other"].0), (&b"a"[..], &b"b"[..]));
    }

    #[test]
    fn secrets_and_labels_of_what_cannot_be_read_stay_until_it_can() {
        let mut world = World::new();
        let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: team, labels: {a: b}}\n";
        let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: hf}\nstringData: {token: t}\n";
        let whole = format!("{namespace}---\n{secret}");
        world.write("a.yaml", &whole);
        let (first, mut before) = (world.step(), world.step());
        for broken in [
            String::new(),
            format!("{whole}  - [\n"),
            format!("kind: [\n---\n{secret}"),
            format!("{namespace}---\n{}", secret.replace("token: t", "token: 1")),
        ] {
            world.write("a.yaml", &broken);
            let mut read = world.step();
            assert_eq!(read.faults.len(), 1, "{:?}", read.faults);
            read.keep(&before);
            assert!((&read.secrets, &read.namespaces) == (&first.secrets, &first.namespaces), "{broken}");
            before = read;
        }
        world.write("a.yaml", namespace);
        let mut read = world.step();
        read.keep(&before);
        assert!(read.secrets.is_empty() && read.namespaces == first.namespaces);
        std::fs::remove_file(world.folder.path().join("a.yaml")).unwrap();
        let mut last = world.step();
        last.keep(&read);
        assert!(last.namespaces.is_empty());
    }

    #[test]
    fn of_two_secrets_with_one_name_the_first_is_taken_and_the_other_told() {
        let mut world = World::new();
        let secret = |namespace: &str, token: &str| {
            let metadata = format!("{{name: hf, namespace: {namespace}}}");
            format!("apiVersion: v1\nkind: Secret\nmetadata: {metadata}\nstringData: {{token: {token}}}\n")
        };
        world.write("a.yaml", &secret("team", "first"));
        world.write("b.yaml", &format!("{}---\n{}", secret("other", "its own"), secret("team", "second")));
        let read = world.step();
        let told = "b.yaml:8: Secret team/hf: metadata.name: is in a.yaml:1 already; this one is not taken";
        assert_eq!(read.faults, [told]);
        let token = |namespace: &str| &*read.secrets[&(namespace.to_owned(), "hf".to_owned())]["token"].0;
        assert_eq!((token("team"), token("other")), (&b"first"[..], &b"its own"[..]));
        std::fs::remove_file(world.folder.path().join("a.yaml")).unwrap();
        assert!(world.step().faults.is_empty());
    }

    #[test]
    fn of_two_files_with_one_name_the_one_that_was_there_first_keeps_it() {
        let mut world = World::new();
        world.write("b.yaml", &adapter("x", "hf://x/b"));
        assert!(world.step().faults.is_empty());
        world.write("a.yaml", &format!("# a copy\n---\n{}", adapter("x", "hf://x/a")));
        let faults = world.step().faults;
        assert_eq!(
            faults,
            ["a.yaml:5: Adapter x: metadata.name: is in b.yaml:1 already; this one is not taken"]
        );
        assert_eq!(world.adapters(), ["x hf://x/b"]);
        std::fs::remove_file(world.folder.path().join("b.yaml")).unwrap();
        let read = world.step();
        assert!(read.faults.is_empty());
        assert_eq!(world.adapters(), ["x hf://x/a"], "the name goes to the other, and nothing drains");
        let key = ("default".to_owned(), "x".to_owned());
        assert_eq!(read.place("Adapter", &key, "spec.source").as_deref(), Some("a.yaml:8"));
    }
}
