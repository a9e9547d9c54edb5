//! The difference of two desired sets. Pure.

use std::cmp::Ordering;

use internment::ArcIntern;
use lorikeet_api::DesiredAdapter;

/// What makes `new` of `old`: adapters that are new or differ, and names that are gone. Both are ordered by name.
#[must_use]
pub fn change(
    old: &[ArcIntern<DesiredAdapter>],
    new: &[ArcIntern<DesiredAdapter>],
) -> (Vec<ArcIntern<DesiredAdapter>>, Vec<String>) {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    let (mut set, mut gone) = (Vec::new(), Vec::new());
    loop {
        // What is the same has one address: of two large sets few names are compared.
        let order = match (old.peek(), new.peek()) {
            (None, None) => return (set, gone),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(before), Some(after)) if before == after => {
                old.next();
                new.next();
                continue;
            }
            (Some(before), Some(after)) => before.name.cmp(&after.name),
        };
        if order.is_le() {
            gone.extend(old.next().filter(|_| order.is_lt()).map(|one| one.name.clone()));
        }
        if order.is_ge() {
            set.extend(new.next().cloned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(name: &str, source: &str) -> ArcIntern<DesiredAdapter> {
        let (name, source) = (name.to_owned(), source.to_owned());
        ArcIntern::new(DesiredAdapter { name, source, ..DesiredAdapter::default() })
    }

    #[test]
    fn only_what_differs_is_sent() {
        let old = [adapter("a", "1"), adapter("b", "1"), adapter("c", "1"), adapter("e", "1")];
        let new = [adapter("b", "2"), adapter("c", "1"), adapter("d", "1")];
        let gone = ["a", "e"].map(str::to_owned).to_vec();
        assert_eq!(change(&old, &new), (vec![adapter("b", "2"), adapter("d", "1")], gone));
        assert_eq!(change(&new, &new), (vec![], vec![]));
        assert_eq!(change(&[], &new).0, new);
    }
}
