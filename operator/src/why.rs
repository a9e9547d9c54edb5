//! Why a replica holds an adapter or not, and what would change that. Pure: the fleet comes from whoever observed it, and
//! what is said goes to whoever prints it. Decides nothing: it tells what [`crate::decide`] decides.

use std::collections::BTreeMap;
use std::io::{self, Write};

use jiff::Timestamp;
use lorikeet_api::{AdapterReport, AdapterState, Tier};
use lorikeet_crds::adapter::{LISTED, ReplicaPlacement};
use lorikeet_crds::condition::find;
use lorikeet_crds::{Adapter, ConditionType};

use crate::decide::decide_places;
use crate::decide::place::Place;
use crate::decide::reports::{Reports, is_resident, speaks_of};
use crate::decide::scale;
use crate::decide::validate::{AdapterKey, Spread, ValidAdapter, ValidFleet, key_of, served_name_of};
use crate::fleet::{Contact, Fleet, Hindrance, Replica};

mod leaving;

/// Names that are offered for one that nobody has.
const OFFERED: usize = 3;
/// How alike names must be to be offered: 1 is the same.
const ALIKE: f64 = 0.8;

/// A fleet as somebody saw it, and the Adapter that is asked about.
#[derive(Clone, Debug)]
pub struct Sight {
    /// The fleet of the Adapter.
    pub fleet: Fleet,
    /// Which one of its Adapters.
    pub key: AdapterKey,
    /// What replicas say is taken from statuses that were last written then; absent where the replicas themselves were
    /// asked.
    pub written: Option<Timestamp>,
    /// What keeps replicas from running, by their names, as far as who looked can tell.
    pub hindrances: BTreeMap<String, Hindrance>,
    /// Nobody carries the fleet out: no `up` runs.
    pub stopped: bool,
}

/// Whether a replica serves an adapter without a load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holds {
    /// What the Adapter asks for.
    It,
    /// What it asked for before, with its digest where it is known.
    Former(Option<String>),
    /// Nothing.
    Nothing,
    /// Its status lists others.
    Unlisted,
}

/// What is said of one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The replica.
    pub replica: String,
    /// Whether it has the adapter ready for the next step.
    pub holds: Holds,
    /// Why, and what would change it.
    pub because: String,
}

/// No Adapter has that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no Adapter {named} in namespace {namespace}{}", offer(.nearest))]
pub struct NoAdapter {
    named: String,
    namespace: String,
    nearest: Vec<String>,
}

fn offer(nearest: &[String]) -> String {
    match nearest {
        [] => "; `kubectl get lora --all-namespaces`, or the folder of manifests, names those that there are"
            .to_owned(),
        names => format!("; did you mean {}?", names.join(" or ")),
    }
}

/// Which of `adapters` is called `named`: by NAME or NAMESPACE/NAME, or by the name that requests use.
///
/// # Errors
/// None is; the names that are most like it are offered.
pub fn named<'a>(
    adapters: impl Iterator<Item = &'a Adapter> + Clone,
    named: &str,
    namespace: &str,
) -> Result<AdapterKey, NoAdapter> {
    let of_key = |key: AdapterKey| adapters.clone().map(key_of).find(|one| *one == key);
    let own = of_key((namespace.to_owned(), named.to_owned()));
    let elsewhere = || named.split_once('/').and_then(|(to, name)| of_key((to.to_owned(), name.to_owned())));
    let served = || {
        let is_called = |one: &&Adapter| key_of(one).0 == namespace && served_name_of(one) == named;
        adapters.clone().find(is_called).map(key_of)
    };
    own.or_else(elsewhere).or_else(served).ok_or_else(|| {
        let likeness = |key: &AdapterKey| {
            let whole = format!("{}/{}", key.0, key.1);
            strsim::jaro_winkler(named, &key.1).max(strsim::jaro_winkler(named, &whole))
        };
        let mut all: Vec<(f64, AdapterKey)> = adapters
            .map(key_of)
            .map(|key| (likeness(&key), key))
            .filter(|(alike, _)| *alike >= ALIKE)
            .collect();
        all.sort_by(|one, other| other.0.total_cmp(&one.0).then_with(|| one.1.cmp(&other.1)));
        let shown = |(_, (of, name)): (f64, AdapterKey)| {
            if of == namespace { name } else { format!("{of}/{name}") }
        };
        NoAdapter {
            named: named.to_owned(),
            namespace: namespace.to_owned(),
            nearest: all.into_iter().take(OFFERED).map(shown).collect(),
        }
    })
}

/// Prints the answer.
///
/// # Errors
/// `out` takes no more.
pub fn print(sight: &Sight, out: &mut impl Write) -> io::Result<()> {
    let Sight { fleet, key, written, .. } = sight;
    let name = format!("{}/{}", key.0, key.1);
    let status = adapter(sight).and_then(|one| one.status.as_ref());
    let is_of_now = status
        .zip(adapter(sight))
        .is_some_and(|(status, adapter)| status.observed_generation == adapter.metadata.generation);
    if sight.stopped {
        writeln!(out, "No `up` runs on this state folder: what follows is as the last one left it")?;
    }
    match (status, written) {
        (None, _) => writeln!(
            out,
            "The operator has not looked at {name} yet: see that it runs, and that it watches namespace {}",
            key.0
        )?,
        (Some(_), Some(at)) => {
            writeln!(out, "As the operator saw the replicas when it last wrote, at {at}:")?
        }
        (Some(_), None) => {}
    }
    if status.is_some() && !is_of_now {
        writeln!(out, "The operator has not looked at the newest edit of {name} yet")?;
    }
    match why(sight) {
        Err(for_all) => writeln!(out, "No replica holds {name}: {for_all}"),
        Ok(lines) if lines.is_empty() => {
            writeln!(out, "No replica holds {name}: {} has no replicas{}", fleet.key.name, absence(sight))
        }
        Ok(lines) => lines.iter().try_for_each(|Line { replica, holds, because }| match holds {
            Holds::It => writeln!(out, "{replica}: holds it: {because}"),
            Holds::Former(digest) => {
                let digest = digest.as_ref().map(|digest| format!(" {digest}")).unwrap_or_default();
                writeln!(out, "{replica}: serves the former version{digest}; the new one: {because}")
            }
            Holds::Nothing => writeln!(out, "{replica}: does not hold it: {because}"),
            Holds::Unlisted => writeln!(out, "{replica}: is not listed: {because}"),
        }),
    }
}

/// Why a fleet has no replica, and what would change that.
fn absence(sight: &Sight) -> String {
    let deployment = sight.fleet.deployment.as_deref();
    if deployment.is_some_and(|one| scale::replicas(&one.spec) == 0) {
        return "; raise spec.replicas".to_owned();
    }
    if sight.stopped {
        return " while no `up` runs; start it again".to_owned();
    }
    let lacking = deployment.and_then(|one| {
        let ready = find(&one.status.as_ref()?.conditions, ConditionType::Ready)?;
        let is_of_now = ready.observed_generation == one.metadata.generation;
        (is_of_now && ready.status != "True").then_some(&ready.message)
    });
    match lacking {
        Some(message) => format!(": {message}"),
        None => format!(
            ", and its status does not say why yet: see that the operator runs, and that it watches namespace {}",
            sight.fleet.key.namespace
        ),
    }
}

fn adapter(sight: &Sight) -> Option<&Adapter> {
    sight.fleet.adapters.iter().find(|one| key_of(one) == sight.key).map(AsRef::as_ref)
}

/// Why an Adapter was not accepted by what was read of its source, as its status says: who asks why reads no sources.
fn unaccepted(adapter: &Adapter) -> Option<String> {
    let accepted = find(&adapter.status.as_ref()?.conditions, ConditionType::Accepted)?;
    let is_of_now = accepted.observed_generation == adapter.metadata.generation;
    (is_of_now && accepted.status != "True").then(|| accepted.message.clone())
}

/// Replica by replica.
///
/// # Errors
/// The one reason that holds for all of them.
pub fn why(sight: &Sight) -> Result<Vec<Line>, String> {
    let Sight { fleet, key, .. } = sight;
    if let Some(gone) = adapter(sight).and_then(|one| leaving::lines(sight, one)) {
        return gone;
    }
    let (valid, places) =
        decide_places(fleet, sight.written.is_some()).map_err(|refusal| refusal.to_string())?;
    let refused = valid.refused.get(key).map(ToString::to_string);
    if let Some(refusal) = refused.or_else(|| adapter(sight).and_then(unaccepted)) {
        return meanwhile(sight, &valid, refusal);
    }
    let (Some(adapter), Some(place)) = (valid.accepted(key), places.get(key)) else {
        return Err("there is no such Adapter".to_owned());
    };
    let reports = Reports::of(&fleet.replicas);
    let of = |(index, replica): (usize, &Replica)| {
        let report = reports.get(index, &adapter.served_name);
        let placed = place.replicas.binary_search(&index).is_ok();
        let holds = report.map_or(Holds::Nothing, |report| holds(report, adapter));
        let refusal = replica.refusal.as_deref();
        let subject = Subject { sight, valid: &valid, adapter, place, placed, holds: &holds, refusal };
        let silence = silence(sight, replica);
        if let Some(last) = last_listed(sight, replica).filter(|_| silence.is_none() && refusal.is_none()) {
            return unlisted(&subject, replica, last);
        }
        let because = silence.unwrap_or_else(|| reason(&subject, report));
        Line { replica: replica.name.clone(), holds, because }
    };
    Ok(fleet.replicas.iter().enumerate().map(of).collect())
}

/// Of an Adapter that is not accepted: the replicas that go on serving what it was before.
fn meanwhile(sight: &Sight, valid: &ValidFleet, refusal: String) -> Result<Vec<Line>, String> {
    let fleet = &sight.fleet;
    let before = adapter(sight).and_then(|one| one.status.as_ref()?.digest.clone());
    let Some((adapter, digest)) = adapter(sight).zip(before) else { return Err(refusal) };
    let refusal = refusal.split("; until it is accepted").next().unwrap_or_default().to_owned();
    let name = served_name_of(adapter);
    // A name that another Adapter has now says nothing of this one.
    let is_taken = valid.adapters.iter().any(|other| other.served_name == name && other.key != sight.key);
    let reports = Reports::of(&fleet.replicas);
    let serves = |index| {
        let report = reports.get(index, &name).filter(|_| !is_taken);
        report.is_some_and(|one| one.state == AdapterState::Ready && one.digest.as_ref() == Some(&digest))
    };
    let of = |(index, replica): (usize, &Replica)| Line {
        replica: replica.name.clone(),
        holds: if serves(index) { Holds::Former(Some(digest.clone())) } else { Holds::Nothing },
        because: silence(sight, replica).unwrap_or_else(|| refusal.clone()),
    };
    let lines: Vec<Line> = fleet.replicas.iter().enumerate().map(of).collect();
    match lines.iter().any(|line| line.holds != Holds::Nothing) {
        true => Ok(lines),
        false => Err(refusal),
    }
}

fn holds(report: &AdapterReport, adapter: &ValidAdapter) -> Holds {
    match (speaks_of(report, adapter), report.state) {
        (true, _) if is_resident(report) => Holds::It,
        (false, AdapterState::Ready) => Holds::Former(report.digest.clone()),
        (true, AdapterState::Ready) if report.error.is_some() => Holds::Former(report.digest.clone()),
        _ => Holds::Nothing,
    }
}

/// Why a replica says nothing of any adapter.
fn silence(sight: &Sight, replica: &Replica) -> Option<String> {
    let hindrance = sight.hindrances.get(&replica.name);
    match &replica.contact {
        _ if replica.leaving => Some("it finishes its requests and goes; another takes its place".to_owned()),
        Contact::Pending | Contact::Loading | Contact::Unreachable { .. } if sight.stopped => {
            Some("no `up` runs; start it again".to_owned())
        }
        Contact::Pending | Contact::Unreachable { .. } if hindrance.is_some() => hindrance.map(hindered),
        Contact::Pending => {
            Some("it is not ready: it waits for a node, or loads its model, and was not heard yet".to_owned())
        }
        Contact::Loading => Some("it loads its model; then it is told".to_owned()),
        Contact::Unreachable { error, since, .. } => {
            // Where replicas themselves were asked, that is the time of asking.
            let since = sight.written.map(|_| format!(" since {since}")).unwrap_or_default();
            Some(format!("it does not answer{since}: {error}; see its log"))
        }
        Contact::Reported(_) => None,
    }
}

/// What keeps a replica from running, and what would change it where that does not say so itself.
fn hindered(hindrance: &Hindrance) -> String {
    match hindrance {
        Hindrance::Unschedulable(why) => format!(
            "no node has room for it: {why}; free some, add a node, or ask for less in spec.nodePool or spec.resources"
        ),
        Hindrance::NoSecret(why)
        | Hindrance::Unmounted(why)
        | Hindrance::Failing(why)
        | Hindrance::NoPort(why) => {
            format!("it does not run: {why}; once that is mended it starts by itself")
        }
    }
}

struct Subject<'a> {
    sight: &'a Sight,
    valid: &'a ValidFleet,
    adapter: &'a ValidAdapter,
    place: &'a Place,
    placed: bool,
    holds: &'a Holds,
    /// Why the replica does not take what it should hold.
    refusal: Option<&'a str>,
}

fn reason(subject: &Subject<'_>, report: Option<&AdapterReport>) -> String {
    let is_current = report.is_some_and(|report| speaks_of(report, subject.adapter));
    if let Some(refusal) = subject.refusal.filter(|_| !is_current) {
        return format!(
            "it does not take what it should hold: {refusal}; see its log, and that its image is of the operator's release"
        );
    }
    let Some(report) = report else { return untold(subject) };
    if let Some(error) = &report.error {
        return format!("{}; mend the source, or point the Adapter to another", error.message);
    }
    if !is_current {
        return "it is being loaded, and takes the other's place".to_owned();
    }
    match (subject.holds, subject.placed) {
        (Holds::It, true) => {
            format!("it is placed here ({}){}, {}", spread(subject), pin(subject), content(report))
        }
        (Holds::It, false) => format!(
            "requests asked for it here, {}; it goes when others need the room, since it is placed elsewhere. A greater \
             placement.replicas would keep it",
            content(report)
        ),
        (_, true) => match report.state {
            AdapterState::Loading => "it is placed here and is being loaded".to_owned(),
            _ => "it is placed here and its load is about to begin".to_owned(),
        },
        (_, false) => elsewhere(subject),
    }
}

/// Why nothing is known of it on this replica.
fn untold(subject: &Subject<'_>) -> String {
    let paused = if subject.valid.paused { "; spec.paused is true: set it to false" } else { "" };
    format!("it was not told of it yet{paused}")
}

/// The last replica that a status lists which has no place for `replica`.
fn last_listed<'a>(sight: &'a Sight, replica: &Replica) -> Option<&'a ReplicaPlacement> {
    sight.written?;
    let placements = &adapter(sight)?.status.as_ref()?.placements;
    let is_told = placements.iter().any(|one| one.pod == replica.name);
    placements.last().filter(|_| placements.len() >= LISTED && !is_told)
}

/// What is said of a replica that is not listed: those that there is most to tell of come first, so that it is no worse
/// than `last`, the last one that is.
fn unlisted(subject: &Subject<'_>, replica: &Replica, last: &ReplicaPlacement) -> Line {
    let line = |holds, because| Line { replica: replica.name.clone(), holds, because };
    let spread = spread(subject);
    let count = adapter(subject.sight).and_then(|one| one.status.as_ref()).map(|status| status.replicas);
    if subject.placed && count.is_some_and(|count| count.ready == count.desired) {
        return line(Holds::It, format!("it is placed here ({spread}), and all where it is placed have it"));
    }
    let listed = format!("its status lists the {LISTED} replicas that there is most to tell of");
    let because = match (last.state.as_str(), &last.error) {
        ("Ready", None) if subject.placed => format!(
            "{listed}, and the last of them has it: it is placed here ({spread}), and is there or its load is about to begin"
        ),
        ("Registered", None) if subject.placed => format!(
            "{listed}, and all that have it: it is placed here ({spread}), and its load is about to begin"
        ),
        ("Ready" | "Registered", None) => {
            format!("{listed}, and the last of them is well: so is this one, and {}", elsewhere(subject))
        }
        _ => {
            format!("{listed}, all of them in error or under way: this one may be so too; see to those first")
        }
    };
    line(Holds::Unlisted, because)
}

/// Where the replica has it, and which content that is.
fn content(report: &AdapterReport) -> String {
    let tier = match report.tier {
        Tier::Resident => "on the device",
        Tier::Host => "in host memory",
        Tier::Disk => "on disk",
        Tier::Remote => "at its source",
    };
    let digest = report.digest.as_ref().map(|digest| format!(" as {digest}")).unwrap_or_default();
    format!("{tier}{digest}")
}

/// Why it is not placed here.
fn elsewhere(subject: &Subject<'_>) -> String {
    let loads = "A request for it loads it here all the same";
    if subject.place.without_room > 0 {
        let budget = subject.valid.resident_bytes;
        return format!(
            "there is no room: pinned adapters and those of higher priority take the {budget} bytes of \
             adapters.gpuMemory. {loads}. Raise adapters.gpuMemory or its placement.priority, or lower placement.replicas"
        );
    }
    format!(
        "it is placed on {} of the replicas ({}), and others come before this one in its order. {loads}. Raise \
         placement.replicas to keep it here",
        subject.place.replicas.len(),
        spread(subject)
    )
}

fn spread(subject: &Subject<'_>) -> String {
    match subject.adapter.spread {
        Spread::All => "placement.replicas is All".to_owned(),
        Spread::Count(count) => format!("placement.replicas is {count}"),
        Spread::Auto => "placement.replicas is Auto: by demand".to_owned(),
    }
}

fn pin(subject: &Subject<'_>) -> &'static str {
    if subject.adapter.pinned { " and pinned: it is never evicted" } else { "" }
}

#[cfg(test)]
mod tests;
