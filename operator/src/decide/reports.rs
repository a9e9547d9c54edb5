//! What the replicas report of one adapter, gathered. Pure. A report counts only where it speaks of what the spec asks
//! for now: a replica that still serves the former source has not loaded this one.

use std::collections::HashMap;

use lorikeet_api::{AdapterReport, AdapterState, Tier};

use crate::decide::place::Measured;
use crate::decide::sources::shown;
use crate::decide::validate::ValidAdapter;
use crate::fleet::{Contact, Replica, Report, Said};

/// What the replicas say, by served name: of each name a row, with a place for each replica. 640,000 places are looked at
/// in each decision about a large fleet: they are pointers, and a name is looked up once where replicas say the same.
pub struct Reports<'a> {
    width: usize,
    rows: HashMap<&'a str, usize>,
    said: Vec<Option<&'a Said>>,
}

impl<'a> Reports<'a> {
    /// Indexes what `replicas` say now.
    #[must_use]
    pub fn of(replicas: &'a [Replica]) -> Self {
        Self::indexed(replicas, |contact| match contact {
            Contact::Reported(report) => Some(report),
            Contact::Pending | Contact::Loading | Contact::Unreachable { .. } => None,
        })
    }

    /// Indexes what `replicas` said last, those that do not answer now included.
    #[must_use]
    pub fn last(replicas: &'a [Replica]) -> Self {
        Self::indexed(replicas, last)
    }

    fn indexed(replicas: &'a [Replica], report: fn(&Contact) -> Option<&Report>) -> Self {
        let mut all = Self { width: replicas.len(), rows: HashMap::new(), said: Vec::new() };
        let mut before: Vec<(&Said, usize)> = Vec::new();
        for (index, replica) in replicas.iter().enumerate() {
            let Some(report) = report(&replica.contact) else { continue };
            let mut here = Vec::with_capacity(report.adapters.len());
            for (at, said) in report.adapters.iter().enumerate() {
                let row = match before.get(at) {
                    Some((same, row)) if *same == said => *row,
                    _ => all.row_of(&said.name),
                };
                all.said[row * all.width + index] = Some(said);
                here.push((said, row));
            }
            before = here;
        }
        all
    }

    /// The place of `name` among the rows; a new one where it has none.
    fn row_of(&mut self, name: &'a str) -> usize {
        let next = self.rows.len();
        let row = *self.rows.entry(name).or_insert(next);
        if row == next {
            self.said.resize(self.said.len() + self.width, None);
        }
        row
    }

    /// What each replica says of `name`, by its index; nothing at all where none of them knows it.
    #[must_use]
    pub fn row(&self, name: &str) -> &[Option<&'a Said>] {
        let row = |row: &usize| &self.said[row * self.width..(row + 1) * self.width];
        self.rows.get(name).map(row).unwrap_or_default()
    }

    /// What each replica says of `name`, with its index.
    pub fn of_name(&self, name: &str) -> impl Iterator<Item = (usize, &'a AdapterReport)> {
        self.row(name).iter().enumerate().filter_map(|(index, said)| said.map(|said| (index, &**said)))
    }

    /// What replica `index` says of `name`.
    #[must_use]
    pub fn get(&self, index: usize, name: &str) -> Option<&'a AdapterReport> {
        self.row(name).get(index).copied().flatten().map(|said| &**said)
    }

    /// The names that replicas which answer have.
    pub fn names(&self) -> impl Iterator<Item = &'a str> {
        self.rows.keys().copied()
    }

    /// Whether any replica that answers still has `name`.
    #[must_use]
    pub fn mentions(&self, name: &str) -> bool {
        self.rows.contains_key(name)
    }

    /// The reports of `adapter` as its spec is now, with the index of their replica.
    pub fn current<'b>(
        &'b self,
        adapter: &'b ValidAdapter,
    ) -> impl Iterator<Item = (usize, &'a AdapterReport)> + use<'a, 'b> {
        let mut judged = Judged::of(adapter);
        self.row(&adapter.served_name).iter().enumerate().filter_map(move |(index, said)| {
            said.filter(|said| judged.speaks_of_it(said)).map(|said| (index, &**said))
        })
    }

    /// Bytes and demand of each of `adapters`. Replicas that do not have it, or that restarted, say no bytes: then those
    /// count that it took before, or one without room would be taken for one that needs none, and be placed again.
    #[must_use]
    pub fn measured(&self, adapters: &[&ValidAdapter]) -> Vec<Measured> {
        let add = |sum: Measured, report: &AdapterReport| Measured {
            bytes: sum.bytes.max(report.bytes),
            demand: sum.demand.saturating_add(report.demand),
        };
        let of = |adapter: &&ValidAdapter| {
            let said = self.row(&adapter.served_name).iter().flatten();
            let measured = said.fold(Measured::default(), |sum, said| add(sum, said));
            let bytes = if measured.bytes > 0 { measured.bytes } else { adapter.bytes };
            Measured { bytes, ..measured }
        };
        adapters.iter().map(of).collect()
    }
}

/// Judges what replicas say of one adapter, once where they say the same.
pub struct Judged<'a> {
    adapter: &'a ValidAdapter,
    last: Option<(&'a Said, bool)>,
}

impl<'a> Judged<'a> {
    /// Nothing judged yet.
    #[must_use]
    pub const fn of(adapter: &'a ValidAdapter) -> Self {
        Self { adapter, last: None }
    }

    /// Whether `said` is about the content that the adapter asks for.
    pub fn speaks_of_it(&mut self, said: &'a Said) -> bool {
        if let Some((same, verdict)) = self.last
            && same == said
        {
            return verdict;
        }
        let verdict = speaks_of(said, self.adapter);
        self.last = Some((said, verdict));
        verdict
    }
}

/// What a replica said last.
#[must_use]
pub fn last(contact: &Contact) -> Option<&Report> {
    match contact {
        Contact::Reported(report) => Some(report),
        Contact::Unreachable { last, .. } => last.as_deref(),
        Contact::Pending | Contact::Loading => None,
    }
}

/// Whether `report` is about the content that `adapter` asks for.
#[must_use]
pub fn speaks_of(report: &AdapterReport, adapter: &ValidAdapter) -> bool {
    let pinned = adapter.digest.as_ref().is_none_or(|digest| {
        // A refused digest is reported as an error under this source, without a digest of its own.
        report.digest.as_ref() == Some(digest)
            || report.state == AdapterState::Failed
            || report.error.is_some()
    });
    report.source == shown(&adapter.source) && pinned
}

/// Whether the replica serves it without a load: from the device, or from host memory, which the device takes it from
/// with its next request (and which is the device's own where that is the processor).
#[must_use]
pub fn is_resident(report: &AdapterReport) -> bool {
    report.state == AdapterState::Ready
        && matches!(report.tier, Tier::Resident | Tier::Host)
        && report.error.is_none()
}
