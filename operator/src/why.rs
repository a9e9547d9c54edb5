//! Why a replica holds an adapter or not, and what would change that. Pure but for [`run`], which looks and prints; the
//! fleet comes from whoever observed it. Decides nothing: it tells what [`crate::decide`] decides.

use std::io::{self, Write};

use lorikeet_api::{AdapterReport, AdapterState};
use lorikeet_crds::condition::find;
use lorikeet_crds::{Adapter, ConditionType};

use crate::args::WhyArgs;
use crate::decide::decide_places;
use crate::decide::place::Place;
use crate::decide::reports::{Reports, is_resident, speaks_of};
use crate::decide::validate::{AdapterKey, Spread, ValidAdapter, ValidFleet, key_of};
use crate::fleet::{Contact, Fleet, Replica};
use crate::up::look::{self, LookError};

/// What is said of one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The replica.
    pub replica: String,
    /// Whether it has the adapter ready for the next step.
    pub holds: bool,
    /// Why, and what would change it.
    pub because: String,
}

/// Looks at the state folder of an `up` and prints the answer.
///
/// # Errors
/// [`LookError`]: nobody answers, or there is no such Adapter.
pub fn run(args: &WhyArgs, out: &mut impl Write) -> Result<(), LookError> {
    let (fleet, key) = look::fleet_of(&args.state, &args.adapter)?;
    print(&fleet, &key, out).map_err(LookError::from)
}

fn print(fleet: &Fleet, key: &AdapterKey, out: &mut impl Write) -> io::Result<()> {
    match why(fleet, key) {
        Err(for_all) => writeln!(out, "No replica holds {}/{}: {for_all}", key.0, key.1),
        Ok(lines) if lines.is_empty() => {
            writeln!(
                out,
                "No replica holds {}/{}: {} has no replicas; raise spec.replicas",
                key.0, key.1, fleet.key.name
            )
        }
        Ok(lines) => lines.iter().try_for_each(|line| {
            let holds = if line.holds { "holds it" } else { "does not hold it" };
            writeln!(out, "{}: {holds}: {}", line.replica, line.because)
        }),
    }
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
pub fn why(fleet: &Fleet, key: &AdapterKey) -> Result<Vec<Line>, String> {
    let (valid, places) = decide_places(fleet).map_err(|refusal| refusal.to_string())?;
    if let Some(refusal) = valid.refused.get(key) {
        return Err(refusal.to_string());
    }
    if let Some(said) = fleet.adapters.iter().find(|one| key_of(one) == *key).and_then(|one| unaccepted(one))
    {
        return Err(said);
    }
    if valid.leaving.contains_key(key) {
        return Err("it is being deleted; running requests finish".to_owned());
    }
    let of_key = valid.adapters.iter().find(|adapter| adapter.key == *key);
    let (Some(adapter), Some(place)) = (of_key, places.get(key)) else {
        return Err("there is no such Adapter".to_owned());
    };
    let reports = Reports::of(&fleet.replicas);
    let of = |(index, replica): (usize, &Replica)| {
        let report = reports.get(index, &adapter.served_name);
        let holds = report.is_some_and(|report| speaks_of(report, adapter) && is_resident(report));
        let because = silence(replica).unwrap_or_else(|| {
            let placed = place.replicas.binary_search(&index).is_ok();
            reason(&Subject { valid: &valid, adapter, place, placed, holds }, report)
        });
        Line { replica: replica.name.clone(), holds, because }
    };
    Ok(fleet.replicas.iter().enumerate().map(of).collect())
}

/// Why a replica says nothing of any adapter.
fn silence(replica: &Replica) -> Option<String> {
    match &replica.contact {
        _ if replica.leaving => Some("it finishes its requests and goes; another takes its place".to_owned()),
        Contact::Pending => Some("it loads its model and was not heard yet".to_owned()),
        Contact::Unreachable { error, since, .. } => {
            Some(format!("it does not answer since {since}: {error}; see its log"))
        }
        Contact::Reported(_) => None,
    }
}

struct Subject<'a> {
    valid: &'a ValidFleet,
    adapter: &'a ValidAdapter,
    place: &'a Place,
    placed: bool,
    holds: bool,
}

fn reason(subject: &Subject<'_>, report: Option<&AdapterReport>) -> String {
    let Some(report) = report else {
        let paused = if subject.valid.paused { "; spec.paused is true: set it to false" } else { "" };
        return format!("it was not told of it yet{paused}");
    };
    if let Some(error) = &report.error {
        return format!("{}; mend the source, or point the Adapter to another", error.message);
    }
    if !speaks_of(report, subject.adapter) {
        return "it still serves the former content and loads the new one beside it".to_owned();
    }
    match (subject.holds, subject.placed) {
        (true, true) => format!("it is placed here ({}){}", spread(subject), pin(subject)),
        (true, false) => {
            "requests asked for it here; it goes when others need the room, since it is placed elsewhere. \
                          A greater placement.replicas would keep it"
                .to_owned()
        }
        (false, true) => match report.state {
            AdapterState::Loading => "it is placed here and is being loaded".to_owned(),
            _ => "it is placed here and its load is about to begin".to_owned(),
        },
        (false, false) => elsewhere(subject),
    }
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
