//! The JSON of a safetensors header, as it is written: names once, whole numbers, nothing else. Must not check sizes.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};

use super::SafetensorsError;

/// The header as written.
pub(super) struct RawHeader {
    pub tensors: BTreeMap<String, RawTensor>,
    pub metadata: BTreeMap<String, String>,
}

/// One tensor as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTensor {
    pub dtype: String,
    pub shape: Vec<u64>,
    pub data_offsets: (u64, u64),
}

/// Parses `json`, which must be one object and white space.
pub(super) fn parse(json: &[u8], limit: usize) -> Result<RawHeader, SafetensorsError> {
    if json.first() != Some(&b'{') {
        return Err(SafetensorsError::HeaderJson("it does not begin with {".to_owned()));
    }
    let mut fault = None;
    let mut parser = serde_json::Deserializer::from_slice(json);
    let parsed = HeaderSeed { limit, fault: &mut fault }
        .deserialize(&mut parser)
        .and_then(|raw| parser.end().map(|()| raw));
    match (parsed, fault) {
        (_, Some(fault)) => Err(fault),
        (Ok(raw), None) => Ok(raw),
        (Err(error), None) => Err(SafetensorsError::HeaderJson(error.to_string())),
    }
}

/// Reads the outer object. A fault that has its own variant is left in `fault`; the parser's own error stops the reading.
struct HeaderSeed<'a> {
    limit: usize,
    fault: &'a mut Option<SafetensorsError>,
}

impl<'de> DeserializeSeed<'de> for HeaderSeed<'_> {
    type Value = RawHeader;

    fn deserialize<D: Deserializer<'de>>(self, parser: D) -> Result<RawHeader, D::Error> {
        parser.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HeaderSeed<'_> {
    type Value = RawHeader;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object of tensors by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
        let mut raw = RawHeader { tensors: BTreeMap::new(), metadata: BTreeMap::new() };
        let mut has_metadata = false;
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                if std::mem::replace(&mut has_metadata, true) {
                    *self.fault = Some(SafetensorsError::DuplicateName(name));
                    return Err(A::Error::custom("duplicate"));
                }
                raw.metadata = map.next_value::<Metadata>()?.0;
                continue;
            }
            if raw.tensors.len() == self.limit {
                *self.fault = Some(SafetensorsError::TooManyTensors { limit: self.limit });
                return Err(A::Error::custom("too many"));
            }
            let tensor = map
                .next_value::<RawTensor>()
                .map_err(|error| A::Error::custom(format_args!("tensor {name:?}: {error}")))?;
            match raw.tensors.entry(name) {
                Entry::Vacant(place) => drop(place.insert(tensor)),
                Entry::Occupied(place) => {
                    *self.fault = Some(SafetensorsError::DuplicateName(place.key().clone()));
                    return Err(A::Error::custom("duplicate"));
                }
            }
        }
        Ok(raw)
    }
}

/// `__metadata__`: texts by name; `null` is none.
#[derive(Default)]
struct Metadata(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(parser: D) -> Result<Self, D::Error> {
        Ok(Self(Option::<BTreeMap<String, String>>::deserialize(parser)?.unwrap_or_default()))
    }
}
