//! Contents: whether replicas serve several of one source while no digest says which is meant, so that an answer depends on
//! the replica that is asked. Pure.

use std::cmp::Reverse;
use std::collections::BTreeMap;

/// How many contents are named.
const NAMED: usize = 2;

/// What is said where `digests`, one of each replica that has read `source`, are not the same, and `field` would say which
/// is meant.
#[must_use]
pub fn differing<'a>(digests: impl Iterator<Item = &'a str>, source: &str, field: &str) -> Option<String> {
    let mut contents: BTreeMap<&str, usize> = BTreeMap::new();
    digests.for_each(|digest| *contents.entry(digest).or_default() += 1);
    if contents.len() < 2 {
        return None;
    }
    let mut contents: Vec<(&str, usize)> = contents.into_iter().collect();
    contents.sort_by_key(|(_, replicas)| Reverse(*replicas));
    let of = |(digest, replicas): &(&str, usize)| format!("{digest} on {replicas}");
    Some(format!(
        "replicas serve {} contents of {source}: {}; set {field} to the one that is meant",
        contents.len(),
        contents.iter().take(NAMED).map(of).collect::<Vec<_>>().join(", "),
    ))
}
