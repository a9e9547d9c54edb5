//! What the cache keeps, what it puts out, and what a crash leaves.

use super::*;

fn cache(budget: u64) -> (tempfile::TempDir, Cache) {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(dir.path(), budget).unwrap();
    (dir, cache)
}

fn put(cache: &Cache, key: &str, content: &str) -> Lease {
    cache.make_room(content.len() as u64, key).unwrap();
    let partial = cache.partial(key, false).unwrap();
    fs::write(partial.folder.join("x"), content).unwrap();
    let lease = cache.commit(&partial, &["x"], None).unwrap();
    cache.remember(key, lease.digest, Some("r1")).unwrap();
    lease
}

/// As if it had been used so many seconds ago.
fn age(lease: &Lease, seconds: u64) {
    let lock = OpenOptions::new().append(true).open(lease.folder.join(LOCK)).unwrap();
    lock.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
}

#[test]
fn what_is_put_in_is_found_by_content_and_by_key() {
    let (_dir, cache) = cache(1000);
    let digest = put(&cache, "key", "content").digest;
    assert_eq!(digest, Digest::of_files([("x", b"content".as_slice())]));
    let (lease, revision) = cache.find("key").unwrap();
    assert_eq!((lease.digest, revision.as_deref()), (digest, Some("r1")));
    assert_eq!(fs::read(lease.folder.join("x")).unwrap(), b"content");
    assert!(cache.get(Digest::of(b"other")).is_none() && cache.find("other").is_none());
}

#[test]
fn the_least_recently_used_leaves_and_never_what_is_in_use() {
    let (_dir, cache) = cache(20);
    let [a, b, c] = ["a", "b", "c"].map(|key| put(&cache, key, &key.repeat(6)));
    age(&a, 30);
    age(&b, 20);
    age(&c, 10);
    drop(b);
    drop(c);
    cache.make_room(8, "new").unwrap();
    assert!(cache.find("a").is_some() && cache.find("b").is_none() && cache.find("c").is_some());
    let c = cache.find("c");
    assert!(matches!(cache.make_room(9, "new"), Err(FetchError::TooLarge { .. })), "both are in use");
    drop(c);
    cache.make_room(9, "new").unwrap();
    assert_eq!(cache.figures().evictions, 2);
    assert!(matches!(cache.make_room(21, "new"), Err(FetchError::TooLarge { limit: 20, .. })));
}

#[test]
fn the_index_forgets_what_is_not_here_any_more() {
    let (dir, cache) = cache(20);
    let [a, b] = ["a", "b"].map(|key| put(&cache, key, &key.repeat(6)));
    assert_eq!(cache.figures().used, 12);
    age(&a, 30);
    drop(a);
    cache.make_room(14, "new").unwrap();
    for key in ["a", "b"] {
        let entry = File::options().append(true).open(dir.path().join("index").join(key)).unwrap();
        entry.set_modified(SystemTime::now() - 2 * STALE).unwrap();
    }
    let again = Cache::open(dir.path(), 20).unwrap();
    let keys: Vec<_> =
        fs::read_dir(dir.path().join("index")).unwrap().map(|key| key.unwrap().file_name()).collect();
    assert_eq!(keys, ["b"]);
    assert_eq!((again.figures().used, again.find("b").unwrap().0.digest), (6, b.digest));
}

#[test]
fn another_content_than_the_pinned_one_is_refused_and_not_kept() {
    let (_dir, cache) = cache(1000);
    let partial = cache.partial("key", false).unwrap();
    fs::write(partial.folder.join("x"), "evil").unwrap();
    let refused = cache.commit(&partial, &["x"], Some(Digest::of(b"good")));
    assert!(matches!(refused, Err(FetchError::DigestMismatch { .. })));
    assert!(!partial.folder.exists());
    assert_eq!(cache.taken(None).unwrap().len(), 0);
}

#[test]
fn a_download_that_a_crash_cut_short_is_there_to_go_on_with_and_is_no_content() {
    let (dir, cache) = cache(1000);
    let partial = cache.partial("key", false).unwrap();
    fs::write(partial.folder.join("x"), "half").unwrap();
    drop((partial, cache));
    let cache = Cache::open(dir.path(), 1000).unwrap();
    assert!(cache.find("key").is_none());
    let partial = cache.partial("key", false).unwrap();
    assert_eq!(fs::read(partial.folder.join("x")).unwrap(), b"half");
}

#[test]
fn two_that_commit_one_content_share_it() {
    let (_dir, cache) = cache(1000);
    let (one, two) = (put(&cache, "one", "same"), put(&cache, "two", "same"));
    assert_eq!(one.folder, two.folder);
    assert_eq!(cache.taken(None).unwrap().len(), 1);
}

#[test]
fn what_is_discarded_is_fetched_anew() {
    let (_dir, cache) = cache(1000);
    let digest = put(&cache, "key", "rotten").digest;
    cache.discard(digest);
    assert!(cache.find("key").is_none());
    put(&cache, "key", "rotten");
    assert!(cache.find("key").is_some());
}

#[test]
fn unfinished_downloads_count_and_go_as_content_does_unless_somebody_is_at_them() {
    let (dir, cache) = cache(20);
    let begin = |key: &str, bytes: usize| {
        let partial = cache.partial(key, false).unwrap();
        fs::write(partial.folder.join("x"), "x".repeat(bytes)).unwrap();
        partial
    };
    let (left, running) = (begin("left", 8), begin("running", 8));
    drop(left);
    assert_eq!(Cache::open(dir.path(), 20).unwrap().figures().used, 16);
    assert_eq!(
        cache.make_room(12, "running").map_err(|error| error.to_string()),
        Ok(()),
        "its own bytes are in it"
    );
    assert!(dir.path().join("partial/left").exists());
    cache.make_room(12, "new").unwrap();
    assert!(!dir.path().join("partial/left").exists() && running.folder.exists());
    assert!(matches!(cache.make_room(13, "new"), Err(FetchError::TooLarge { .. })), "one is under way");
    assert_eq!(cache.figures().evictions, 0);
}
