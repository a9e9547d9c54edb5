//! Sources as replicas read them: a claim is a folder that is mounted, a revision is part of its address. Pure.
//!
//! What is sent to a replica is what it reports back, so that a report is known to speak of it.

use lorikeet_crds::source::SCHEMES;

use crate::decide::validate::Refusal;

/// Whether replicas read sources of that kind.
///
/// # Errors
/// They do not: what they read, and what `field` says.
pub fn check(field: &'static str, source: &str) -> Result<(), Refusal> {
    if source.split_once("://").is_some_and(|(scheme, _)| SCHEMES.contains(&scheme)) {
        return Ok(());
    }
    let expected = "one of hf://, s3://, https://, http://, pvc:// and file://, which replicas read";
    Err(Refusal::InvalidSpec { field, expected, got: shown(source).to_owned() })
}

/// `source` at `revision` for replicas that find `pvc://CLAIM/PATH` as `CLAIM/PATH` below the folder `claims`.
#[must_use]
pub fn carried(source: &str, revision: Option<&str>, claims: &str) -> String {
    let Some((scheme, rest)) = source.split_once("://") else { return source.to_owned() };
    match (scheme, revision) {
        ("pvc", _) => format!("{claims}/{rest}"),
        ("file", _) => rest.to_owned(),
        ("hf", Some(revision)) => at_revision(rest, revision),
        _ => source.to_owned(),
    }
}

/// `OWNER/NAME[@REVISION][/FILE]` at another revision.
fn at_revision(rest: &str, revision: &str) -> String {
    let revision = revision.replace('/', "%2F");
    let bare = |name: &str| name.split('@').next().unwrap_or_default().to_owned();
    // The oldest repositories have no owner.
    let Some((owner, rest)) = rest.split_once('/') else { return format!("hf://{}@{revision}", bare(rest)) };
    let (name, file) = rest.split_once('/').map_or((rest, None), |(name, file)| (name, Some(file)));
    let file = file.map_or_else(String::new, |file| format!("/{file}"));
    format!("hf://{owner}/{}@{revision}{file}", bare(name))
}

/// `source` as reports show it: without a query, which may hold a signature.
#[must_use]
pub fn shown(source: &str) -> &str {
    if source.contains("://") { source.split('?').next().unwrap_or(source) } else { source }
}

/// Whether a report shows all of `source`: of a source on the web it leaves out a query, and so does not tell one from another.
#[must_use]
pub fn is_shown_whole(source: &str) -> bool {
    !["https://", "http://"].iter().any(|scheme| source.starts_with(scheme))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_no_replica_reads_is_refused_with_what_they_read() {
        for scheme in SCHEMES {
            assert_eq!(check("source", &format!("{scheme}://a/b")), Ok(()));
        }
        for source in ["gs://bucket/key", "oci://registry/name:tag", "/models/x"] {
            let refusal = check("model.source", source).unwrap_err().to_string();
            let said = "model.source: expected one of hf://, s3://, https://, http://, pvc:// and file://";
            assert!(refusal.starts_with(said) && refusal.contains(source), "{refusal}");
        }
    }

    #[test]
    fn a_source_is_carried_as_a_replica_reads_it() {
        for (source, revision, expected) in [
            ("pvc://models/sql", None, "/claims/models/sql"),
            ("file:///models/sql", None, "/models/sql"),
            ("hf://acme/sql", None, "hf://acme/sql"),
            ("hf://acme/sql", Some("v3"), "hf://acme/sql@v3"),
            ("hf://acme/sql@v2/a/b", Some("refs/pr/1"), "hf://acme/sql@refs%2Fpr%2F1/a/b"),
            ("hf://gpt2", Some("main"), "hf://gpt2@main"),
            ("https://host/x?sig=1", None, "https://host/x?sig=1"),
        ] {
            assert_eq!(carried(source, revision, "/claims"), expected, "{source}");
        }
        assert_eq!(shown("https://host/x?sig=1"), "https://host/x");
        assert_eq!(shown("/odd?name"), "/odd?name");
        // What is shown may have had a query.
        for (source, whole) in [("https://host/x", false), ("http://host/x?v=1", false), ("s3://b/x", true)] {
            assert_eq!(is_shown_whole(source), whole, "{source}");
        }
    }
}
