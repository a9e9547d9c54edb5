//! Processes that are shell scripts; what they answer, the test does.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use tokio::time::timeout;

use super::*;
use crate::build::health::LIVE;

/// Whatever is waited for takes less.
const PATIENCE: Duration = Duration::from_secs(60);

fn script(folder: &Path, text: &str) -> Launch {
    use std::os::unix::fs::PermissionsExt as _;
    let program = folder.join("program");
    std::fs::write(&program, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    Launch {
        program,
        arguments: Arc::new(|_, _| Vec::new()),
        threads: 1,
        log: Log { path: folder.join("logs/replica.log"), limit: 1 << 20 },
        drain: Duration::from_secs(5),
        live: LIVE,
    }
}

/// What stands where a process says that it answers: it answers to paths.
#[derive(Clone, Default)]
struct Face(Arc<Mutex<BTreeMap<&'static str, Answer>>>);

#[derive(Default)]
struct Answer {
    /// Nothing: none.
    status: Option<u16>,
    asked: usize,
}

impl Face {
    fn says(&self, path: &'static str, status: Option<u16>) {
        self.0.lock().unwrap().entry(path).or_default().status = status;
    }

    fn asked(&self, path: &str) -> usize {
        self.0.lock().unwrap().get(path).map_or(0, |answer| answer.asked)
    }

    /// `launch`, whose processes answer so.
    fn of(&self, launch: Launch) -> Launch {
        let face = self.clone();
        let arguments = move |public, _| {
            let listener = TcpListener::bind(public).unwrap();
            listener.set_nonblocking(true).unwrap();
            tokio::spawn(face.clone().answer(tokio::net::TcpListener::from_std(listener).unwrap()));
            Vec::new()
        };
        Launch { arguments: Arc::new(arguments), ..launch }
    }

    async fn answer(self, listener: tokio::net::TcpListener) {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut asked = [0; 100];
            let length = socket.read(&mut asked).await.unwrap_or(0);
            let text = String::from_utf8_lossy(&asked[..length]).into_owned();
            let path = ["/ready", "/health"].into_iter().find(|path| text.contains(*path)).unwrap();
            let status = {
                let mut all = self.0.lock().unwrap();
                let one = all.entry(path).or_default();
                one.asked += 1;
                one.status
            };
            if let Some(status) = status {
                let _ = socket.write_all(format!("HTTP/1.1 {status} \r\n\r\n").as_bytes()).await;
            }
        }
    }
}

fn start(launch: Launch) -> (Process, mpsc::UnboundedReceiver<FleetKey>) {
    let (changed, changes) = mpsc::unbounded_channel();
    let fleet = FleetKey { namespace: "default".to_owned(), name: "x".to_owned() };
    (Process::start(fleet, launch, String::new(), changed), changes)
}

async fn until(
    process: &Process,
    changes: &mut mpsc::UnboundedReceiver<FleetKey>,
    mut is: impl FnMut(&Seen) -> bool,
) {
    let waited = async {
        while !is(&process.seen()) {
            changes.recv().await.unwrap();
        }
    };
    timeout(PATIENCE, waited).await.unwrap_or_else(|_| panic!("it stays {:?}", process.seen()));
}

#[tokio::test]
async fn one_that_is_late_with_an_answer_is_not_ready_and_does_not_load_again() {
    let (folder, face) = (tempfile::tempdir().unwrap(), Face::default());
    face.says("/health", Some(200));
    let (process, mut changes) = start(face.of(script(folder.path(), "exec cat > /dev/null")));
    let mut phases = Vec::new();
    for (said, phase) in [
        (Some(503), Phase::Loaded),
        (Some(200), Phase::Ready),
        (None, Phase::Loaded),
        (Some(200), Phase::Ready),
    ] {
        face.says("/ready", said);
        until(&process, &mut changes, |seen| {
            if phases.last() != Some(&seen.phase) {
                phases.push(seen.phase.clone());
            }
            seen.phase == phase
        })
        .await;
    }
    assert_eq!(phases, [Phase::Loading, Phase::Loaded, Phase::Ready, Phase::Loaded, Phase::Ready]);
    assert_eq!(process.seen().start, 1);
}

#[tokio::test]
async fn one_that_hangs_once_it_has_answered_is_killed_and_started_again() {
    let (folder, face) = (tempfile::tempdir().unwrap(), Face::default());
    let mut launch = face.of(script(folder.path(), "kill -STOP $$"));
    launch.live = Probing { period: Duration::from_millis(50), ..LIVE };
    let (process, mut changes) = start(launch);
    let loading = async {
        while face.asked("/ready") < 10 {
            tokio::time::sleep(LOOK).await;
        }
    };
    timeout(PATIENCE, loading).await.expect("it is asked whether it has loaded");
    assert_eq!((face.asked("/health"), process.seen().start), (0, 1), "its model takes as long as it takes");
    face.says("/health", Some(200));
    face.says("/ready", Some(200));
    until(&process, &mut changes, |seen| seen.phase == Phase::Ready).await;
    let pid = process.seen().pid;
    for (said, why) in [
        (Some(503), "killed: /health said 503, 3 times in a row"),
        (None, "killed: /health did not answer, 3 times in a row"),
    ] {
        face.says("/health", said);
        let start = process.seen().start;
        until(&process, &mut changes, |seen| seen.start == start && seen.failed.is_some()).await;
        assert_eq!(process.seen().failed.unwrap().why, why);
        face.says("/health", Some(200));
        until(&process, &mut changes, |seen| seen.start == start + 1 && seen.phase == Phase::Ready).await;
        assert_eq!(process.seen().failed, None, "it answers again");
    }
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "it is no more");
}

#[tokio::test]
async fn one_that_ends_is_started_again_and_its_last_words_are_known() {
    let folder = tempfile::tempdir().unwrap();
    let (process, mut changes) = start(script(folder.path(), "echo broken on purpose >&2; exit 3"));
    until(&process, &mut changes, |seen| seen.phase == Phase::Ended).await;
    let why = || process.seen().failed.map(|failed| failed.why);
    assert_eq!(why().as_deref(), Some("exit status: 3: broken on purpose"));
    until(&process, &mut changes, |seen| seen.start == 2).await;
    assert_eq!(why().as_deref(), Some("exit status: 3: broken on purpose"), "until it answers");
}

#[tokio::test]
async fn one_that_was_ended_from_outside_knows_nothing_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let log = Log { path: folder.path().join("x.log"), limit: 1 << 20 };
    std::fs::write(&log.path, "no memory\n").unwrap();
    assert_eq!(end(ExitStatus::from_raw(KILL), &log).await, "signal: 9 (SIGKILL)");
    assert_eq!(end(ExitStatus::from_raw(3 << 8), &log).await, "exit status: 3: no memory");
}

#[tokio::test]
async fn one_that_says_much_does_not_fill_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let mut launch = script(folder.path(), "while :; do echo much; done");
    launch.log.limit = 1000;
    let log = launch.log.clone();
    let (_process, mut changes) = start(launch);
    let cut = async {
        while !log.path.with_extension("log.before").exists() {
            tokio::time::sleep(LOOK).await;
        }
    };
    timeout(PATIENCE, cut).await.expect("it is cut");
    assert!(changes.try_recv().is_ok());
}

#[tokio::test]
async fn one_that_is_let_go_ends_by_its_standard_input() {
    let folder = tempfile::tempdir().unwrap();
    let (process, mut changes) = start(script(folder.path(), "cat > /dev/null"));
    until(&process, &mut changes, |seen| seen.pid != 0).await;
    process.leave();
    until(&process, &mut changes, |seen| seen.phase == Phase::Gone).await;
}

#[tokio::test]
async fn a_program_that_is_not_there_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let launch = Launch { program: "/nowhere/lorikeet".into(), ..script(folder.path(), "") };
    let (process, mut changes) = start(launch);
    until(&process, &mut changes, |seen| seen.failed.is_some()).await;
    let why = process.seen().failed.unwrap().why;
    assert!(why.starts_with("/nowhere/lorikeet: No such file"), "{why}");
}
