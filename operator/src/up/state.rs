//! The objects of a cluster of one, each with its status, in memory and as `<kind>/<namespace>/<name>.yaml` in the state
//! folder, in the shape of `kubectl get -o yaml`. What the API server does to an object is done here: identity,
//! generations, versions, and a deletion that waits. Files follow what is in memory: a disk that is full holds nothing up.
//! Must not decide what a status says.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Resource;
use lorikeet_crds::{Adapter, AdapterStatus, Deployment, DeploymentStatus, FINALIZER};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::up::{lock, whole};

/// (namespace, name).
pub type Key = (String, String);

/// The annotation that names the manifest which an object comes from.
pub const MANIFEST: &str = "lorikeet.dev/manifest";
/// The file that counts the starts of `up` on a state folder.
const EPOCH: &str = "epoch";
/// It, as it is written.
const EPOCH_NEW: &str = "epoch.new";

/// A kind that is kept.
pub trait Kept: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone {
    /// Its spec.
    type Spec: PartialEq + Clone;
    /// Its status.
    type Status: PartialEq + Clone;
    /// The spec of the object.
    fn spec(&self) -> &Self::Spec;
    /// The status of the object.
    fn status(&self) -> Option<&Self::Status>;
    /// Replaces the status.
    fn set_status(&mut self, status: Option<Self::Status>);
}

macro_rules! kept {
    ($kind:ty, $spec:ty, $status:ty) => {
        impl Kept for $kind {
            type Spec = $spec;
            type Status = $status;

            fn spec(&self) -> &$spec {
                &self.spec
            }

            fn status(&self) -> Option<&$status> {
                self.status.as_ref()
            }

            fn set_status(&mut self, status: Option<$status>) {
                self.status = status;
            }
        }
    };
}

kept!(Deployment, lorikeet_crds::DeploymentSpec, DeploymentStatus);
kept!(Adapter, lorikeet_crds::AdapterSpec, AdapterStatus);

/// Objects of one kind.
pub struct Objects<K> {
    folder: PathBuf,
    held: BTreeMap<Key, Arc<K>>,
    /// Those whose files are not as they are.
    unkept: BTreeSet<Key>,
    /// The newest `metadata.resourceVersion`.
    version: u64,
}

impl<K: Kept> Objects<K> {
    /// Those that lie below `state`. A file that cannot be read is reported and made anew from its manifest.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn open(state: &Path) -> io::Result<Self> {
        let folder = state.join(&*K::kind(&()));
        std::fs::create_dir_all(&folder)?;
        let mut objects = Self { folder, held: BTreeMap::new(), unkept: BTreeSet::new(), version: 0 };
        for namespace in std::fs::read_dir(&objects.folder)?.flatten() {
            for file in std::fs::read_dir(namespace.path()).into_iter().flatten().flatten() {
                let path = file.path();
                if path.extension().is_none_or(|ending| ending != "yaml") {
                    continue;
                }
                let text = std::fs::read_to_string(&path).map_err(|error| error.to_string());
                let read =
                    text.and_then(|text| serde_yaml::from_str::<K>(&text).map_err(|error| error.to_string()));
                match read {
                    Ok(object) => objects.take_up(object),
                    Err(error) => tracing::warn!(?path, error, "not an object: made anew"),
                }
            }
        }
        Ok(objects)
    }

    fn take_up(&mut self, object: K) {
        let version = object.meta().resource_version.as_deref().and_then(|version| version.parse().ok());
        self.version = self.version.max(version.unwrap_or(0));
        self.held.insert(key(&object), Arc::new(object));
    }

    /// The object of that name.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Arc<K>> {
        self.held.get(key)
    }

    /// Every object, ordered by namespace and name.
    pub fn all(&self) -> impl Iterator<Item = (&Key, &Arc<K>)> {
        self.held.iter()
    }

    /// `given` is applied. What differs from the object that is there makes a new version of it, and another spec a new
    /// generation. Whether anything changed. An object that is being deleted takes nothing any more.
    pub fn apply(&mut self, given: &K, manifest: &str, now: Timestamp) -> bool {
        let key = key(given);
        let mut metadata = ObjectMeta {
            name: Some(key.1.clone()),
            namespace: Some(key.0.clone()),
            labels: given.meta().labels.clone(),
            annotations: given.meta().annotations.clone(),
            ..ObjectMeta::default()
        };
        metadata.annotations.get_or_insert_default().insert(MANIFEST.to_owned(), manifest.to_owned());
        let mut object = given.clone();
        object.set_status(None);
        match self.held.get(&key) {
            Some(old) if old.meta().deletion_timestamp.is_some() => return false,
            Some(old) => {
                let meta = old.meta();
                let same_spec = old.spec() == given.spec();
                if same_spec && meta.labels == metadata.labels && meta.annotations == metadata.annotations {
                    return false;
                }
                metadata.uid.clone_from(&meta.uid);
                metadata.creation_timestamp.clone_from(&meta.creation_timestamp);
                metadata.finalizers.clone_from(&meta.finalizers);
                metadata.generation = Some(meta.generation.unwrap_or(0) + i64::from(!same_spec));
                object.set_status(old.status().cloned());
            }
            None => {
                metadata.uid = Some(identity());
                metadata.creation_timestamp = Some(Time(whole_second(now)));
                metadata.generation = Some(1);
            }
        }
        *object.meta_mut() = metadata;
        self.hold(object);
        true
    }

    /// Takes `status` where it differs. Whether it did.
    pub fn set_status(&mut self, key: &Key, status: K::Status) -> bool {
        let Some(old) = self.held.get(key).filter(|old| old.status() != Some(&status)) else {
            return false;
        };
        let mut object = K::clone(old);
        object.set_status(Some(status));
        self.hold(object);
        true
    }

    /// Marks the object as being deleted. Whether it was not yet.
    pub fn begin_deletion(&mut self, key: &Key, now: Timestamp) -> bool {
        let Some(old) = self.held.get(key).filter(|old| old.meta().deletion_timestamp.is_none()) else {
            return false;
        };
        let mut object = K::clone(old);
        object.meta_mut().deletion_timestamp = Some(Time(whole_second(now)));
        object.meta_mut().finalizers = Some(vec![FINALIZER.to_owned()]);
        self.hold(object);
        true
    }

    /// The object is gone. Whether it was there.
    pub fn remove(&mut self, key: &Key) -> bool {
        self.unkept.insert(key.clone());
        self.held.remove(key).is_some()
    }

    fn hold(&mut self, mut object: K) {
        self.version += 1;
        object.meta_mut().resource_version = Some(self.version.to_string());
        let key = key(&object);
        self.unkept.insert(key.clone());
        self.held.insert(key, Arc::new(object));
    }

    /// Brings the files to what is held.
    ///
    /// # Errors
    /// The first of what could not be written or removed, with its path. The next call tries it again.
    pub fn keep(&mut self) -> io::Result<()> {
        let mut first = Ok(());
        for key in std::mem::take(&mut self.unkept) {
            let path = self.folder.join(&key.0).join(format!("{}.yaml", key.1));
            let kept = match self.held.get(&key) {
                Some(object) => serde_yaml::to_string(object.as_ref())
                    .map_err(io::Error::other)
                    .and_then(|text| whole::write(&path, text)),
                None => match std::fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => Err(whole::at(&path, &error)),
                    _ => Ok(()),
                },
            };
            if kept.is_err() {
                first = first.and(kept);
                self.unkept.insert(key);
            }
        }
        first
    }
}

/// The manifest that an object comes from.
#[must_use]
pub fn manifest_of<K: Resource>(object: &K) -> Option<&str> {
    object.meta().annotations.as_ref()?.get(MANIFEST).map(String::as_str)
}

/// (namespace, name) of an object; `default` where it names no namespace.
#[must_use]
pub fn key<K: Resource>(object: &K) -> Key {
    let meta = object.meta();
    (meta.namespace.clone().unwrap_or_else(|| "default".to_owned()), meta.name.clone().unwrap_or_default())
}

/// Timestamps of metadata have whole seconds.
fn whole_second(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// A random UUID (version 4).
fn identity() -> String {
    use std::hash::{BuildHasher as _, Hasher as _};
    let half = || std::collections::hash_map::RandomState::new().build_hasher().finish();
    let (high, low) = (half(), half());
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xfff,
        low >> 48 & 0x3fff | 0x8000,
        low & 0xffff_ffff_ffff
    )
}

/// What in the folder is not of an `up`, which leaves its count of starts in it: files of others are not to be removed.
///
/// # Errors
/// It cannot be read.
pub fn stranger(state: &Path) -> io::Result<Option<String>> {
    let mut stranger = None;
    for entry in std::fs::read_dir(state)? {
        let name = entry?.file_name();
        // An `up` that was refused, or ended, as it started left no more than these.
        if ![lock::FILE, EPOCH_NEW].iter().any(|own| name == *own) {
            stranger = Some(name.to_string_lossy().into_owned());
        }
    }
    // Looked for last: another `up` that starts now writes it before anything that may have been found.
    Ok(stranger.filter(|_| !state.join(EPOCH).is_file()))
}

/// How often this state folder was started, this time included: the epoch of desired sets.
///
/// # Errors
/// The file cannot be written.
pub fn next_epoch(state: &Path) -> io::Result<u64> {
    let path = state.join(EPOCH);
    let before = match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().unwrap_or(0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    let epoch = before + 1;
    whole::write(&path, format!("{epoch}\n"))?;
    Ok(epoch)
}

#[cfg(test)]
mod tests {
    use lorikeet_crds::AdapterSpec;

    use super::*;

    fn adapter(source: &str) -> Adapter {
        let mut spec = AdapterSpec::default();
        spec.source.source = source.to_owned();
        Adapter::new("sql", spec)
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn an_object_lives_as_it_would_on_an_api_server() {
        let state = tempfile::tempdir().unwrap();
        let mut objects = Objects::<Adapter>::open(state.path()).unwrap();
        let key = ("default".to_owned(), "sql".to_owned());
        assert!(objects.apply(&adapter("hf://a/b"), "a.yaml", at(10)));
        assert!(!objects.apply(&adapter("hf://a/b"), "a.yaml", at(11)), "nothing changed");
        let first = Arc::clone(objects.get(&key).unwrap());
        assert_eq!(first.metadata.generation, Some(1));
        let status = || AdapterStatus { rank: Some(8), ..AdapterStatus::default() };
        assert!(objects.set_status(&key, status()) && !objects.set_status(&key, status()));
        assert!(objects.apply(&adapter("hf://a/c"), "a.yaml", at(12)));
        objects.keep().unwrap();

        let again = Objects::<Adapter>::open(state.path()).unwrap();
        let second = again.get(&key).unwrap();
        assert_eq!(second, objects.get(&key).unwrap());
        let meta = &second.metadata;
        assert_eq!((meta.generation, meta.resource_version.as_deref()), (Some(2), Some("3")));
        assert_eq!(
            (&meta.uid, &meta.creation_timestamp),
            (&first.metadata.uid, &first.metadata.creation_timestamp)
        );
        assert_eq!(second.status.as_ref().unwrap().rank, Some(8));
        let text = std::fs::read_to_string(state.path().join("Adapter/default/sql.yaml")).unwrap();
        assert!(text.starts_with("apiVersion: lorikeet.dev/v1alpha1\nkind: Adapter\nmetadata:\n"), "{text}");
    }

    #[test]
    fn a_deletion_waits_and_takes_no_change_meanwhile() {
        let state = tempfile::tempdir().unwrap();
        let mut objects = Objects::<Adapter>::open(state.path()).unwrap();
        let key = ("default".to_owned(), "sql".to_owned());
        objects.apply(&adapter("hf://a/b"), "a.yaml", at(10));
        assert!(objects.begin_deletion(&key, at(20)));
        assert!(!objects.begin_deletion(&key, at(30)));
        assert!(!objects.apply(&adapter("hf://a/c"), "a.yaml", at(40)));
        assert_eq!(objects.get(&key).unwrap().metadata.deletion_timestamp, Some(Time(at(20))));
        objects.keep().unwrap();
        let file = state.path().join("Adapter/default/sql.yaml");
        assert!(file.exists() && objects.remove(&key) && !objects.remove(&key));
        objects.keep().unwrap();
        assert!(!file.exists());
    }

    #[test]
    fn a_file_that_cannot_be_written_holds_nothing_up_and_is_written_later() {
        let state = tempfile::tempdir().unwrap();
        let mut objects = Objects::<Adapter>::open(state.path()).unwrap();
        let key = ("default".to_owned(), "sql".to_owned());
        let file = state.path().join("Adapter/default/sql.yaml");
        // A folder is in its way.
        std::fs::create_dir_all(file.join("x")).unwrap();
        let mut other = adapter("hf://a/b");
        other.metadata.name = Some("viggo".to_owned());
        assert!(
            objects.apply(&adapter("hf://a/b"), "a.yaml", at(10)) && objects.apply(&other, "b.yaml", at(10))
        );
        let error = objects.keep().unwrap_err().to_string();
        assert!(error.contains("/Adapter/default/sql.yaml: "), "{error}");
        assert!(objects.get(&key).is_some(), "it is there");
        assert!(state.path().join("Adapter/default/viggo.yaml").is_file(), "and the other is written");
        assert!(objects.keep().is_err(), "it is tried again");
        std::fs::remove_dir_all(&file).unwrap();
        objects.keep().unwrap();
        assert!(file.is_file());
    }

    #[test]
    fn each_start_is_another_epoch() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(stranger(state.path()).unwrap(), None);
        std::fs::write(state.path().join(lock::FILE), "7").unwrap();
        std::fs::write(state.path().join("epoch.new"), "").unwrap();
        assert_eq!(stranger(state.path()).unwrap(), None);
        std::fs::create_dir(state.path().join("run")).unwrap();
        assert_eq!(stranger(state.path()).unwrap().as_deref(), Some("run"));
        assert_eq!([next_epoch(state.path()).unwrap(), next_epoch(state.path()).unwrap()], [1, 2]);
        assert_eq!(stranger(state.path()).unwrap(), None);
        let ids: std::collections::BTreeSet<String> = (0..100).map(|_| identity()).collect();
        assert_eq!(ids.len(), 100);
        assert!(ids.iter().all(|id| id.len() == 36));
    }
}
