//! The difference of two desired sets. Pure.

use lorikeet_api::DesiredAdapter;

/// What makes `new` of `old`: adapters that are new or differ, and names that are gone. Both are ordered by name.
#[must_use]
pub fn change(old: &[DesiredAdapter], new: &[DesiredAdapter]) -> (Vec<DesiredAdapter>, Vec<String>) {
    let find =
        |set: &[DesiredAdapter], name: &str| set.binary_search_by(|one| one.name.as_str().cmp(name)).ok();
    let set =
        new.iter().filter(|one| find(old, &one.name).is_none_or(|at| old[at] != **one)).cloned().collect();
    let gone = old.iter().filter(|one| find(new, &one.name).is_none()).map(|one| one.name.clone()).collect();
    (set, gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(name: &str, source: &str) -> DesiredAdapter {
        DesiredAdapter { name: name.to_owned(), source: source.to_owned(), ..DesiredAdapter::default() }
    }

    #[test]
    fn only_what_differs_is_sent() {
        let old = [adapter("a", "1"), adapter("b", "1"), adapter("c", "1")];
        let new = [adapter("b", "2"), adapter("c", "1"), adapter("d", "1")];
        assert_eq!(change(&old, &new), (vec![adapter("b", "2"), adapter("d", "1")], vec!["a".to_owned()]));
        assert_eq!(change(&new, &new), (vec![], vec![]));
    }
}
