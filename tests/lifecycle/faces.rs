//! How a replica is run by somebody who keeps it: the admin face over TLS with a token, certificates that change under
//! it, a registry beside it, and a parent that dies.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lorikeet_tests::golden::Suite;
use lorikeet_tests::process::free_address;
use lorikeet_tests::replica::{Replica, binary};
use lorikeet_tests::until::until;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use reqwest::StatusCode;

/// An authority of its own, and a certificate by it in `folder`. Returns the authority, PEM.
pub(crate) fn certify(folder: &Path) -> String {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().expect("a key");
    let pem = authority.self_signed(&authority_key).expect("an authority").pem();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().expect("a key");
    let names = vec!["replica-0.example".to_owned()];
    let certificate = CertificateParams::new(names).expect("a name").signed_by(&key, &issuer);
    std::fs::write(folder.join("tls.crt"), certificate.expect("a certificate").pem()).expect("written");
    std::fs::write(folder.join("tls.key"), key.serialize_pem()).expect("written");
    pem
}

/// Kills what a failed test leaves.
struct Kept(Child);

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Kept {
    async fn ended(&mut self) -> bool {
        let status = async || self.0.try_wait().expect("a child can be asked").ok_or("it runs");
        until("it ends", status).await.success()
    }
}

/// A client that trusts `authority` alone.
pub(crate) fn client(authority: &str, address: std::net::SocketAddr) -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let root = reqwest::Certificate::from_pem(authority.as_bytes()).expect("a certificate");
    let builder = reqwest::Client::builder().tls_certs_only([root]).resolve("replica-0.example", address);
    builder.pool_max_idle_per_host(0).build().expect("a client")
}

/// Asks until the answer has that status: the replica loads, or has yet to see what changed.
pub(crate) async fn until_answers(client: &reqwest::Client, url: &str, token: &str, wanted: StatusCode) {
    until(&format!("{url} answers {wanted}"), async || {
        match client.get(url).bearer_auth(token).timeout(Duration::from_secs(5)).send().await {
            Ok(answer) if answer.status() == wanted => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

#[tokio::test]
async fn the_admin_face_speaks_tls_to_the_token_and_takes_new_certificates_and_tokens_without_a_restart() {
    let suite = Suite::load();
    let folder = tempfile::tempdir().expect("a folder");
    let authority = certify(folder.path());
    std::fs::write(folder.path().join("token"), "first\n").expect("written");
    let (listen, admin) = (free_address(), free_address());
    let path = |name: &str| folder.path().join(name);
    let mut command = Command::new(binary());
    command.arg("serve").arg("--model").arg(&suite.model("llama_gqa").folder);
    command.args(["--listen", &listen.to_string(), "--admin-listen", &admin.to_string()]);
    command.arg("--admin-tls-cert").arg(path("tls.crt")).arg("--admin-tls-key").arg(path("tls.key"));
    command.arg("--admin-token-file").arg(path("token")).arg("--until-stdin-closes");
    let mut child = Kept(command.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts"));

    let url = format!("https://replica-0.example:{}/admin/v1/adapters", admin.port());
    let first = client(&authority, admin);
    until_answers(&first, &url, "first", StatusCode::OK).await;
    until_answers(&first, &url, "other", StatusCode::UNAUTHORIZED).await;
    let plain = first.get(url.replace("https", "http")).bearer_auth("first").send().await;
    assert!(plain.is_err(), "{plain:?}");

    let second = client(&certify(folder.path()), admin);
    until_answers(&second, &url, "first", StatusCode::OK).await;
    assert!(first.get(&url).bearer_auth("first").send().await.is_err(), "the old authority has no say");
    std::fs::write(path("token"), "second\n").expect("written");
    until_answers(&second, &url, "second", StatusCode::OK).await;
    until_answers(&second, &url, "first", StatusCode::UNAUTHORIZED).await;

    // The parent goes: the replica ends by itself, and well.
    drop(child.0.stdin.take());
    assert!(child.ended().await, "it drains and ends well");
}

#[tokio::test]
async fn what_the_registry_names_is_served_until_somebody_pushes_a_set() {
    let suite = Suite::load();
    let model = suite.model("llama_gqa");
    let adapters = model.adapters_folder().expect("the model has adapters");
    let name = &model.adapters.iter().find(|one| one.expect == "ok").expect("a good adapter").name;
    let folder = tempfile::tempdir().expect("a folder");
    let set =
        serde_json::json!({"adapters": [{"name": "one", "source": adapters.join(name), "pinned": true}]});
    std::fs::write(folder.path().join("0.json"), set.to_string()).expect("written");
    std::fs::write(folder.path().join("1.json"), "not JSON").expect("written");
    let flags = [
        "--registry",
        folder.path().to_str().expect("a UTF-8 path"),
        "--source-root",
        adapters.to_str().expect("a UTF-8 path"),
    ];
    let replica = Replica::start(&model.folder, &flags).await;
    let body = serde_json::json!({"model": "one", "prompt": "x", "max_tokens": 2});
    let answer = replica.public.post("/v1/completions", &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let report = replica.admin.get("/admin/v1/adapters").await.ok();
    assert_eq!(report["adapters"][0]["name"], "one", "{report}");
    assert!(report["version"].is_null(), "nobody has pushed a set: {report}");
    let set = serde_json::json!({"version": {"epoch": 1, "sequence": 1}, "adapters": []});
    let request = replica.admin.request(reqwest::Method::PUT, "/admin/v1/adapters").json(&set);
    assert_eq!(lorikeet_tests::client::Client::send(request).await.expect("an answer").status, 200);
    assert_eq!(replica.public.post("/v1/completions", &body).await.status, 404);
}
