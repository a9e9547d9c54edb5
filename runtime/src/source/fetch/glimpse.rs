//! Looks into an adapter's source without bringing it here: the text of its configuration and the size of its weights. Goes
//! where a fetch of it goes, by the same policy and with the same credentials, and asks once. Needs no cache, writes nothing,
//! and must not judge what it reads.

use std::io::Read as _;
use std::sync::Arc;

use futures::StreamExt as _;
use lorikeet_api::{InspectedSource, MAX_CONFIG_BYTES, WeightsSize};
use tokio::time::timeout;

use super::{Fetcher, Inner, Order, Pass};
use crate::source::credentials::SecretName;
use crate::source::error::FetchError;
use crate::source::folder::Folder;
use crate::source::http::Wish;
use crate::source::plan::{ADAPTER, Item, Kind, PICKLES, Plan};
use crate::source::s3::Bucket;
use crate::source::{Source, Trust};

/// One more than a configuration may have, so that one that is too long can be told.
const CONFIG: usize = MAX_CONFIG_BYTES + 1;

/// What a safetensors file begins with: the length of its header, little-endian.
const LENGTH: usize = size_of::<u64>();

/// What a source says of its adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glimpse {
    /// The bytes of `adapter_config.json`, cut one byte after the longest that is taken.
    pub config: Vec<u8>,
    /// The size of the weights; `None` of a file that was read, whose length nobody says or that is too short to say one.
    pub weights: Option<WeightsSize>,
}

impl From<Glimpse> for InspectedSource {
    fn from(glimpse: Glimpse) -> Self {
        let config = String::from_utf8(glimpse.config)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        Self { config, weights: glimpse.weights }
    }
}

impl Fetcher {
    /// What an adapter's source says of it. The Secret `credentials` opens the source in the place of what is configured for
    /// all. Every answer is waited for as long as the configuration says; whoever calls bounds the whole.
    ///
    /// # Errors
    /// As [`Fetcher::adapter`], where a file cannot be found, or what is asked of it cannot be read.
    pub async fn glimpse(
        &self,
        source: &Source,
        trust: Trust,
        credentials: Option<&SecretName>,
    ) -> Result<Glimpse, FetchError> {
        if let Source::Path(path) = source {
            let (inner, path) = (Arc::clone(&self.inner), path.clone());
            return self.inner.mounts.read(move || in_folder(&inner.folder(&path, trust)?)).await;
        }
        let (source, credentials) = (source.clone(), credentials.cloned());
        self.inner
            .glimpse(&Order { source, trust, credentials, digest: None, kind: Kind::Adapter(u64::MAX) })
            .await
    }
}

impl Inner {
    async fn glimpse(&self, order: &Order) -> Result<Glimpse, FetchError> {
        let pass = self.pass(order)?;
        let plan = self.named(order, &pass).await?;
        let planned = |name: &str| plan.items.iter().find(|item| item.name == name);
        let config = planned(ADAPTER[0]).ok_or_else(|| FetchError::NoFile(ADAPTER[0].to_owned()))?;
        let (config, _) = self.begins(order, &pass, config, CONFIG, Wish::default()).await?;
        let weights = planned(ADAPTER[1]).ok_or_else(|| FetchError::NoFile(ADAPTER[1].to_owned()))?;
        let wish = Wish { first: Some(LENGTH as u64), ..Wish::default() };
        let (begin, length) = match self.begins(order, &pass, weights, LENGTH, wish).await {
            Err(error @ FetchError::NotFound(_)) => {
                return Err(self.pickle(order, &pass, &plan).await.unwrap_or(error));
            }
            read => read?,
        };
        let weights = length.map(|length| size(&begin, length)).transpose()?.flatten();
        Ok(Glimpse { config, weights })
    }

    /// Where the files are, as they are called: no listing is read, which has no bound.
    async fn named(&self, order: &Order, pass: &Pass) -> Result<Plan, FetchError> {
        match &order.source {
            Source::Hub(hub) => self.http.name_hub(hub, order.kind),
            Source::S3(place) => Ok(Bucket::name(place, order.kind)),
            Source::Http(_) | Source::Path(_) => self.plan(order, pass).await,
        }
    }

    /// What is there in the place of weights that are not.
    async fn pickle(&self, order: &Order, pass: &Pass, plan: &Plan) -> Option<FetchError> {
        let wish = Wish { first: Some(1), ..Wish::default() };
        for item in plan.items.iter().filter(|item| PICKLES.contains(&item.name.as_str())) {
            if self.begins(order, pass, item, 0, wish).await.is_ok() {
                return Some(FetchError::Pickle(item.name.clone()));
            }
        }
        None
    }

    /// The first `most` bytes of a file, or all that it has, and its whole length where that is said.
    async fn begins(
        &self,
        order: &Order,
        pass: &Pass,
        item: &Item,
        most: usize,
        wish: Wish<'_>,
    ) -> Result<(Vec<u8>, Option<u64>), FetchError> {
        let patience = self.config.patience.read;
        let late = |_| FetchError::Unavailable(format!("{}: no byte for {patience:?}", item.name));
        let read = async {
            let mut body = timeout(patience, self.open(order, pass, item, wish)).await.map_err(late)??;
            let mut begin = Vec::new();
            while begin.len() < most {
                let Some(piece) = timeout(patience, body.pieces.next()).await.map_err(late)? else { break };
                let piece = piece?;
                begin.extend_from_slice(&piece[..piece.len().min(most - begin.len())]);
            }
            // The rest is not read: the connection ends with the body.
            Ok((begin, body.total.or(item.size)))
        };
        read.await.map_err(|error: FetchError| error.of_file(&item.name))
    }
}

fn in_folder(folder: &Folder) -> Result<Glimpse, FetchError> {
    let (config, _) = begins(folder, ADAPTER[0], CONFIG)?;
    let (begin, length) = begins(folder, ADAPTER[1], LENGTH)?;
    Ok(Glimpse { config, weights: size(&begin, length)? })
}

/// The first `most` bytes of a file, or all that it has, and its whole length.
fn begins(folder: &Folder, name: &str, most: usize) -> Result<(Vec<u8>, u64), FetchError> {
    let failed = |error| FetchError::io(name, error);
    let file = folder.open(name)?;
    let length = file.metadata().map_err(failed)?.len();
    let mut begin = Vec::new();
    file.take(most as u64).read_to_end(&mut begin).map_err(failed)?;
    Ok((begin, length))
}

/// The size that a weights file of `length` bytes says with its first ones; none of one that is too short for that.
fn size(begin: &[u8], length: u64) -> Result<Option<WeightsSize>, FetchError> {
    match begin.try_into() {
        Ok(begin) => Ok(Some(WeightsSize { length, header: u64::from_le_bytes(begin) })),
        Err(_) if length < LENGTH as u64 => Ok(None),
        Err(_) => {
            let got = begin.len();
            Err(FetchError::Unavailable(format!("{}: {got} bytes came, of {length}", ADAPTER[1])))
        }
    }
}
