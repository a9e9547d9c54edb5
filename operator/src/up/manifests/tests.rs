//! What is read of documents: each as it would lie in a folder.

use std::path::Path;

use super::*;
use crate::up::files::Parsed;
use crate::up::folder::stamps;

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
        let documents = Parsed::default().documents(self.folder.path(), &stamps);
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

    world.write("a.yaml", &format!("{}  - [\n---\n{}", adapter("a", "hf://x/a"), adapter("b", "hf://x/b3")));
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
fn a_key_without_a_name_is_told_where_its_parent_is() {
    let mut world = World::new();
    let label = adapter("a", "hf://x/a").replace("{name: a}", "\n  name: a\n  labels:\n    \"\": true");
    world.write("a.yaml", &label);
    world.write("b.yaml", &(adapter("b", "hf://x/b") + "  \"\": 1\n  \"[c\": 1\n"));
    let faults = world.step().faults;
    let places: Vec<&str> = faults.iter().filter_map(|fault| fault.split(": ").next()).collect();
    assert_eq!(places, ["a.yaml:5", "a.yaml:5", "b.yaml:4", "b.yaml:4"], "{faults:?}");
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
        read.faults[0].starts_with("b.yaml:3: Adapter a: metadata.name: is in a.yaml:1 already; this one"),
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
fn labels_stay_while_the_document_of_their_namespace_cannot_be_read() {
    let mut world = World::new();
    let namespace = |metadata: &str| format!("apiVersion: v1\nkind: Namespace\nmetadata: {metadata}\n");
    let good = namespace("{name: team, labels: {a: b}}");
    world.write("a.yaml", &good);
    let mut before = world.step();
    assert!(before.faults.is_empty() && before.namespaces["team"]["a"] == "b", "{:?}", before.faults);
    for (broken, told) in [
        (
            namespace("{name: team, labels: [a]}"),
            "a.yaml:3: Namespace team: metadata.labels: expected an object, got [\"a\"]",
        ),
        (
            namespace("{name: team, labels: {a: 1}}"),
            "a.yaml:3: Namespace team: metadata.labels.a: expected a string, got 1",
        ),
        (namespace("{labels: {a: c}}"), "a.yaml:3: metadata.name: expected a name, but none is there"),
        (
            format!("{good}---\n{}", namespace("{name: team, labels: {a: c}}")),
            "a.yaml:7: Namespace team: metadata.name: is in a.yaml:1 already; this one is not taken",
        ),
    ] {
        world.write("a.yaml", &broken);
        let mut read = world.step();
        assert_eq!(read.faults, [told]);
        read.keep(&before);
        assert_eq!(read.namespaces["team"]["a"], "b", "{broken}");
        before = read;
    }
    world.write("a.yaml", &namespace("{name: team, labels: null}"));
    let read = world.step();
    assert!(read.faults.is_empty() && read.namespaces["team"].is_empty(), "{:?}", read.faults);
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
    assert_eq!(faults, ["a.yaml:5: Adapter x: metadata.name: is in b.yaml:1 already; this one is not taken"]);
    assert_eq!(world.adapters(), ["x hf://x/b"]);
    std::fs::remove_file(world.folder.path().join("b.yaml")).unwrap();
    let read = world.step();
    assert!(read.faults.is_empty());
    assert_eq!(world.adapters(), ["x hf://x/a"], "the name goes to the other, and nothing drains");
    let key = ("default".to_owned(), "x".to_owned());
    assert_eq!(read.place("Adapter", &key, "source").as_deref(), Some("a.yaml:8"));
}
