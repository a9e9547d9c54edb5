//! Base model and adapters from a real S3 server (versitygw), with credentials: loaded, answered, refused where they are not
//! there or not allowed.

use std::fs;
use std::path::Path;
use std::process::Command;

use lorikeet_api::InspectedSource;
use lorikeet_tests::args::provided;
use lorikeet_tests::client::Client;
use lorikeet_tests::inspector::{Inspector, glimpse, glimpse_quietly, said_by};
use lorikeet_tests::loraland;
use lorikeet_tests::process::{Process, free_address};
use lorikeet_tests::replica::Replica;
use lorikeet_tests::until::until;
use serde_json::json;

const KEY: &str = "tester";
const SECRET: &str = "not-a-real-secret";

/// A running S3 server; each folder of `folder` is a bucket.
struct S3 {
    _process: Process,
    folder: tempfile::TempDir,
    endpoint: String,
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the folder is made");
    for entry in fs::read_dir(from).expect("the folder is there") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), to.join(entry.file_name())).expect("the file is copied");
    }
}

async fn s3() -> S3 {
    let program = provided(".cache/bin/versitygw", "s3");
    let folder = tempfile::tempdir().expect("a folder");
    copy(&loraland::base(), &folder.path().join("models/loraland"));
    for task in ["glue_sst2", "viggo"] {
        copy(&loraland::adapters().join(task), &folder.path().join("loras/acme").join(task));
    }
    let address = free_address();
    let mut command = Command::new(program);
    command
        .args(["--access", KEY, "--secret", SECRET, "--port", &address.to_string(), "posix"])
        .arg(folder.path());
    let mut process = Process::start("versitygw", &mut command);
    let endpoint = format!("http://{address}");
    // Without credentials it answers 403: then it is up.
    until("versitygw answers", async || {
        process.assert_running();
        Client::send(Client::of(endpoint.clone()).request(reqwest::Method::GET, "/")).await
    })
    .await;
    S3 { _process: process, folder, endpoint }
}

fn flags<'a>(s3: &'a S3, secret: &'a str) -> Vec<&'a str> {
    vec![
        "--served-name",
        "base",
        "--s3-endpoint",
        &s3.endpoint,
        "--s3-region",
        "us-east-1",
        "--s3-access-key-id",
        KEY,
        "--s3-secret-access-key",
        secret,
    ]
}

async fn review(replica: &Replica) -> String {
    let prompt = "Is the movie review positive or negative?\n### Review: The story is fresh and the plot is superb.\n### Label:";
    let body = json!({"model": "glue_sst2", "prompt": prompt, "max_tokens": 8, "temperature": 0});
    let answer = replica.public.post("/v1/completions", &body).await.ok();
    answer["choices"][0]["text"].as_str().expect("a text").trim().to_owned()
}

#[tokio::test]
async fn a_model_and_its_adapters_are_served_from_s3() {
    let s3 = s3().await;
    let adapter = ["--adapter", "glue_sst2=s3://loras/acme/glue_sst2"];
    let replica =
        Replica::start(Path::new("s3://models/loraland"), &[&flags(&s3, SECRET)[..], &adapter].concat())
            .await;
    assert_eq!(review(&replica).await, "positive");
    let load = async |name: &str, path: &str| {
        replica.admin.post("/v1/load_lora_adapter", &json!({"lora_name": name, "lora_path": path})).await
    };
    assert_eq!(load("viggo", "s3://loras/acme/viggo").await.status, 200);
    let missing = load("nobody", "s3://loras/acme/nobody").await;
    assert_eq!(missing.status, 404, "{}", missing.text);
    assert_eq!(missing.message(), "adapter_config.json: not found");
    // What was read is kept: the server may lose it.
    fs::remove_dir_all(s3.folder.path().join("loras/acme/glue_sst2")).expect("the objects are removed");
    assert_eq!(review(&replica).await, "positive");
}

/// The Secrets `right` and `wrong`, which say where the server is and what opens it.
fn secrets(s3: &S3) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, secret) in [("right", SECRET), ("wrong", "another")] {
        let of = folder.path().join(name);
        fs::create_dir(&of).expect("the folder is made");
        let keys = [("access-key-id", KEY), ("secret-access-key", secret), ("endpoint", &s3.endpoint)];
        for (key, text) in keys {
            fs::write(of.join(key), text).expect("the key is written");
        }
    }
    folder
}

#[tokio::test]
async fn what_an_adapter_says_of_itself_is_read_with_a_secrets_keys() {
    let s3 = s3().await;
    let secrets = secrets(&s3);
    let credentials = secrets.path().to_str().expect("a UTF-8 path");
    let flags = ["--credentials", credentials, "--allow-source-host", "127.0.0.1"];
    let inspector = Inspector::start(&flags).await;
    let source = "s3://loras/acme/viggo";
    let ask = async |secret: &str| inspector.ask(&json!({"source": source, "credentials": secret})).await;
    let expected = said_by(&loraland::adapters().join("viggo"));
    let said = ask("right").await.ok();
    assert_eq!(serde_json::from_value::<InspectedSource>(said).expect("its answer"), expected);
    for secret in ["wrong", "absent"] {
        let answer = ask(secret).await;
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (422, &json!("source_unauthorized")));
        assert!(!answer.text.contains("another"), "the secret is not told");
    }
    let once = |secret: &str| glimpse(source, &[&flags[..], &["--secret", secret]].concat());
    assert_eq!(once("right").as_ref(), Ok(&expected));
    let quietly =
        |secret: &str| glimpse_quietly(&json!({"source": source, "credentials": secret}).to_string(), &flags);
    assert_eq!(quietly("right"), Ok(expected));
    for secret in ["wrong", "absent"] {
        let refusal = quietly(secret).expect_err("it is refused");
        assert_eq!(refusal, ask(secret).await.message());
    }
    assert!(once("absent").expect_err("it is refused").contains("no Secret absent"));
}

#[tokio::test]
async fn a_wrong_secret_is_said() {
    let s3 = s3().await;
    let replica = Replica::start(&loraland::base(), &flags(&s3, "another")).await;
    let body = json!({"lora_name": "viggo", "lora_path": "s3://loras/acme/viggo"});
    let answer = replica.admin.post("/v1/load_lora_adapter", &body).await;
    assert_eq!(answer.status, 400, "{}", answer.text);
    let message = answer.message().to_lowercase();
    assert!(
        ["credential", "unauthorized", "forbidden", "refused", "denied"]
            .iter()
            .any(|word| message.contains(word)),
        "{message}"
    );
    assert!(!answer.text.contains("another"), "the secret is not told");
}
