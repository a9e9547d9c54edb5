//! How long a refusal stands while nobody reads the source again.

use super::*;

fn refused(code: ErrorCode, message: &str) -> Probe {
    Probe::Refused(Failure { code, message: message.to_owned() })
}

#[test]
fn a_verdict_stands_for_as_long_as_the_limit_that_it_names() {
    let facts = |base: &str| {
        let base_model = Some(base.to_owned());
        Probe::Facts(AdapterFacts { rank: 8, rank_field: "r".to_owned(), base_model, bytes: Some(100) })
    };
    type Change = fn(&mut Deployment);
    let to_another: [(Probe, Reason, Change); 3] = [
        (rank(17), Reason::RankExceeded, |one| one.spec.adapters.max_rank = 32),
        (facts("acme/base"), Reason::BudgetExceeded, |one| one.spec.adapters.gpu_memory.0 = "80".to_owned()),
        (facts("acme/other"), Reason::BaseModelMismatch, |one| {
            one.spec.model.source.source = "hf://acme/other".to_owned();
        }),
    ];
    for (probe, reason, change) in to_another {
        let mut scene = Scene::with_replicas(1).adapter("sql");
        if reason == Reason::BudgetExceeded {
            scene.deployment().spec.adapters.gpu_memory.0 = "50".to_owned();
        }
        scene.probe("sql", probe);
        scene.step();
        let unread = refused(ErrorCode::SourceUnavailable, "no route");
        for probe in [Probe::Pending, unread.clone()] {
            scene.probe("sql", probe);
            assert!(scene.step().adapters.is_empty(), "{reason:?} stands");
        }
        change(scene.deployment());
        let mut other = Scene { fleet: scene.fleet.clone(), ..scene };
        other.probe("sql", Probe::Pending);
        assert!(other.step().desired["r0"].is_empty());
        assert_eq!(ready_reason(other.status("sql")), "Progressing", "{reason:?} is of another limit");
        assert!(scene.step().desired["r0"].is_empty());
        assert_eq!(ready_reason(scene.status("sql")), "SourceUnavailable");
    }
}

#[test]
fn what_was_not_read_is_said_until_it_is_tried_again_whatever_the_reader_called_it() {
    for code in ErrorCode::ALL {
        let mut scene = Scene::with_replicas(1).adapter("sql");
        scene.probe("sql", refused(code, "adapter_config.json: not there"));
        scene.step();
        let said = ready_reason(scene.status("sql")).to_owned();
        // As after a restart.
        scene.probe("sql", Probe::Pending);
        let decision = scene.step();
        assert!(decision.adapters.is_empty(), "{code:?}: {:?}", decision.adapters);
        assert_eq!(ready_reason(scene.status("sql")), said);
        // It is no verdict: what keeps it from being read now is said.
        scene.probe("sql", refused(ErrorCode::SourceForbidden, "the Secret is revoked"));
        assert!(scene.step().desired["r0"].is_empty());
        assert_eq!(ready_reason(scene.status("sql")), "SourceForbidden", "{code:?}");
    }
}
