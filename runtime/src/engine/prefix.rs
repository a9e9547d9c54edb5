//! Which KV blocks hold which text: blocks chained by content, so that equal prefixes are computed once. Pure.
//!
//! Must never mix two owners up: a chain begins at its owner (generation and salt), each link is compared token by
//! token and names the very publication of its parent, so a hash collision can cost a miss and nothing else.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use crate::adapters::pin::Generation;

/// Whose text a chain of blocks is. Chains of different owners never meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// The weights that computed it; `None` for the base model.
    pub generation: Option<Generation>,
    /// The tenant's.
    pub salt: u64,
}

/// What comes before a block: its owner, or one publication of the block before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Parent {
    /// The block begins the text of this owner.
    Owner(Owner),
    /// The block follows that publication. Numbers are never used twice.
    Publication(u64),
}

/// The published blocks, by content. The hash is `SipHash` under a random key: nobody can make collisions on purpose.
#[derive(Debug)]
pub struct PrefixIndex<S = RandomState> {
    hasher: S,
    by_hash: HashMap<u64, u32>,
    /// `[blocks]` what each holds, where it is published.
    contents: Vec<Option<Content>>,
    publications: u64,
}

#[derive(Debug)]
struct Content {
    hash: u64,
    parent: Parent,
    tokens: Box<[u32]>,
    publication: u64,
}

impl PrefixIndex {
    /// An index over `blocks` blocks, none published.
    #[must_use]
    pub fn new(blocks: usize) -> Self {
        Self::with_hasher(blocks, RandomState::new())
    }
}

impl<S: BuildHasher> PrefixIndex<S> {
    fn with_hasher(blocks: usize, hasher: S) -> Self {
        let contents = (0..blocks).map(|_| None).collect();
        Self { hasher, by_hash: HashMap::new(), contents, publications: 0 }
    }

    /// The published block that holds `tokens` after `parent`, and what its child names as parent.
    #[must_use]
    pub fn find(&self, parent: Parent, tokens: &[u32]) -> Option<(u32, Parent)> {
        let block = *self.by_hash.get(&self.hasher.hash_one((parent, tokens)))?;
        let content = self.contents[block as usize].as_ref()?;
        let same = content.parent == parent && *content.tokens == *tokens;
        same.then_some((block, Parent::Publication(content.publication)))
    }

    /// Publishes that `block` holds `tokens` after `parent`. `None` when the hash is taken by other content: then the
    /// block is not shared, nor what follows it.
    pub fn publish(&mut self, block: u32, parent: Parent, tokens: &[u32]) -> Option<Parent> {
        let hash = self.hasher.hash_one((parent, tokens));
        if self.by_hash.contains_key(&hash) {
            return None;
        }
        self.forget(block);
        self.publications += 1;
        self.by_hash.insert(hash, block);
        let publication = self.publications;
        self.contents[block as usize] = Some(Content { hash, parent, tokens: tokens.into(), publication });
        Some(Parent::Publication(publication))
    }

    /// Whether `block` is published.
    #[must_use]
    pub fn holds(&self, block: u32) -> bool {
        self.contents[block as usize].is_some()
    }

    /// Nobody finds `block` from now on.
    pub fn forget(&mut self, block: u32) {
        if let Some(content) = self.contents[block as usize].take() {
            self.by_hash.remove(&content.hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{DefaultHasher, Hasher};

    use super::*;
    use crate::digest::Digest;

    fn owner(salt: u64) -> Parent {
        Parent::Owner(Owner { generation: None, salt })
    }

    fn adapted(content: &[u8]) -> Parent {
        Parent::Owner(Owner { generation: Some(Generation::of(Digest::of(content))), salt: 0 })
    }

    #[test]
    fn equal_text_of_one_owner_is_found() {
        let mut index = PrefixIndex::new(4);
        let first = index.publish(3, owner(0), &[1, 2]).unwrap();
        let second = index.publish(1, first, &[3, 4]).unwrap();
        assert_eq!(index.find(owner(0), &[1, 2]), Some((3, first)));
        assert_eq!(index.find(first, &[3, 4]), Some((1, second)));
        assert_eq!(index.find(first, &[3, 5]), None);
    }

    #[test]
    fn owners_that_differ_in_salt_or_generation_share_nothing() {
        let mut index = PrefixIndex::new(4);
        index.publish(0, owner(0), &[1, 2]).unwrap();
        index.publish(1, adapted(b"a"), &[1, 2]).unwrap();
        assert_eq!(index.find(owner(1), &[1, 2]), None);
        assert_eq!(index.find(adapted(b"b"), &[1, 2]), None);
        assert_eq!(index.find(adapted(b"a"), &[1, 2]).unwrap().0, 1);
    }

    #[test]
    fn a_child_is_found_under_its_own_parent_alone() {
        let mut index = PrefixIndex::new(4);
        let first = index.publish(0, owner(0), &[1, 2]).unwrap();
        let other = index.publish(1, owner(0), &[9, 9]).unwrap();
        index.publish(2, first, &[3, 4]).unwrap();
        assert_eq!(index.find(other, &[3, 4]), None);
        index.forget(0);
        let again = index.publish(0, owner(0), &[1, 2]).unwrap();
        assert_ne!(first, again, "a publication's number is never used twice");
        assert_eq!(index.find(again, &[3, 4]), None);
    }

    /// Everything collides.
    struct Constant;

    impl BuildHasher for Constant {
        type Hasher = Zero;
        fn build_hasher(&self) -> Zero {
            Zero(DefaultHasher::new())
        }
    }

    struct Zero(DefaultHasher);

    impl Hasher for Zero {
        fn finish(&self) -> u64 {
            0
        }
        fn write(&mut self, bytes: &[u8]) {
            self.0.write(bytes);
        }
    }

    #[test]
    fn a_hash_collision_is_a_miss_and_never_another_ones_block() {
        let mut index = PrefixIndex::with_hasher(4, Constant);
        index.publish(0, owner(0), &[1, 2]).unwrap();
        assert_eq!(index.find(owner(1), &[1, 2]), None, "another tenant's");
        assert_eq!(index.find(owner(0), &[5, 6]), None, "other tokens");
        assert_eq!(index.publish(1, owner(1), &[1, 2]), None, "the place is taken");
        index.forget(0);
        assert!(index.publish(1, owner(1), &[1, 2]).is_some());
    }
}
