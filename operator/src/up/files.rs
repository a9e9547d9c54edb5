//! The manifests of a folder, as they are on disk now: every document of its YAML and JSON files, with the file and line that
//! it begins at. Reads; must not judge what a document says beyond whether it is one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::up::folder::{Stamp, Stamps};
use crate::up::nesting::deeper_than;

/// Longer files are refused unread.
const MAX_BYTES: u64 = 16 << 20;
/// Documents whose brackets are nested deeper are refused unparsed: no object of Kubernetes comes near.
const MAX_DEPTH: usize = 128;

/// One document of a manifest, or one item of a List in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The file, relative to the folder.
    pub file: PathBuf,
    /// The line that it begins at, from 1; of an item, that of its List.
    pub line: usize,
    /// Its text, where it was read; of an item, that of its List.
    pub text: Arc<str>,
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
    /// parent that is written. Indices are not counted: of several items, the first that has the field.
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

/// The column of the key `name` in `line`, where it is there: as `name:`, `- name:` or inside `{…}`, quoted or not.
/// A key without a name is not looked for: it would be found everywhere.
fn key_of(line: &str, name: &str) -> Option<usize> {
    if name.is_empty() {
        return None;
    }
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

/// The documents of files. One that did not change is not parsed again.
#[derive(Default)]
pub struct Parsed {
    files: BTreeMap<PathBuf, (Stamp, Vec<Arc<Document>>)>,
    /// Those that could not be read.
    unread: Vec<PathBuf>,
}

impl Parsed {
    /// The documents of the files of `stamps`, in order. A file that cannot be read, or is empty, is one that says why.
    pub fn documents(&mut self, folder: &Path, stamps: &Stamps) -> Vec<Arc<Document>> {
        let mut before = std::mem::take(&mut self.files);
        self.unread.clear();
        let mut all = Vec::new();
        for (path, stamp) in stamps {
            let file = path.strip_prefix(folder).unwrap_or(path);
            let documents = match before.remove(path) {
                Some((of, documents)) if of == *stamp => documents,
                _ => match read(path, file, stamp.1) {
                    Ok(documents) => documents.into_iter().map(Arc::new).collect(),
                    Err(error) => {
                        all.push(Arc::new(broken(file, error.to_string())));
                        self.unread.push(path.clone());
                        continue;
                    }
                },
            };
            all.extend(documents.iter().cloned());
            self.files.insert(path.clone(), (*stamp, documents));
        }
        all
    }

    /// Whether a file that could not be read can be now. Whoever mended that may have left its stamp as it was.
    #[must_use]
    pub fn may_read_more(&self) -> bool {
        let begins = |path: &PathBuf| File::open(path).and_then(|mut file| file.read(&mut [0]));
        self.unread.iter().any(|path| begins(path).is_ok())
    }
}

/// A file that is one fault.
fn broken(file: &Path, why: String) -> Document {
    Document { file: file.to_owned(), line: 1, text: "".into(), content: Err((1, why)) }
}

fn read(path: &Path, file: &Path, bytes: u64) -> io::Result<Vec<Document>> {
    let is_json = path.extension().is_some_and(|ending| ending == "json");
    // The weights' index or the tokenizer of a model that lies beside the manifests: it names no object.
    let silent = || Document {
        file: file.to_owned(),
        line: 1,
        text: "".into(),
        content: Ok(Value::Object(Map::new())),
    };
    if bytes > MAX_BYTES {
        let why = format!("{bytes} bytes, at most {MAX_BYTES} are read");
        return Ok(vec![if is_json { silent() } else { broken(file, why) }]);
    }
    let text = match std::fs::read_to_string(path) {
        // That is what is in it: until it changes, no other try finds anything else.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Ok(vec![broken(file, error.to_string())]);
        }
        text => text?,
    };
    if text.trim().is_empty() {
        // As an editor leaves it that has not written yet: nothing of it is known to be gone.
        let why = "empty; what came from it stays until it says something or is removed".to_owned();
        return Ok(vec![broken(file, why)]);
    }
    // What some editors write first.
    let text = text.trim_start_matches('\u{feff}');
    if is_json && let Ok(value) = serde_json::from_str::<Value>(text) {
        let is_object = value.get("apiVersion").is_some() || value.get("kind").is_some();
        let whole = || Document { content: Ok(value), text: text.into(), ..silent() };
        return Ok(if is_object { unlisted(whole()) } else { vec![silent()] });
    }
    let parts = split(text).into_iter();
    let mut all: Vec<Document> = parts.flat_map(|(line, text)| unlisted(parse(file, line, text))).collect();
    // A document that says nothing is none.
    all.retain(|document| document.content != Ok(Value::Null));
    Ok(all)
}

/// The texts between `---` and `...` lines, with the line that each begins at. In YAML such a line ends even a block of
/// text. What else is in it is passed over, as kubectl does.
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

/// The items of a List, as `kubectl get -o yaml` writes several objects; any other document as it is.
fn unlisted(document: Document) -> Vec<Document> {
    let items = match &document.content {
        Ok(value) if value["kind"] == "List" && value["apiVersion"] == "v1" => {
            value["items"].as_array().cloned()
        }
        _ => None,
    };
    let Some(items) = items else { return vec![document] };
    items.into_iter().map(|item| Document { content: Ok(item), ..document.clone() }).collect()
}

fn parse(file: &Path, line: usize, text: String) -> Document {
    if let Some(within) = deeper_than(MAX_DEPTH, &text) {
        let why = format!("brackets are nested more than {MAX_DEPTH} deep");
        // Nobody looks for a field in it.
        let content = Err((line + within - 1, why));
        return Document { file: file.to_owned(), line, text: "".into(), content };
    }
    let merged = |mut value: serde_yaml::Value| value.apply_merge().map(|()| value);
    let read = serde_yaml::from_str::<serde_yaml::Value>(&text).and_then(merged).map_err(|error| {
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
    Document { file: file.to_owned(), line, text: text.into(), content }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::up::folder::stamps;

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
        let stamps = stamps(folder.path(), Path::new("/nowhere")).unwrap();
        let all = Parsed::default().documents(folder.path(), &stamps);
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
    fn a_field_without_a_name_is_where_its_nearest_parent_is() {
        let text = "kind: B\nspec:\n  \"\": 1\n  \"[a\": {rank: 2}\n";
        let document = parse(Path::new("a.yaml"), 1, text.to_owned());
        for (path, expected) in
            [("", 1), (".", 1), (".spec", 1), ("spec.", 2), ("spec..rank", 2), ("spec.[a.rank", 2)]
        {
            assert_eq!(document.line_of(path), expected, "{path:?}");
        }
    }

    #[test]
    fn what_kubectl_reads_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("a.json", "{\n\t\"kind\": \"A\",\n\t\"spec\": {\"rank\": 8}\n}\n");
        write("b.yaml", "\u{feff}kind: B\r\nspec:\r\n  rank: 8\r\n---\r\nkind: C\r\nspec: {rank: 8}\r\n");
        write("d.yaml", "kind: D\nmetadata: &names {rank: 8}\nspec:\n  <<: *names\n");
        write(
            "e.yaml",
            "apiVersion: v1\nkind: List\nitems:\n- {kind: E, spec: {rank: 8}}\n- {kind: F, spec: {rank: 8}}\n",
        );
        let all = Parsed::default()
            .documents(folder.path(), &stamps(folder.path(), Path::new("/nowhere")).unwrap());
        let kinds: Vec<Option<&str>> = all.iter().map(|document| document.text_at("/kind")).collect();
        assert_eq!(kinds, ["A", "B", "C", "D", "E", "F"].map(Some));
        for document in &all {
            assert_eq!(document.content.as_ref().unwrap().pointer("/spec/rank"), Some(&Value::from(8)));
        }
    }

    #[test]
    fn brackets_without_end_are_refused_before_they_are_parsed() {
        let folder = tempfile::tempdir().unwrap();
        let text = format!("kind: A\n---\nkind: B\nspec: {}\n---\nkind: C\n", "[".repeat(200_000));
        std::fs::write(folder.path().join("a.yaml"), text).unwrap();
        let all = Parsed::default()
            .documents(folder.path(), &stamps(folder.path(), Path::new("/nowhere")).unwrap());
        let kinds: Vec<Option<&str>> = all.iter().map(|document| document.text_at("/kind")).collect();
        assert_eq!(kinds, [Some("A"), None, Some("C")]);
        let (line, why) = all[1].content.clone().unwrap_err();
        assert_eq!((line, &*why), (4, "brackets are nested more than 128 deep"));
    }

    #[test]
    fn an_empty_file_says_nothing_and_does_not_say_that_anything_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.yaml"), "\n").unwrap();
        std::fs::write(folder.path().join("b.yaml"), "# nothing any more\n").unwrap();
        let all = Parsed::default()
            .documents(folder.path(), &stamps(folder.path(), Path::new("/nowhere")).unwrap());
        let told: Vec<_> = all.iter().map(|one| (one.file.to_str().unwrap(), one.content.is_err())).collect();
        assert_eq!(told, [("a.yaml", true)]);
    }

    #[test]
    fn the_files_of_a_model_beside_the_manifests_name_nothing_and_are_no_faults() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("config.json", "{\"hidden_size\": 64, \"a\": \"\\ud83d\\ude00\"}");
        write("merges.json", "[[\"a\", \"b\"]]");
        write("model.json", "{\"kind\": \"A\"}\n---\n{\"kind\": \"B\"}");
        let large = std::fs::File::create(folder.path().join("tokenizer.json")).unwrap();
        large.set_len(MAX_BYTES + 1).unwrap();
        let all = Parsed::default()
            .documents(folder.path(), &stamps(folder.path(), Path::new("/nowhere")).unwrap());
        let told: Vec<_> = all.iter().map(|one| (one.file.to_str().unwrap(), one.content.clone())).collect();
        let nothing = || Ok(serde_json::json!({}));
        let kind = |kind: &str| Ok(serde_json::json!({"kind": kind}));
        assert_eq!(
            told,
            [
                ("config.json", nothing()),
                ("merges.json", nothing()),
                ("model.json", kind("A")),
                ("model.json", kind("B")),
                ("tokenizer.json", nothing()),
            ]
        );
    }

    #[test]
    fn a_file_that_did_not_change_is_not_parsed_again() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let mut parsed = Parsed::default();
        let mut read =
            || parsed.documents(folder.path(), &stamps(folder.path(), Path::new("/nowhere")).unwrap());
        write("a.yaml", "kind: A");
        write("b.yaml", "kind: B");
        let before = read();
        write("b.yaml", "kind: Other");
        let after = read();
        assert!(Arc::ptr_eq(&before[0], &after[0]), "it is the same");
        assert_eq!(after[1].text_at("/kind"), Some("Other"));
        std::fs::remove_file(folder.path().join("a.yaml")).unwrap();
        assert_eq!(read().len(), 1);
    }

    #[test]
    fn a_file_that_could_not_be_read_is_read_when_it_can_be_and_one_that_is_no_text_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (gone, bytes) = (folder.path().join("a.yaml"), folder.path().join("b.yaml"));
        std::fs::write(&gone, "kind: A").unwrap();
        std::fs::write(&bytes, b"kind: \xff").unwrap();
        let stamps = stamps(folder.path(), Path::new("/nowhere")).unwrap();
        std::fs::remove_file(&gone).unwrap();
        let mut parsed = Parsed::default();
        let all = parsed.documents(folder.path(), &stamps);
        assert!(all.len() == 2 && all.iter().all(|one| one.content.is_err()), "{all:?}");
        assert!(!parsed.may_read_more());
        std::fs::write(&gone, "kind: A").unwrap();
        assert!(parsed.may_read_more());
        assert_eq!(parsed.documents(folder.path(), &stamps)[0].text_at("/kind"), Some("A"));
        assert!(!parsed.may_read_more());
    }
}
