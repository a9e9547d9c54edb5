//! The map in the README names what exists.

use crate::sources::{none, paths, read, root};

/// The first word of each line of the first code block under `## The map`: a path.
fn mapped(readme: &str) -> Vec<String> {
    let map = readme.split("## The map").nth(1).expect("the README has a section `## The map`");
    let block = map.split("```").nth(1).expect("the map is a code block");
    let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
    block.lines().skip(1).filter_map(first).collect()
}

#[test]
fn every_name_on_the_map_exists() {
    let readme = read("README.md".to_owned()).text;
    let missing = mapped(&readme).into_iter().filter(|path| !root().join(path).exists());
    none("on the README's map and not in the checkout:", &missing.collect::<Vec<_>>());
}

#[test]
fn every_top_level_folder_is_on_the_map() {
    let readme = read("README.md".to_owned()).text;
    let map = mapped(&readme);
    let mut folders: Vec<String> =
        paths().into_iter().filter_map(|path| Some(path.split_once('/')?.0.to_owned())).collect();
    folders.retain(|folder| !folder.starts_with('.'));
    folders.dedup();
    let unmapped = folders.into_iter().filter(|folder| !map.contains(&format!("{folder}/")));
    none("a folder that the README's map leaves out:", &unmapped.collect::<Vec<_>>());
}
