//! What an adapter's source says of itself before anything is loaded: its configuration as it is written and the size of its
//! weights. Never what is thought of it: whoever asks decides that.

use serde::{Deserialize, Serialize};

/// The longest `adapter_config.json` that is taken, in bytes. Of a longer one [`InspectedSource::config`] has a byte more.
pub const MAX_CONFIG_BYTES: usize = 1 << 20;

/// A source to look into.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InspectRequest {
    /// Where the adapter's files are, as in [`crate::DesiredAdapter::source`].
    pub source: String,
    /// The revision of the source, where the source has revisions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// The Secret that opens the source, as in [`crate::DesiredAdapter::credentials`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<String>,
}

/// What the source says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InspectedSource {
    /// The text of `adapter_config.json`; what is no UTF-8 in it is replaced. Cut a byte after [`MAX_CONFIG_BYTES`], so that
    /// one that is too long can be told.
    pub config: String,
    /// The weights' size. Weights that cannot be read are an error of the whole answer: it is absent where they were read, and
    /// nobody says how long they are or they are shorter than the eight bytes that say [`WeightsSize::header`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<WeightsSize>,
}

/// The size of a safetensors file, without its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightsSize {
    /// Bytes of the file.
    pub length: u64,
    /// Bytes of its header, as its first eight bytes say; nothing holds that it is shorter than the file.
    pub header: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_closed_and_short_where_little_is_said() {
        let request: InspectRequest = serde_json::from_str(r#"{"source": "/a"}"#).unwrap();
        assert_eq!(serde_json::to_string(&request).unwrap(), r#"{"source":"/a"}"#);
        let whole = InspectRequest {
            source: "hf://o/n".into(),
            revision: Some("v1".into()),
            credentials: Some("hf".into()),
        };
        let text = r#"{"source":"hf://o/n","revision":"v1","credentials":"hf"}"#;
        assert_eq!(serde_json::to_string(&whole).unwrap(), text);
        assert_eq!(serde_json::from_str::<InspectRequest>(text).unwrap(), whole);
        for odd in [r#"{"source": "/a", "digest": "x"}"#, "{}"] {
            assert!(serde_json::from_str::<InspectRequest>(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn an_answer_is_open_and_weights_may_be_absent() {
        let inspected = InspectedSource {
            config: "{}".into(),
            weights: Some(WeightsSize { length: 100, header: u64::MAX }),
        };
        let text = r#"{"config":"{}","weights":{"length":100,"header":18446744073709551615}}"#;
        assert_eq!(serde_json::to_string(&inspected).unwrap(), text);
        assert_eq!(serde_json::from_str::<InspectedSource>(text).unwrap(), inspected);
        let newer: InspectedSource = serde_json::from_str(r#"{"config": "{}", "more": 1}"#).unwrap();
        assert_eq!(newer.weights, None);
        assert_eq!(serde_json::to_string(&newer).unwrap(), r#"{"config":"{}"}"#);
    }
}
