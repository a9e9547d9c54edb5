//! What files there may be: the top-level folders, names that say something, one idea a file.

use crate::sources::{Source, none, paths, rust, with_extension};

/// A file is one idea.
const MOST_LINES: usize = 500;

/// The names of the root. Names that begin with a dot are tool settings.
const TOP_LEVEL: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "Makefile",
    "README.md",
    "charts",
    "crds",
    "deploy",
    "kernels",
    "operator",
    "runtime",
    "tests",
];

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["util", "utils", "common", "helper", "helpers", "misc", "types", "mod"];

fn code_files() -> Vec<Source> {
    with_extension(&["rs", "cu", "cuh"])
}

#[test]
fn the_root_has_the_folders_of_the_map_and_no_other() {
    let strangers = paths().into_iter().filter_map(|path| path.split('/').next().map(str::to_owned));
    let mut strangers: Vec<_> =
        strangers.filter(|name| !name.starts_with('.') && !TOP_LEVEL.contains(&name.as_str())).collect();
    strangers.dedup();
    none("not a top-level name of the map:", &strangers);
}

#[test]
fn no_file_is_longer_than_one_idea() {
    let long = code_files().into_iter().map(|file| (file.text.lines().count(), file.path));
    let long =
        long.filter(|&(lines, _)| lines > MOST_LINES).map(|(lines, path)| format!("{path}: {lines} lines"));
    none("at most 500 lines a file:", &long.collect::<Vec<_>>());
}

#[test]
fn every_name_says_what_is_inside() {
    let empty = code_files().into_iter().filter(|file| {
        file.name().split('.').next().is_some_and(|stem| EMPTY_NAMES.contains(&stem))
            && file.name() != "common.cuh"
    });
    none(
        "a name that says nothing (or mod.rs; use NAME.rs beside NAME/):",
        &empty.map(|file| file.path).collect::<Vec<_>>(),
    );
}

#[test]
fn every_rust_file_begins_with_what_it_does() {
    let silent = rust().into_iter().filter(|file| !file.text.trim_start().starts_with("//!"));
    none(
        "begin with a `//!` line: what it does and what it must not:",
        &silent.map(|file| file.path).collect::<Vec<_>>(),
    );
}
