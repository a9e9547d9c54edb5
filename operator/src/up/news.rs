//! What is told of events: the object's name first, then where it is written; what several Adapters have in common is told
//! once. Pure.

use lorikeet_crds::Reason;

use crate::decide::Occurrence;
use crate::fleet::FleetKey;
use crate::up::manifests::{Manifests, shown};
use crate::up::state::Key;

/// Names that are listed of many.
const LISTED: usize = 3;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// A warning, or news.
    pub warning: bool,
    /// Why, as a condition says it.
    pub reason: &'static str,
    /// For people.
    pub text: String,
}

/// The lines for `events` of `fleet`.
#[must_use]
pub fn news(fleet: &FleetKey, events: &[Occurrence], manifests: &Manifests) -> Vec<News> {
    let mut groups: Vec<Vec<&Occurrence>> = Vec::new();
    for event in events {
        let same = |group: &&mut Vec<&Occurrence>| {
            group[0].adapter.is_some() && event.adapter.is_some() && {
                let of = |one: &Occurrence| (one.reason, one.warning, one.message.clone());
                of(group[0]) == of(event)
            }
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.push(event),
            None => groups.push(vec![event]),
        }
    }
    groups.iter().map(|group| line(fleet, group, manifests)).collect()
}

fn line(fleet: &FleetKey, group: &[&Occurrence], manifests: &Manifests) -> News {
    let first = group[0];
    let of = match (&first.adapter, group.len()) {
        (None, _) => {
            let key = (fleet.namespace.clone(), fleet.name.clone());
            placed("Deployment", &key, first, manifests)
        }
        (Some(key), 1) => placed("Adapter", key, first, manifests),
        (Some(_), count) => {
            let names = group.iter().filter_map(|event| event.adapter.as_ref()).map(|key| key.1.as_str());
            let listed: Vec<&str> = names.take(LISTED).collect();
            let more = count.saturating_sub(LISTED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("{count} Adapters ({}{more})", listed.join(", "))
        }
    };
    News { warning: first.warning, reason: first.reason.as_str(), text: format!("{of}: {}", first.message) }
}

/// `Adapter sql (tasks/sql.yaml:7)`; the message begins with the field where it is about one. Where the source is, the words
/// are a replica's own, and may begin with a path that is called like a field.
fn placed(kind: &'static str, key: &Key, event: &Occurrence, manifests: &Manifests) -> String {
    let field = match event.reason {
        Reason::SourceUnavailable | Reason::SourceForbidden | Reason::SourceUnauthorized => "source",
        _ => event.message.split(": ").next().unwrap_or_default(),
    };
    let name = shown(kind, key);
    let place = manifests.place(kind, key, field.strip_prefix("spec.").unwrap_or(field));
    place.map_or(name.clone(), |place| format!("{name} ({place})"))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::up::files::Document;
    use crate::up::manifests::Admission;
    use crate::up::state::Objects;

    fn event(adapter: Option<&str>, message: &str) -> Occurrence {
        Occurrence {
            adapter: adapter.map(|name| ("default".to_owned(), name.to_owned())),
            reason: Reason::DeploymentNotFound,
            warning: true,
            message: message.to_owned(),
        }
    }

    /// The Adapter `a`, as it is written in a.yaml.
    fn manifests() -> Manifests {
        let text = "apiVersion: lorikeet.dev/v1alpha1\nkind: Adapter\nmetadata: {name: a}\nspec:\n  \
                    deploymentRef: {name: x}\n  source: hf://x/a\n";
        let content = serde_json::to_value(serde_yaml::from_str::<serde_yaml::Value>(text).unwrap()).unwrap();
        let document =
            Document { file: PathBuf::from("a.yaml"), line: 1, text: text.into(), content: Ok(content) };
        let state = tempfile::tempdir().unwrap();
        let (deployments, adapters) =
            (Objects::open(state.path()).unwrap(), Objects::open(state.path()).unwrap());
        Admission::default().read(&[document.into()], &deployments, &adapters)
    }

    fn fleet() -> FleetKey {
        FleetKey { namespace: "default".to_owned(), name: "x".to_owned() }
    }

    #[test]
    fn what_many_have_in_common_is_told_once_and_one_is_told_with_its_place() {
        let (manifests, fleet) = (manifests(), fleet());
        let gone = "deploymentRef: no Deployment default/x";
        let mut events = vec![event(Some("a"), "servedName: taken"), event(None, "no node")];
        events.extend(["b", "c", "d", "e"].map(|name| event(Some(name), gone)));
        let told: Vec<String> = news(&fleet, &events, &manifests).into_iter().map(|one| one.text).collect();
        assert_eq!(
            told,
            [
                "Adapter a (a.yaml:4): servedName: taken",
                "Deployment x: no node",
                "4 Adapters (b, c, d and 1 more): deploymentRef: no Deployment default/x",
            ]
        );
        let one = news(&fleet, &[event(Some("a"), gone)], &manifests);
        assert_eq!(one[0].text, format!("Adapter a (a.yaml:5): {gone}"));
    }

    #[test]
    fn a_replicas_words_about_a_path_name_no_field() {
        for (reason, message, line) in [
            (Reason::SourceUnavailable, ".drafts: no such folder", 6),
            (Reason::SourceUnavailable, "deploymentRef: no such folder", 6),
            (Reason::InvalidConfig, ".drafts: r: expected a number", 4),
            (Reason::InvalidConfig, "name: r: expected a number", 4),
            (Reason::InvalidConfig, "adapter_config.json: r: expected a number", 4),
            (Reason::InvalidSpec, "spec.source: expected another", 6),
        ] {
            let one = news(&fleet(), &[Occurrence { reason, ..event(Some("a"), message) }], &manifests());
            assert_eq!(one[0].text, format!("Adapter a (a.yaml:{line}): {message}"));
        }
    }
}
