//! Tests only: a whole face over a scripted model. The model says the token after the last one, `z` after `z - 1`, so
//! that every answer is known beforehand; a gate holds its steps back; adapters are names without weights.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use lorikeet_api::{
    Accepted, AdapterReport, BaseModel, DesiredChange, DesiredSet, ErrorCode, ReportedSet, TierBytes,
};

use super::limits::Limits;
use super::models::ModelCard;
use super::registry::{Refusal, Registry};
use super::{App, Beside};
use crate::adapters::pin::{Generation, Pin, PinCount};
use crate::adapters::weights::AdapterWeights;
use crate::digest::Digest;
use crate::engine::Engine;
use crate::engine::batch::Batch;
use crate::engine::config::EngineConfig;
use crate::engine::forward::{Forward, ForwardError, Residents};
use crate::generate::Generator;
use crate::metrics::{Metrics, TierFigures};
use crate::text::special::SpecialTokens;
use crate::text::{GenerationDefaults, Tokenizer};

/// Tokens of the context of the scripted model.
pub(crate) const CONTEXT: usize = 64;

/// Holds the model's steps back while it is closed.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<State>, Condvar)>);

#[derive(Default)]
struct State {
    closed: bool,
    /// A step stands before it.
    waiting: bool,
}

impl Gate {
    pub(crate) fn close(&self) {
        self.0.0.lock().unwrap().closed = true;
    }

    pub(crate) fn open(&self) {
        self.0.0.lock().unwrap().closed = false;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let mut state = self.0.0.lock().unwrap();
        state.waiting = state.closed;
        drop(self.0.1.wait_while(state, |state| state.closed).unwrap());
    }

    /// Waits until a step stands before it.
    pub(crate) async fn reached(&self) {
        until(|| self.0.0.lock().unwrap().waiting).await;
    }
}

/// Waits until `condition` holds.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

struct Counting {
    gate: Gate,
    vocabulary: usize,
    logits: Vec<f32>,
}

impl Forward for Counting {
    fn forward(&mut self, batch: &Batch, _residents: &Residents) -> Result<&mut [f32], ForwardError> {
        self.gate.pass();
        self.logits.clear();
        for row in &batch.logits_rows {
            let next = (batch.tokens[*row as usize] as usize + 1) % self.vocabulary;
            self.logits.extend((0..self.vocabulary).map(|id| if id == next { 20.0 } else { 0.0 }));
        }
        Ok(&mut self.logits)
    }

    fn vocabulary(&self) -> usize {
        self.vocabulary
    }
}

/// Adapters by name: `None` is one that cannot be loaded.
pub(crate) struct Script(pub(crate) BTreeMap<&'static str, Option<Pin>>);

fn refusal(code: ErrorCode, message: &str) -> Refusal {
    Refusal { code, message: message.to_owned(), retry_after: None }
}

impl Registry for Script {
    fn knows(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn names(&self) -> Vec<String> {
        self.0.keys().map(|name| (*name).to_owned()).collect()
    }

    fn try_pin(&self, name: &str) -> Option<Pin> {
        self.0.get(name)?.clone()
    }

    fn pin<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Pin, Refusal>> {
        let refused = refusal(ErrorCode::InvalidWeights, "tensor \"a\": not finite");
        std::future::ready(self.try_pin(name).ok_or(refused)).boxed()
    }

    fn ready(&self) -> bool {
        true
    }

    fn apply(&self, set: DesiredSet) -> Result<Accepted, Refusal> {
        if set.version.sequence == 0 {
            return Err(refusal(ErrorCode::StaleVersion, "version: expected a newer one"));
        }
        Ok(Accepted { instance: "i".into(), version: set.version })
    }

    fn change(&self, change: DesiredChange) -> Result<Accepted, Refusal> {
        Ok(Accepted { instance: "i".into(), version: change.version })
    }

    fn remove(&self, name: &str) -> Result<Accepted, Refusal> {
        if self.knows(name) {
            Ok(Accepted { instance: "i".into(), version: lorikeet_api::Version::default() })
        } else {
            Err(refusal(ErrorCode::UnknownAdapter, "name: unknown"))
        }
    }

    fn adapter(&self, _name: &str) -> Option<AdapterReport> {
        None
    }

    fn report(&self) -> ReportedSet {
        ReportedSet {
            instance: "i".into(),
            report: 1,
            version: None,
            base: BaseModel { name: "base".into(), digest: None, revision: None, ready: true },
            draining: false,
            resident: TierBytes::default(),
            host: TierBytes::default(),
            complete: true,
            adapters: Vec::new(),
            removed: Vec::new(),
        }
    }

    fn report_after<'a>(&'a self, _: &'a str, _: u64, wait: Duration) -> BoxFuture<'a, ReportedSet> {
        // Nothing ever changes.
        async move {
            tokio::time::sleep(wait).await;
            self.report()
        }
        .boxed()
    }

    fn load<'a>(
        &'a self,
        name: &'a str,
        source: &'a str,
        in_place: bool,
    ) -> BoxFuture<'a, Result<(), Refusal>> {
        let answer = match source {
            "/missing" => Err(refusal(ErrorCode::SourceUnavailable, "No adapter found for /missing")),
            "/bad" => Err(refusal(ErrorCode::InvalidConfig, "r: expected at least 1, got 0")),
            _ if self.knows(name) && !in_place => Err(refusal(ErrorCode::NameConflict, "taken")),
            _ => Ok(()),
        };
        std::future::ready(answer).boxed()
    }

    fn unload<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), Refusal>> {
        std::future::ready(self.remove(name).map(|_| ())).boxed()
    }

    fn figures(&self) -> TierFigures {
        TierFigures::default()
    }
}

fn pin(name: &str) -> Pin {
    let weights = AdapterWeights {
        generation: Generation::of(Digest::of(name.as_bytes())),
        rank: 1,
        bytes: 8,
        target_modules: Vec::new(),
        base_model: Arc::default(),
        layers: Vec::new(),
        embedding: None,
        head: None,
    };
    Pin::new(Arc::new(weights), Arc::<PinCount>::default())
}

/// The miniature's tokenizer.
pub(crate) fn tokenizer() -> Tokenizer {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/loraland/base");
    let bytes = std::fs::read(format!("{folder}/tokenizer.json")).unwrap();
    Tokenizer::from_json(&bytes, &SpecialTokens::default()).unwrap()
}

/// What handlers share, over the scripted model: adapters `sql` and `law` work, `broken` cannot be loaded.
pub(crate) fn app(limits: Limits, change: impl FnOnce(&mut EngineConfig)) -> (Arc<App>, Gate) {
    let tokenizer = tokenizer();
    let gate = Gate::default();
    let vocabulary = tokenizer.vocabulary();
    let model = Counting { gate: gate.clone(), vocabulary, logits: Vec::new() };
    let metrics = Arc::new(Metrics::new("base", CONTEXT).unwrap());
    let mut config =
        EngineConfig { max_context: CONTEXT, blocks: 512, max_waiting: 64, ..EngineConfig::default() };
    change(&mut config);
    let engine = Engine::start(Box::new(model), config, metrics.engine()).unwrap();
    let adapters = [("sql", Some(pin("sql"))), ("law", Some(pin("law"))), ("broken", None)];
    let card = ModelCard { name: "base".into(), created: 1, digest: None, dtype: "f32".into() };
    let app = App {
        generator: Generator::new(engine, tokenizer),
        adapters: Box::new(Script(adapters.into())),
        template: None,
        beside: Beside::default(),
        defaults: GenerationDefaults::default(),
        card,
        metrics,
        admin_limits: limits.clone(),
        limits,
        stuck_after: Duration::from_mins(1),
        draining: AtomicBool::new(false),
    };
    (Arc::new(app), gate)
}
