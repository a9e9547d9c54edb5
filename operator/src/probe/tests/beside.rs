//! Sources that are read beside replicas: who may read which, and by a program of this machine.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use k8s_openapi::api::core::v1::LocalObjectReference;
use lorikeet_api::{ErrorCode, Failure};

use super::*;
use crate::build::arguments::Reach;
use crate::decide::mounts::Mounts;
use crate::probe::beside::{Inspector, Program};
use crate::replicas::client::{Access, Endpoint, Pass};

/// The inspector of a pod that has these Secrets and claims mounted; nobody listens there.
fn inspector(secrets: &[&str], claims: &[&str]) -> Inspector {
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    let newest = Pass { authority: String::new(), token: String::new() };
    let endpoint = Endpoint {
        host: "base".to_owned(),
        address: "127.0.0.1:1".parse().unwrap(),
        incarnation: String::new(),
        access: Arc::new(Access { newest, former: None }),
    };
    Inspector { endpoint, mounts: Arc::new(Mounts { secrets: names(secrets), claims: names(claims) }) }
}

fn open_with(adapter: &mut Adapter, secret: &str) {
    adapter.spec.source.secret_ref = Some(LocalObjectReference { name: secret.to_owned() });
}

#[tokio::test]
async fn a_source_waits_for_a_pod_that_has_mounted_what_it_takes() {
    let server = Server::default();
    let mut scene = Scene::new(&server.start().await, |config| config.fresh = Duration::from_millis(10));
    open_with(scene.adapter("hf://acme/sql"), "token");
    scene.adapter("pvc://loras/x");
    scene.adapter("s3://bucket/x");
    // A path is opened with no Secret.
    open_with(scene.adapter("file:///models/x"), "token");
    let awaited = |scene: &Scene| -> Vec<String> {
        let whom = |probe| match probe {
            Probe::Awaited(whom) => whom,
            other => panic!("{other:?}"),
        };
        scene.ask().into_values().map(whom).collect()
    };
    let (any, token) = ("a replica's pod that runs", "a replica's pod that has Secret token mounted");
    let claim = "a replica's pod that has PersistentVolumeClaim loras mounted";
    assert_eq!(awaited(&scene), [token, claim, any, any]);
    scene.fleet.adapters.truncate(2);
    scene.readers = Readers::Inspectors([inspector(&["other"], &["claim"])].into());
    assert_eq!(awaited(&scene), [token, claim]);
    // One that has it is asked, and that it does not answer is told: no replica is left to judge.
    scene.readers = Readers::Inspectors([inspector(&["other", "token"], &["loras"])].into());
    for probe in scene.read().await {
        let Probe::Refused(failure) = probe else { panic!("{probe:?}") };
        assert_eq!(failure.code, ErrorCode::SourceUnavailable);
        assert!(
            failure.message.starts_with("no inspector of its Deployment's replicas answers"),
            "{failure:?}"
        );
    }
    assert_eq!(server.asked.load(Ordering::SeqCst), 0, "the operator itself asks nobody");
}

#[tokio::test]
async fn what_no_pod_can_mount_is_not_read() {
    let mut scene = Scene::new("https://hub.invalid", |_| {});
    open_with(scene.adapter("hf://acme/sql"), "no_name");
    scene.adapter("gs://bucket/x");
    for source in ["pvc://loras/x", "file:///models/x"] {
        scene.adapter(source).metadata.namespace = Some("elsewhere".to_owned());
    }
    assert_eq!(scene.ask(), BTreeMap::new());
}

/// A program that answers as the file `answer` beside it says, and leaves its arguments in `arguments`, and what it was
/// asked in `asked`.
fn program(folder: &Path) -> Program {
    let path = folder.join("program");
    let script =
        "#!/bin/sh\ncd \"${0%/*}\"\necho \"$@\" > arguments\ncat > asked\ncat answer\n[ ! -e fails ]\n";
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let reach = Reach { hub: "https://hub.local".to_owned(), hosts: vec!["10.0.0.0/8".to_owned()] };
    Program { path, roots: vec!["/loras".to_owned()], credentials: "/secrets/here".into(), reach }
}

#[tokio::test]
async fn on_one_machine_the_runtime_reads_and_is_asked_again_while_it_cannot() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut scene = Scene::new("https://hub.invalid", |config| config.fresh = Duration::from_millis(10));
    scene.readers = Readers::Program(program(folder.path()));
    open_with(scene.adapter("hf://acme/sql"), "token");
    std::fs::write(at("fails"), "").unwrap();
    let failure = Failure { code: ErrorCode::SourceUnauthorized, message: "no".to_owned() };
    std::fs::write(at("answer"), serde_json::to_string(&failure).unwrap()).unwrap();
    assert_eq!(scene.read().await, [Probe::Refused(failure.clone())]);
    let arguments = std::fs::read_to_string(at("arguments")).unwrap();
    let expected = "inspect - --glimpse --hf-endpoint=https://hub.local --allow-source-host=10.0.0.0/8 \
                    --source-root=/loras --credentials=/secrets/here\n";
    assert_eq!(arguments, expected, "a source may hold a signature: it is on no command line");
    let asked = std::fs::read_to_string(at("asked")).unwrap();
    assert_eq!(asked, r#"{"source":"hf://acme/sql","credentials":"token"}"#);
    let inspected = serde_json::json!({"config": CONFIG, "weights": {"length": 1000, "header": 92}});
    std::fs::write(at("answer"), inspected.to_string()).unwrap();
    std::fs::remove_file(at("fails")).unwrap();
    let read = async {
        while scene.read().await != [facts(Some(900))] {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), read).await.unwrap();
    // What was read stays when it cannot be read again.
    std::fs::write(at("fails"), "").unwrap();
    std::fs::write(at("answer"), "not JSON").unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    for _ in 0..3 {
        assert_eq!(scene.read().await, [facts(Some(900))]);
        while scene.is_reading() {
            tokio::task::yield_now().await;
        }
    }
}
