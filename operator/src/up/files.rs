//! The manifests of a folder, as they are on disk now: every YAML document below it, with the file and line that it
//! begins at. Reads; must not judge what a document says beyond whether it is one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::Value;

/// Manifests lie at most so many folders deep: a link that leads in a circle ends somewhere.
const DEPTH: usize = 16;
/// No manifest is longer.
const MAX_BYTES: u64 = 16 << 20;

/// Every manifest file, and what tells that it changed.
pub type Stamps = BTreeMap<PathBuf, (Option<SystemTime>, u64)>;

/// One document of a manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The file, relative to the folder.
    pub file: PathBuf,
    /// The line that it begins at, from 1.
    pub line: usize,
    /// Its text.
    pub text: String,
    /// What it says, or why it says nothing and in which line of the file.
    pub content: Result<Value, (usize, String)>,
}

impl Document {
    /// A text field of the document, as `/kind`.
    #[must_use]
    pub fn text_at(&self, pointer: &str) -> Option<&str> {
        self.content.as_ref().ok()?.pointer(pointer)?.as_str()
    }

    /// The line of the file that the field at `path` (`spec.placement.replicas`) is written in, or that of its nearest
    /// parent that is written.
    #[must_use]
    pub fn line_of(&self, path: &str) -> usize {
        let lines: Vec<&str> = self.text.lines().collect();
        let (mut at, mut indent, mut found) = (0, None::<usize>, 0);
        for part in path.split('.') {
            let name = part.split('[').next().unwrap_or(part);
            let next = (at..lines.len()).take_while(|line| !leaves(lines[*line], indent)).find_map(|line| {
                let key = key_of(lines[line], name)?;
                (indent.is_none_or(|outer| key > outer) || lines[line].trim_start().starts_with("- "))
                    .then_some((line, key))
            });
            let Some((line, key)) = next else { break };
            (at, indent, found) = (line + 1, Some(key), line);
        }
        self.line + found
    }
}

/// Whether a line is outside of the block whose key stands at `indent`.
fn leaves(line: &str, indent: Option<usize>) -> bool {
    let text = line.trim_start();
    let blank = text.is_empty() || text.starts_with('#');
    !blank && indent.is_some_and(|indent| line.len() - text.len() <= indent && !text.starts_with("- "))
}

/// The column of the key `name` in `line`, where it is there: as `name:`, `- name:` or inside `{…}`.
fn key_of(line: &str, name: &str) -> Option<usize> {
    let mut from = 0;
    while let Some(found) = line[from..].find(name) {
        let (start, end) = (from + found, from + found + name.len());
        let before = line[..start].trim_end_matches(['"', '\'']).chars().last();
        let after = line[end..].trim_start_matches(['"', '\'']);
        if before.is_none_or(|c| " {,-".contains(c)) && after.trim_start().starts_with(':') {
            return Some(start);
        }
        from = end;
    }
    None
}

/// The manifests below `folder`: `.yaml`, `.yml` and `.json`, but nothing whose name begins with a dot, and not `except`.
#[must_use]
pub fn stamps(folder: &Path, except: &Path) -> Stamps {
    let mut found = Stamps::new();
    walk(folder, except, DEPTH, &mut found);
    found
}

fn walk(folder: &Path, except: &Path, depth: usize, found: &mut Stamps) {
    // What cannot be read is as if it were not there; the folder itself was checked at the start.
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with('.') || path == except {
            continue;
        }
        let Ok(metadata) = std::fs::metadata(&path) else { continue };
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        if metadata.is_dir() && depth > 0 {
            walk(&path, except, depth - 1, found);
        } else if metadata.is_file() && matches!(ending, "yaml" | "yml") {
            found.insert(path, (metadata.modified().ok(), metadata.len()));
        }
    }
}

/// The documents of the files of `stamps`, in order.
#[must_use]
pub fn documents(folder: &Path, stamps: &Stamps) -> Vec<Document> {
    let mut all = Vec::new();
    for (path, (_, bytes)) in stamps {
        let file = path.strip_prefix(folder).unwrap_or(path).to_path_buf();
        let broken = |why: String| Document {
            file: file.clone(),
            line: 1,
            text: String::new(),
            content: Err((1, why)),
        };
        if *bytes > MAX_BYTES {
            all.push(broken(format!("{bytes} bytes, at most {MAX_BYTES} are read")));
            continue;
        }
        match std::fs::read_to_string(path) {
            Ok(text) => all.extend(split(&text).into_iter().map(|(line, text)| parse(&file, line, text))),
            Err(error) => all.push(broken(error.to_string())),
        }
    }
    // A document that says nothing is none.
    all.retain(|document| document.content != Ok(Value::Null));
    all
}

/// The texts between `---` lines, with the line that each begins at. In YAML such a line ends even a block of text.
fn split(text: &str) -> Vec<(usize, String)> {
    let mut parts = vec![(1, String::new())];
    for (number, line) in text.lines().enumerate() {
        let marker = line == "---" || line.starts_with("--- ") || line.starts_with("---\t") || line == "...";
        if marker {
            parts.push((number + 2, String::new()));
        } else if let Some((_, part)) = parts.last_mut() {
            part.push_str(line);
            part.push('\n');
        }
    }
    parts
}

fn parse(file: &Path, line: usize, text: String) -> Document {
    let read = serde_yaml::from_str::<serde_yaml::Value>(&text).map_err(|error| {
        let at = error.location().map_or(line, |location| line + location.line().saturating_sub(1));
        // The text names the place within the document, which is not that in the file.
        let why = error.to_string();
        (at, why.split(" at line ").next().unwrap_or(&why).to_owned())
    });
    let content = read.and_then(|value| {
        serde_json::to_value(value).map_err(|error| (line, format!("expected keys that are texts: {error}")))
    });
    let content = content.and_then(|value| match value {
        Value::Object(_) | Value::Null => Ok(value),
        _ => Err((line, "expected an object with apiVersion, kind, metadata and spec".to_owned())),
    });
    Document { file: file.to_owned(), line, text, content }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "# a comment\napiVersion: v1\nkind: A\n---\nkind: B\nspec:\n  placement: {replicas: 3, pinned: no}\n  items:\n  - name: x\n    source: y\nother:\n  source: z\n";

    #[test]
    fn a_file_is_its_documents_each_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("inner/.hidden")).unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("a.yaml", TWO);
        write("inner/b.yml", "kind: C\nspec: [\n---\nkind: D\n---\n# nothing\n---\n- 1\n");
        write("inner/.hidden/c.yaml", "kind: E");
        write("note.txt", "kind: F");
        let stamps = stamps(folder.path(), Path::new("/nowhere"));
        let all = documents(folder.path(), &stamps);
        let kinds: Vec<Option<&str>> = all.iter().map(|document| document.text_at("/kind")).collect();
        assert_eq!(kinds, [Some("A"), Some("B"), None, Some("D"), None]);
        let lines: Vec<usize> = all.iter().map(|document| document.line).collect();
        assert_eq!(lines, [1, 5, 1, 4, 8]);
        let (line, why) = all[2].content.clone().unwrap_err();
        assert!((2..=3).contains(&line) && !why.contains("line"), "{line}: {why}");
        assert_eq!(all[4].content.clone().unwrap_err().0, 8);
    }

    #[test]
    fn a_field_is_found_in_its_line() {
        let (line, text) = split(TWO).remove(1);
        let document = parse(Path::new("a.yaml"), line, text);
        for (path, expected) in [
            ("kind", 5),
            ("spec", 6),
            ("spec.placement.replicas", 7),
            ("spec.items[0].source", 10),
            ("spec.absent", 6),
            ("other.source", 12),
            ("metadata.name", 5),
        ] {
            assert_eq!(document.line_of(path), expected, "{path}");
        }
    }

    #[test]
    fn the_folder_of_the_state_is_no_manifest() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        std::fs::create_dir(&state).unwrap();
        std::fs::write(state.join("a.yaml"), "kind: A").unwrap();
        assert!(stamps(folder.path(), &state).is_empty());
    }
}
