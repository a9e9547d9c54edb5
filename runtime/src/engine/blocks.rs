//! The KV blocks of the device: who holds which, which are free, which are free but still worth finding. Pure: numbers
//! only. What a sequence holds is given back by `Drop`.

use std::cell::RefCell;
use std::rc::Rc;

use crate::engine::prefix::{Owner, Parent, PrefixIndex};

/// All blocks. A clone is the same pool; it stays on the engine's thread.
#[derive(Clone, Debug)]
pub struct BlockPool(Rc<RefCell<Pool>>);

#[derive(Debug)]
struct Pool {
    block_size: usize,
    share: bool,
    /// `[blocks]` leases that hold each.
    held: Vec<u32>,
    /// Blocks that nobody holds and nobody can find.
    free: Vec<u32>,
    /// Blocks that nobody holds but that can be found: the one released first is taken first.
    idle: IdleList,
    index: PrefixIndex,
}

/// The blocks of one sequence, in the order of its text. Given back when dropped.
#[derive(Debug)]
pub struct Lease {
    pool: BlockPool,
    blocks: Vec<u32>,
    /// The first so many blocks are published, by this lease or by another that it shares them with.
    published: usize,
    /// What the next published block follows; `None`: nothing of this lease is published any more.
    parent: Option<Parent>,
}

impl BlockPool {
    /// A pool of `blocks` free blocks of `block_size` tokens; with `share` equal prefixes share blocks.
    #[must_use]
    pub fn new(blocks: usize, block_size: usize, share: bool) -> Self {
        let count = u32::try_from(blocks).unwrap_or(u32::MAX);
        Self(Rc::new(RefCell::new(Pool {
            block_size,
            share,
            held: vec![0; count as usize],
            free: (0..count).rev().collect(),
            idle: IdleList::new(count),
            index: PrefixIndex::new(count as usize),
        })))
    }

    /// Tokens of a block.
    #[must_use]
    pub fn block_size(&self) -> usize {
        self.0.borrow().block_size
    }

    /// Blocks that a lease could get now.
    #[must_use]
    pub fn available(&self) -> usize {
        let pool = self.0.borrow();
        pool.free.len() + pool.idle.len
    }

    /// Of those, the ones whose content can still be found.
    #[must_use]
    pub fn cached(&self) -> usize {
        self.0.borrow().idle.len
    }

    /// Blocks that leases hold.
    #[must_use]
    pub fn used(&self) -> usize {
        let pool = self.0.borrow();
        pool.held.len() - pool.free.len() - pool.idle.len
    }

    /// A lease of no blocks yet.
    #[must_use]
    pub fn lease(&self, owner: Owner) -> Lease {
        let parent = self.0.borrow().share.then_some(Parent::Owner(owner));
        Lease { pool: self.clone(), blocks: Vec::new(), published: 0, parent }
    }
}

impl Lease {
    /// The block table: `[position / block_size]`.
    #[must_use]
    pub fn blocks(&self) -> &[u32] {
        &self.blocks
    }

    /// Blocks still missing to cover `tokens` positions.
    #[must_use]
    pub fn missing(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.pool.block_size()).saturating_sub(self.blocks.len())
    }

    /// Takes what covers `tokens` positions: all of it, or nothing and says `false`.
    pub fn grow(&mut self, tokens: usize) -> bool {
        let missing = self.missing(tokens);
        if missing > self.pool.available() {
            return false;
        }
        let mut pool = self.pool.0.borrow_mut();
        self.blocks.extend((0..missing).filter_map(|_| pool.take()));
        true
    }

    /// Takes over published blocks that hold the text after what this lease has published: in the place of its own
    /// where it has some. At most up to position `limit`. Returns the positions that are now covered by published
    /// blocks, counted from the text's begin.
    pub fn adopt(&mut self, tokens: &[u32], limit: usize) -> usize {
        let mut pool = self.pool.0.borrow_mut();
        let size = pool.block_size;
        while let Some(parent) = self.parent
            && (self.published + 1) * size <= limit
            && let Some((block, next)) = pool.index.find(parent, &tokens[self.published * size..][..size])
        {
            pool.hold(block);
            match self.blocks.get_mut(self.published) {
                Some(own) => pool.release(std::mem::replace(own, block)),
                None => self.blocks.push(block),
            }
            self.parent = Some(next);
            self.published += 1;
        }
        self.published * size
    }

    /// Publishes the full blocks below position `after`. Those that end at or before `before` were computed in earlier
    /// steps and are exchanged for an equal block where there is one; a block that this step writes is its own.
    pub fn publish(&mut self, tokens: &[u32], before: usize, after: usize) {
        let size = self.pool.block_size();
        self.adopt(tokens, before);
        let mut pool = self.pool.0.borrow_mut();
        while let Some(parent) = self.parent
            && (self.published + 1) * size <= after
        {
            let text = &tokens[self.published * size..][..size];
            if pool.index.find(parent, text).is_some() {
                return;
            }
            self.parent = pool.index.publish(self.blocks[self.published], parent, text);
            self.published += usize::from(self.parent.is_some());
        }
    }

    /// Nobody finds what this lease holds from now on: its content is not to be trusted.
    pub fn disown(&mut self) {
        let mut pool = self.pool.0.borrow_mut();
        for &block in &self.blocks[..self.published] {
            pool.index.forget(block);
        }
        self.published = 0;
        self.parent = None;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut pool = self.pool.0.borrow_mut();
        // The last block first, so that a chain is forgotten from its end.
        for &block in self.blocks.iter().rev() {
            pool.release(block);
        }
    }
}

impl Pool {
    fn take(&mut self) -> Option<u32> {
        let block = self.free.pop().or_else(|| {
            let block = self.idle.pop()?;
            self.index.forget(block);
            Some(block)
        })?;
        self.held[block as usize] = 1;
        Some(block)
    }

    fn hold(&mut self, block: u32) {
        if self.held[block as usize] == 0 {
            self.idle.remove(block);
        }
        self.held[block as usize] += 1;
    }

    fn release(&mut self, block: u32) {
        let held = &mut self.held[block as usize];
        *held -= 1;
        if *held > 0 {
            return;
        }
        if self.index.holds(block) {
            self.idle.push(block);
        } else {
            self.free.push(block);
        }
    }
}

const END: u32 = u32::MAX;

/// A list of blocks, doubly linked through arrays: every operation is constant.
#[derive(Debug)]
struct IdleList {
    next: Vec<u32>,
    previous: Vec<u32>,
    first: u32,
    last: u32,
    len: usize,
}

impl IdleList {
    fn new(blocks: u32) -> Self {
        let links = || vec![END; blocks as usize];
        Self { next: links(), previous: links(), first: END, last: END, len: 0 }
    }

    fn push(&mut self, block: u32) {
        let last = std::mem::replace(&mut self.last, block);
        self.previous[block as usize] = last;
        self.next[block as usize] = END;
        match last {
            END => self.first = block,
            _ => self.next[last as usize] = block,
        }
        self.len += 1;
    }

    fn pop(&mut self) -> Option<u32> {
        let first = self.first;
        (first != END).then(|| {
            self.remove(first);
            first
        })
    }

    fn remove(&mut self, block: u32) {
        let (previous, next) = (self.previous[block as usize], self.next[block as usize]);
        match previous {
            END => self.first = next,
            _ => self.next[previous as usize] = next,
        }
        match next {
            END => self.last = previous,
            _ => self.previous[next as usize] = previous,
        }
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Owner = Owner { generation: None, salt: 7 };
    const TEXT: [u32; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

    /// A lease that computed and published all of `text`.
    fn computed(pool: &BlockPool, text: &[u32]) -> Lease {
        let mut lease = pool.lease(OWNER);
        assert!(lease.grow(text.len()));
        lease.publish(text, 0, text.len());
        lease
    }

    #[test]
    fn a_dropped_lease_gives_its_blocks_back() {
        let pool = BlockPool::new(4, 2, true);
        let mut lease = pool.lease(OWNER);
        assert!(lease.grow(5));
        assert_eq!((pool.used(), pool.available()), (3, 1));
        drop(lease);
        assert_eq!((pool.used(), pool.available()), (0, 4));
    }

    #[test]
    fn a_lease_grows_by_all_that_it_needs_or_not_at_all() {
        let pool = BlockPool::new(4, 2, true);
        let mut lease = pool.lease(OWNER);
        assert!(lease.grow(3) && lease.blocks().len() == 2);
        assert!(!lease.grow(9) && lease.blocks().len() == 2);
        assert!(lease.grow(4) && lease.blocks().len() == 2, "it has them already");
    }

    #[test]
    fn a_finished_sequence_leaves_its_prefix_to_be_found() {
        let pool = BlockPool::new(8, 2, true);
        let blocks = computed(&pool, &TEXT).blocks().to_vec();
        assert_eq!((pool.used(), pool.cached()), (0, 4));
        let mut lease = pool.lease(OWNER);
        assert_eq!(lease.adopt(&TEXT, TEXT.len() - 1), 6, "one token stays to be computed");
        assert_eq!(lease.blocks(), &blocks[..3]);
        assert_eq!((pool.used(), pool.cached()), (3, 1));
    }

    #[test]
    fn a_running_sequence_shares_its_prefix_too() {
        let pool = BlockPool::new(8, 2, true);
        let one = computed(&pool, &TEXT);
        let mut two = pool.lease(OWNER);
        assert_eq!(two.adopt(&TEXT, 4), 4);
        assert_eq!(pool.used(), 4);
        drop(one);
        assert_eq!(pool.used(), 2, "what is shared stays as long as one holds it");
    }

    #[test]
    fn a_cached_block_is_given_away_last_released_last_and_a_chain_from_its_end() {
        let pool = BlockPool::new(4, 2, true);
        drop(computed(&pool, &[1, 2, 3, 4]));
        drop(computed(&pool, &[9, 9]));
        let mut taker = pool.lease(OWNER);
        assert!(taker.grow(4), "the free one and the end of the older chain");
        let mut lease = pool.lease(OWNER);
        assert_eq!(lease.adopt(&[1, 2, 3, 4], 4), 2);
        assert_eq!(pool.lease(OWNER).adopt(&[9, 9], 2), 2);
    }

    #[test]
    fn equal_text_computed_twice_ends_as_one_block() {
        let pool = BlockPool::new(8, 2, true);
        let one = computed(&pool, &TEXT[..4]);
        let mut two = pool.lease(OWNER);
        assert!(two.grow(4));
        two.publish(&TEXT, 0, 4);
        assert_ne!(one.blocks()[0], two.blocks()[0], "a block that this step writes is never exchanged");
        two.publish(&TEXT, 4, 5);
        assert_eq!(one.blocks(), two.blocks());
        assert_eq!(pool.used(), 2);
    }

    #[test]
    fn a_prompt_goes_on_where_another_one_has_got_to() {
        let pool = BlockPool::new(12, 2, true);
        let mut two = pool.lease(OWNER);
        assert!(two.grow(8));
        two.publish(&TEXT, 0, 3);
        let one = computed(&pool, &[1, 2]);
        let mut further = pool.lease(OWNER);
        assert!(further.grow(6));
        assert_eq!(further.adopt(&TEXT, 6), 2);
        further.publish(&TEXT, 2, 6);
        assert_eq!(two.adopt(&TEXT, 7), 6);
        assert_eq!(two.blocks()[..3], *further.blocks());
        drop((one, two, further));
        assert_eq!(pool.used(), 0);
    }

    #[test]
    fn what_is_disowned_is_found_by_nobody() {
        let pool = BlockPool::new(8, 2, true);
        let mut lease = computed(&pool, &TEXT);
        lease.disown();
        assert_eq!(pool.lease(OWNER).adopt(&TEXT, 8), 0);
        drop(lease);
        assert_eq!((pool.used(), pool.cached()), (0, 0));
    }

    #[test]
    fn without_sharing_nothing_is_found() {
        let pool = BlockPool::new(8, 2, false);
        let one = computed(&pool, &TEXT);
        assert_eq!(pool.lease(OWNER).adopt(&TEXT, 8), 0);
        drop(one);
        assert_eq!(pool.cached(), 0);
    }
}
