//! Real adapters of a real (tiny) model through the loader and the store.

use std::path::{Path, PathBuf};

use lorikeet_api::{DesiredAdapter, DesiredSet, Tier, Version};
use lorikeet_kernels::device::Device;

use super::*;
use crate::adapters::scripted::base;
use crate::adapters::store::{AdapterStore, PinError, StoreConfig};
use crate::model::{KvChoice, KvOptions, LoadOptions, Model};
use crate::safetensors::{Header, Limits};
use crate::source::config::FetchConfig;
use crate::source::server::{Answer, Server};
use crate::source::{Source, Trust};

const FILE: Limits = Limits { file_bytes: 1 << 26, header_bytes: 1 << 20, tensors: 10_000 };

fn fixture(path: &str) -> PathBuf {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/golden");
    golden.join(path).canonicalize().unwrap()
}

fn loader(config: FetchConfig) -> AdapterLoader {
    let options = LoadOptions {
        device: Device::new(NonZeroUsize::MIN),
        quantize: None,
        kv: KvOptions { blocks: 1, block_size: 16, dtype: KvChoice::Auto },
        max_step_rows: 1,
        progress: &|_, _| {},
    };
    let model = Model::load(&fixture("llama_gqa"), options).unwrap();
    let limits = AdapterLimits { rank: 64, file: FILE };
    let builds = NonZeroUsize::new(2).unwrap();
    AdapterLoader::new(Fetcher::new(config).unwrap(), model.shape(), model.weights(), limits, builds)
}

fn wanted(path: &Path) -> Wanted {
    let source = Source::Path(path.to_owned());
    Wanted { source, trust: Trust::CommandLine, credentials: None, digest: None, max_rank: None }
}

fn digest_at(folder: &Path) -> crate::digest::Digest {
    let [config, weights] = build::FILES.map(|name| std::fs::read(folder.join(name)).unwrap());
    build::digest(&config, &weights)
}

async fn code(loader: &AdapterLoader, wanted: Wanted) -> Option<ErrorCode> {
    Loader::load(loader, Arc::new(wanted)).await.err().map(|failure| failure.code)
}

#[tokio::test]
async fn twenty_five_adapters_of_rank_16_cost_their_bytes_and_at_most_a_tenth_more() {
    let folder = tempfile::tempdir().unwrap();
    let weights = std::fs::read(fixture("llama_gqa/adapters/all_r16/adapter_model.safetensors")).unwrap();
    let config = std::fs::read_to_string(fixture("llama_gqa/adapters/all_r16/adapter_config.json")).unwrap();
    let header = Header::parse(&weights, &FILE).unwrap();
    let bytes: u64 = header.tensors.values().map(|tensor| tensor.bytes()).sum();
    let store = AdapterStore::new(StoreConfig::default(), base(), Arc::new(loader(FetchConfig::default())));
    let mut pins = Vec::new();
    for n in 0..25 {
        let own = folder.path().join(n.to_string());
        std::fs::create_dir(&own).unwrap();
        // A space more is another content.
        std::fs::write(own.join("adapter_config.json"), format!("{config}{}", " ".repeat(n))).unwrap();
        std::fs::write(own.join("adapter_model.safetensors"), &weights).unwrap();
        store.register(&format!("a{n}"), own.to_str().unwrap()).unwrap();
        pins.push(store.pin(&format!("a{n}")).await.unwrap());
    }
    let used = store.figures().host.used;
    assert!((25 * bytes..=25 * bytes * 11 / 10).contains(&used), "{used} bytes for 25 times {bytes}");
}

#[tokio::test]
async fn a_pin_a_rank_and_a_root_are_held_against_what_is_there() {
    let here = fixture("llama_gqa/adapters/qv_r8");
    let loader = loader(FetchConfig { source_roots: vec![fixture("llama_gqa")], ..FetchConfig::default() });
    let right = Some(digest_at(&here));
    let wrong = Some(digest_at(&fixture("llama_gqa/adapters/all_r16")));
    let loaded = Loader::load(&loader, Arc::new(Wanted { digest: right, ..wanted(&here) })).await.unwrap();
    assert_eq!(&*loaded.weights.base_model, "golden/llama_gqa");
    assert_eq!(
        code(&loader, Wanted { digest: wrong, ..wanted(&here) }).await,
        Some(ErrorCode::DigestMismatch)
    );
    assert_eq!(code(&loader, Wanted { max_rank: Some(8), ..wanted(&here) }).await, None);
    assert_eq!(
        code(&loader, Wanted { max_rank: Some(4), ..wanted(&here) }).await,
        Some(ErrorCode::RankExceeded)
    );
    let admin = |path: &Path| Wanted { trust: Trust::Admin, ..wanted(path) };
    assert_eq!(code(&loader, admin(&here)).await, None);
    let outside = fixture("bad/control_good");
    assert_eq!(code(&loader, admin(&outside)).await, Some(ErrorCode::SourceForbidden));
    assert_eq!(code(&loader, wanted(&outside)).await, None);
    assert_eq!(code(&loader, wanted(&fixture("bad/nan"))).await, Some(ErrorCode::InvalidWeights));
}

#[tokio::test]
async fn a_cached_copy_that_has_rotted_is_fetched_anew() {
    let folder = fixture("llama_gqa/adapters/qv_r8");
    let server = Server::start(move |asked| match asked.path.strip_prefix("/a/") {
        Some(name) => Answer::file(asked, &std::fs::read(folder.join(name)).unwrap(), name),
        None => Answer::status(404),
    })
    .await;
    let cache = tempfile::tempdir().unwrap();
    let loader = loader(FetchConfig { cache_dir: cache.path().to_owned(), ..FetchConfig::default() });
    let source = Source::parse(&server.url("/a/"), None).unwrap();
    let wanted = Wanted { source, ..wanted(Path::new("")) };
    let load = || Loader::load(&loader, Arc::new(wanted.clone()));
    assert_eq!(load().await.unwrap().from, Tier::Remote);
    assert_eq!(load().await.unwrap().from, Tier::Disk);
    let content = std::fs::read_dir(cache.path().join("content")).unwrap().next().unwrap().unwrap();
    let rotten = content.path().join("adapter_model.safetensors");
    let mut bytes = std::fs::read(&rotten).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&rotten, bytes).unwrap();
    let damaged = load().await.err().unwrap();
    assert!(damaged.is_transient() && damaged.message.contains("damaged"), "{damaged}");
    assert_eq!(load().await.unwrap().from, Tier::Remote);
}

#[tokio::test]
async fn bad_adapters_are_refused_one_by_one_while_good_ones_serve() {
    let store = AdapterStore::new(StoreConfig::default(), base(), Arc::new(loader(FetchConfig::default())));
    let desired = |name: String, path: PathBuf| DesiredAdapter {
        name,
        source: path.display().to_string(),
        ..DesiredAdapter::default()
    };
    let bad: Vec<PathBuf> = std::fs::read_dir(fixture("bad"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    let names = bad.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned());
    let good = desired("good".to_owned(), fixture("llama_gqa/adapters/qv_r8"));
    let version = Version { epoch: 1, sequence: 1 };
    let all = bad.iter().zip(names.clone()).map(|(path, name)| desired(name, path.clone()));
    // Nobody trusts a set of the admin face: without a root each of its paths is refused.
    store.apply(DesiredSet { version, adapters: all.chain([good]).collect() }).unwrap();
    let refused = store.pin("good").await.unwrap_err();
    assert!(matches!(refused, PinError::Refused { code: ErrorCode::SourceForbidden, .. }));
    for (name, path) in names.zip(&bad) {
        store.register(&format!("own_{name}"), path.to_str().unwrap()).unwrap();
    }
    store.register("own_good", fixture("llama_gqa/adapters/qv_r8").to_str().unwrap()).unwrap();
    let before = store.pin("own_good").await.unwrap();
    let mut served = Vec::new();
    for path in &bad {
        let name = path.file_name().unwrap().to_str().unwrap();
        if store.pin(&format!("own_{name}")).await.is_ok() {
            served.push(name);
        }
        assert_eq!(store.try_pin("own_good").unwrap().generation(), before.generation());
    }
    assert!(served.contains(&"control_good") && !served.contains(&"nan"), "{served:?}");
}
