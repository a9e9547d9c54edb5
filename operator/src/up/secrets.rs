//! Secrets as files: what `kubelet` mounts into a pod. A Secret among the manifests is a folder, its keys are the files in it;
//! replicas read them when they need them. Nobody else may read them.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::Path;

use k8s_openapi::ByteString;

use crate::decide::mounts::is_object_name;
use crate::up::whole::at;
use crate::up::write_secret;

/// Makes the folder `name` in `folder` hold `secret`, and nothing where there is none.
///
/// # Errors
/// The first file that cannot be written or removed, with its path: the others are. Or the name is none of a Secret: it would
/// lead elsewhere.
pub fn mount(folder: &Path, name: &str, secret: Option<&BTreeMap<String, ByteString>>) -> io::Result<()> {
    if !is_object_name(name) {
        return Err(io::Error::new(ErrorKind::InvalidInput, format!("{name:?} is no name of a Secret")));
    }
    let folder = folder.join(name);
    let none = BTreeMap::new();
    let secret = secret.unwrap_or(&none);
    let mut first = Ok(());
    for (key, value) in secret.iter().filter(|(key, _)| is_key(key)) {
        let path = folder.join(key);
        if std::fs::read(&path).map_or(true, |before| before != value.0) {
            let new = folder.join(format!("..{key}"));
            let written = write_secret(&new, &value.0).and_then(|()| std::fs::rename(new, &path));
            first = first.and(written.map_err(|error| at(&path, &error)));
        }
    }
    let entries = match std::fs::read_dir(&folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return first,
        entries => entries.map_err(|error| at(&folder, &error))?,
    };
    for entry in entries {
        let entry = entry.map_err(|error| at(&folder, &error))?;
        if !entry.file_name().to_str().is_some_and(|name| is_key(name) && secret.contains_key(name)) {
            let removed = std::fs::remove_file(entry.path());
            first = first.and(removed.map_err(|error| at(&entry.path(), &error)));
        }
    }
    first
}

/// Removes every Secret below `folder`, `NAMESPACE/NAME` each, that `is_known` does not know.
///
/// # Errors
/// The first that cannot be removed: the others are.
pub fn keep(folder: &Path, is_known: impl Fn(&str, &str) -> bool) -> io::Result<()> {
    let names = |path: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    };
    let mut first = Ok(());
    for namespace in names(folder) {
        for name in names(&folder.join(&namespace)) {
            if !is_known(&namespace, &name) {
                let secret = folder.join(&namespace).join(&name);
                let removed = std::fs::remove_dir_all(&secret);
                first = first.and(removed.map_err(|error| at(&secret, &error)));
            }
        }
    }
    first
}

/// A key of a Secret, as the API server takes it: one segment of a path, and none of ours.
fn is_key(key: &str) -> bool {
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    !key.is_empty() && key.len() <= 253 && key != "." && !key.starts_with("..") && key.bytes().all(letters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_a_folder_of_its_keys_and_of_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("secrets/here");
        let folder = root.join("hf");
        let secret = |keys: &[(&str, &str)]| -> BTreeMap<String, ByteString> {
            keys.iter().map(|(key, text)| ((*key).to_owned(), ByteString((*text).into()))).collect()
        };
        let files = || -> Vec<(String, String)> {
            let of = |entry: io::Result<std::fs::DirEntry>| {
                let entry = entry.unwrap();
                let text = std::fs::read_to_string(entry.path()).unwrap();
                (entry.file_name().into_string().unwrap(), text)
            };
            let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(of).collect();
            files.sort();
            files
        };
        let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect()
        };
        for elsewhere in ["../../hf", "", "..", "/hf"] {
            assert_eq!(mount(&root, elsewhere, None).unwrap_err().kind(), ErrorKind::InvalidInput);
        }
        mount(&root, "hf", None).unwrap();
        assert!(!folder.exists());
        mount(&root, "hf", Some(&secret(&[("token", "a"), ("other", "b"), ("../../escaped", "c")]))).unwrap();
        assert_eq!(files(), pairs(&[("other", "b"), ("token", "a")]));
        assert!(!dir.path().join("secrets/escaped").exists());
        mount(&root, "hf", Some(&secret(&[("token", "rotated")]))).unwrap();
        assert_eq!(files(), pairs(&[("token", "rotated")]));
        mount(&root, "hf", None).unwrap();
        assert_eq!(files(), []);
    }

    #[test]
    fn a_folder_in_the_place_of_a_key_is_told_and_holds_up_no_other_key() {
        let dir = tempfile::tempdir().unwrap();
        let secret = |text: &str| -> BTreeMap<String, ByteString> {
            ["a", "token"].map(|key| (key.to_owned(), ByteString(text.into()))).into()
        };
        std::fs::create_dir_all(dir.path().join("hf/a/x")).unwrap();
        std::fs::write(dir.path().join("hf/stale"), "old").unwrap();
        let error = mount(dir.path(), "hf", Some(&secret("b"))).unwrap_err().to_string();
        assert!(error.contains("/hf/a: "), "{error}");
        assert_eq!(std::fs::read_to_string(dir.path().join("hf/token")).unwrap(), "b");
        assert!(!dir.path().join("hf/stale").exists());
        std::fs::remove_dir_all(dir.path().join("hf/a")).unwrap();
        mount(dir.path(), "hf", Some(&secret("b"))).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("hf/a")).unwrap(), "b");
    }

    #[test]
    fn what_no_manifest_has_any_more_goes() {
        let dir = tempfile::tempdir().unwrap();
        let secret = BTreeMap::from([("token".to_owned(), ByteString(b"a".into()))]);
        for (namespace, name) in [("here", "hf"), ("here", "s3"), ("there", "hf")] {
            mount(&dir.path().join(namespace), name, Some(&secret)).unwrap();
        }
        keep(dir.path(), |namespace, name| (namespace, name) == ("here", "hf")).unwrap();
        let is_there = |path: &str| dir.path().join(path).exists();
        assert!(is_there("here/hf/token") && !is_there("here/s3") && !is_there("there/hf"));
        keep(&dir.path().join("nowhere"), |_, _| false).unwrap();
    }
}
