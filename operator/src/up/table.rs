//! What `kubectl get ldep,lora` would print, by the columns that the kinds themselves carry. Pure.

use std::fmt::Write as _;

use jiff::Timestamp;
use kube::{CustomResourceExt, Resource};
use serde::Serialize;
use serde_json::Value;

/// Between two columns, and the least that one takes with it: kubectl's.
const GAP: usize = 3;
const NARROWEST: usize = 6;

/// A table: a head, and a row for each object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// The table of `objects`; empty where there are none. With their namespaces, as kubectl names them where it is asked for
    /// `all_namespaces`.
    #[must_use]
    pub fn of<'a, K>(objects: impl Iterator<Item = &'a K>, all_namespaces: bool, now: Timestamp) -> Self
    where
        K: Resource<DynamicType = ()> + CustomResourceExt + Serialize + 'a,
    {
        let definition = K::crd();
        let columns =
            definition.spec.versions.first().and_then(|version| version.additional_printer_columns.clone());
        // The age comes last, as in every kind of ours.
        let columns: Vec<_> =
            columns.into_iter().flatten().filter(|column| column.priority.unwrap_or(0) == 0).collect();
        let singular = definition.spec.names.singular.unwrap_or_default();
        let mut head = if all_namespaces { vec!["NAMESPACE".to_owned()] } else { Vec::new() };
        head.push("NAME".to_owned());
        head.extend(columns.iter().map(|column| column.name.to_uppercase()));
        let row = |object: &'a K| {
            let meta = object.meta();
            let value = serde_json::to_value(object).unwrap_or_default();
            let name = meta.name.as_deref().unwrap_or_default();
            let namespace = meta.namespace.clone().filter(|_| all_namespaces);
            let mut row: Vec<String> = namespace.into_iter().collect();
            row.push(format!("{singular}.{}/{name}", definition.spec.group));
            row.extend(columns.iter().map(|column| cell(&value, &column.json_path, &column.type_, now)));
            row
        };
        Self { head, rows: objects.map(row).collect() }
    }

    /// Whether it has no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The head and every row.
    fn whole(&self) -> String {
        if self.is_empty() { String::new() } else { self.aligned([&self.head].into_iter().chain(&self.rows)) }
    }

    /// The rows that `before` does not have, whatever their age; the whole where that had none, or another head.
    #[must_use]
    pub fn news(&self, before: &Self) -> String {
        if before.is_empty() || self.head != before.head {
            return self.whole();
        }
        let is_known = |row: &Vec<String>| before.rows.iter().any(|old| ageless(old) == ageless(row));
        self.aligned(self.rows.iter().filter(|row| !is_known(row)))
    }

    fn aligned<'a>(&self, shown: impl Iterator<Item = &'a Vec<String>>) -> String {
        let all = || self.rows.iter().chain([&self.head]);
        let width = |column: usize| {
            let longest = all().map(|row| row[column].chars().count()).max().unwrap_or(0);
            (longest + GAP).max(NARROWEST)
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let mut text = String::new();
        for row in shown {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                // Writing to a String does not fail.
                let _ = write!(line, "{cell:<width$}");
            }
            let _ = writeln!(text, "{}", line.trim_end());
        }
        text
    }
}

/// What changes only when its object does.
fn ageless(row: &[String]) -> &[String] {
    row.split_last().map_or(row, |(_, rest)| rest)
}

fn cell(object: &Value, path: &str, type_: &str, now: Timestamp) -> String {
    match find(object, path) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) if type_ == "date" => text
            .parse()
            .map_or_else(|_| text.clone(), |since: Timestamp| age(now.as_second() - since.as_second())),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// The part of JSONPath that printer columns use: `.a.b` and `[?(@.type=="X")]`.
fn find<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    let rest = path.trim_start_matches('.');
    if rest.is_empty() {
        return Some(value);
    }
    if let Some((wanted, rest)) = rest.strip_prefix("[?(@.type==\"").and_then(|rest| rest.split_once("\")]"))
    {
        let item = value.as_array()?.iter().find(|item| item["type"] == *wanted)?;
        return find(item, rest);
    }
    let end = rest.find(['.', '[']).unwrap_or(rest.len());
    find(value.get(&rest[..end])?, &rest[end..])
}

/// A time as kubectl shows it: the two greatest units, while they are few.
fn age(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |great: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{great}{unit}") } else { format!("{great}{unit}{small}{small_unit}") }
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        _ => format!("{days}d"),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use lorikeet_crds::adapter::PlacementCount;
    use lorikeet_crds::condition::{Saying, Truth, conditions};
    use lorikeet_crds::{Adapter, AdapterSpec, AdapterStatus, ConditionType, Reason};

    use super::*;

    #[test]
    fn the_table_is_kubectls() {
        let now = Timestamp::from_second(1000).unwrap();
        let mut one = Adapter::new("sql", AdapterSpec::default());
        one.spec.deployment_ref.name = "mistral".to_owned();
        one.metadata.namespace = Some("default".to_owned());
        one.metadata.creation_timestamp = Some(Time(Timestamp::from_second(700).unwrap()));
        let saying = Saying {
            condition: ConditionType::Ready,
            truth: Truth::True,
            reason: Reason::AsDesired,
            message: String::new(),
        };
        one.status = Some(AdapterStatus {
            conditions: conditions(&[], &[saying], Some(1), now),
            replicas: PlacementCount { desired: 2, ready: 2 },
            rank: Some(8),
            served_name: Some("acme/sql".to_owned()),
            ..AdapterStatus::default()
        });
        let expected = "\
NAME                         DEPLOYMENT   MODEL      READY   REASON      LOADED   DESIRED   RANK   AGE
adapter.lorikeet.dev/sql     mistral      acme/sql   True    AsDesired   2        2         8      5m
adapter.lorikeet.dev/fresh   mistral";
        let mut fresh = Adapter::new("fresh", one.spec.clone());
        fresh.metadata.namespace = Some("default".to_owned());
        let table = |objects: &[&Adapter], now: i64| {
            Table::of(objects.iter().copied(), false, Timestamp::from_second(now).unwrap())
        };
        let whole = table(&[&one, &fresh], 1000);
        assert_eq!(whole.whole().trim_end(), expected);
        assert_eq!(table(&[&one, &fresh], 2000).news(&whole), "", "an age is no news");
        fresh.spec.deployment_ref.name = "llama".to_owned();
        let news = "adapter.lorikeet.dev/fresh   llama\n";
        assert_eq!(table(&[&one, &fresh], 1000).news(&whole), news);
        assert_eq!(table(&[&one], 1000).news(&whole), "");
        fresh.metadata.namespace = Some("team".to_owned());
        let all = Table::of([&one, &fresh].into_iter(), true, now);
        assert!(all.whole().starts_with("NAMESPACE   NAME") && all.whole().contains("\nteam        adapter"));
        assert_eq!(all.news(&whole), all.whole(), "it has another head");
        assert_eq!(table(&[], 1000).whole(), "");
    }

    #[test]
    fn ages_are_kubectls() {
        for (seconds, expected) in [
            (-5, "0s"),
            (119, "119s"),
            (120, "2m"),
            (301, "5m1s"),
            (660, "11m"),
            (10_860, "3h1m"),
            (90_000, "25h"),
            (700_000, "8d"),
        ] {
            assert_eq!(age(seconds), expected);
        }
    }
}
