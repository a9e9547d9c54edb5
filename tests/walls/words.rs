//! Words that may be said only in some places.

use crate::sources::{Source, none, rust, with_extension};

/// The lines of `file`'s code that hold the whole word `word`.
fn lines_with<'a>(file: &'a Source, word: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
    let part_of_a_word = |c: char| c.is_alphanumeric() || c == '_';
    file.code.lines().enumerate().filter(move |(_, line)| {
        line.match_indices(word).any(|(at, _)| {
            !line[..at].ends_with(part_of_a_word) && !line[at + word.len()..].starts_with(part_of_a_word)
        })
    })
}

/// The findings of `word` in the code of every Rust file that `forbidden` picks.
fn said(word: &str, forbidden: impl Fn(&Source) -> bool) -> Vec<String> {
    let files = rust();
    let files = files.iter().filter(|file| forbidden(file));
    files
        .flat_map(|file| {
            lines_with(file, word).map(|(line, text)| file.at(line, text.trim())).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn unsafe_is_said_in_the_kernels_alone_and_with_its_reason() {
    none("`unsafe` outside kernels:", &said("unsafe", |file| !file.path.starts_with("kernels/")));
    let mut findings = Vec::new();
    // A file whose every block has one reason says it once, where it puts clippy's lint aside.
    let one_by_one = |file: &&Source| !file.text.contains("clippy::undocumented_unsafe_blocks");
    for file in rust().iter().filter(|file| file.path.starts_with("kernels/")).filter(one_by_one) {
        let text: Vec<&str> = file.text.lines().collect();
        for (line, code) in lines_with(file, "unsafe").filter(|(_, code)| code.contains("unsafe {")) {
            // The reason stands above the statement, or above the run of statements that it is for.
            let above = text[..=line].iter().rev().take(12);
            if !above.into_iter().any(|near| near.contains("SAFETY:")) {
                findings.push(file.at(line, code.trim()));
            }
        }
    }
    none("an unsafe block without `// SAFETY:` above it:", &findings);
}

#[test]
fn cuda_is_reached_from_the_kernels_alone() {
    none("`cudarc` outside kernels:", &said("cudarc", |file| !file.path.starts_with("kernels/")));
}

#[test]
fn the_environment_is_read_in_the_arguments_file_alone() {
    let is_no_program = |file: &Source| file.path.contains("/tests/") || file.path.contains("/benches/");
    let elsewhere =
        |file: &Source| file.name() != "args.rs" && file.name() != "build.rs" && !is_no_program(file);
    let reads = ["env::var", "env::vars", "env::var_os", "env::vars_os", "env::args"];
    none("read in args.rs, parsed, and passed by value:", &reads.map(|read| said(read, elsewhere)).concat());
}

#[test]
fn nothing_is_left_to_be_written() {
    none(
        "todo!, unimplemented!, dbg!:",
        &["todo!", "unimplemented!", "dbg!"].map(|word| said(word, |_| true)).concat(),
    );
}

#[test]
fn the_kernels_know_tensors_and_not_who_asks() {
    let mut findings = Vec::new();
    for file in with_extension(&["rs", "cu", "cuh"]).iter().filter(|file| file.path.starts_with("kernels/")) {
        for (line, text) in file.code.lines().enumerate() {
            let lower = text.to_lowercase();
            if ["adapter", "tenant", "request"].iter().any(|word| lower.contains(word)) {
                findings.push(file.at(line, text.trim()));
            }
        }
    }
    none("kernels know tensors, indices and segments:", &findings);
}

#[test]
fn a_replica_does_not_know_that_kubernetes_exists() {
    let words = ["kube", "k8s_openapi", "lorikeet_crds"];
    none(
        "kubernetes in the runtime:",
        &words.map(|word| said(word, |file| file.path.starts_with("runtime/"))).concat(),
    );
}

#[test]
fn nothing_outside_the_checkout_is_read() {
    let shared = concat!("..", "/shared");
    let mut findings = Vec::new();
    for file in with_extension(&["rs", "md", "toml", "yaml", "yml", "sh", "py", "tpl"]) {
        findings.extend(
            file.text
                .lines()
                .enumerate()
                .filter(|(_, line)| line.contains(shared))
                .map(|(n, line)| file.at(n, line)),
        );
    }
    none("the project reads nothing outside itself:", &findings);
}
