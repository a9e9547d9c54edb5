//! `make run`: its script, with the programs of this build and ports of its own, from the start to Ctrl-C.

use std::process::Command;

use lorikeet_tests::args::root;
use lorikeet_tests::operator::binary as operator;
use lorikeet_tests::replica::binary as runtime;

use crate::cluster_of_one::ClusterOfOne;
use crate::traffic::ask;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn make_run_serves_the_miniature_and_says_what_to_try() {
    let mut cluster = ClusterOfOne::new();
    let listen = cluster.listen();
    let mut script = Command::new(root().join("deploy/loraland/run.sh"));
    script.env("LISTEN", listen.to_string()).env("STATE", cluster.path("state"));
    script.env("LORIKEET_BINARY", runtime()).env("LORIKEET_OPERATOR", operator());
    cluster.start_by(&mut script);
    cluster.until_said(&format!("Ready. In another terminal:\n\n  curl http://{listen}/v1/models\n")).await;
    let client = cluster.client(0);
    for name in ["loraland", "glue_sst2", "viggo"] {
        assert_eq!(ask(&client, name).await.expect(name).len(), 12, "{name}");
    }
    assert_eq!(cluster.children().len(), 1);
    let said = cluster.process().log();
    assert!(!said.contains("ERROR") && !said.contains("WARN"), "nothing is wrong with it: {said}");
    cluster.process().interrupt();
    cluster.until_ended().await;
}
