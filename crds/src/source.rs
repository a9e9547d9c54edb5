//! Where a model or an adapter comes from: the grammar of a source, once for both kinds.

use k8s_openapi::api::core::v1::LocalObjectReference;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Schemes that a source may have. One URI holds exactly one of them.
pub const SCHEMES: [&str; 8] = ["hf", "s3", "gs", "oci", "https", "http", "pvc", "file"];

/// A source and what pins it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.revision) || self.source.startsWith('hf://') || self.source.startsWith('oci://')")
    .message("revision: only hf:// and oci:// sources have revisions").field_path(".revision"))]
pub struct SourceSpec {
    /// The place: `hf://OWNER/NAME`, `s3://BUCKET/KEY`, `gs://BUCKET/KEY`, `oci://REGISTRY/NAME:TAG`,
    /// `https://HOST/PATH`, `pvc://CLAIM/PATH` or `file:///PATH` (a path on the node or image).
    #[schemars(length(min = 6, max = 2048))]
    #[x_kube(validation = Rule::new("self.matches('^(hf|s3|gs|oci|https|http|pvc|file)://[^\\\\s@\\\\\\\\]+$')")
        .message("source: expected one of hf://, s3://, gs://, oci://, https://, http://, pvc://CLAIM/PATH, file:///PATH without spaces, user names or backslashes"),
        validation = Rule::new("!self.matches('(^|/)\\\\.\\\\.(/|$)')").message("source: '..' is not allowed in a path"))]
    pub source: String,
    /// The revision to take: a branch, a tag or a commit. It is resolved to an immutable one, which the status names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub revision: Option<String>,
    /// Pins the content: `sha256:` and 64 lower-case hex digits. Any other content is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 71))]
    #[x_kube(validation = Rule::new("self.matches('^sha256:[0-9a-f]{64}$')").message("digest: expected sha256: and 64 lower-case hex digits"))]
    pub digest: Option<String>,
    /// A Secret of this namespace with the credentials of the source. It is mounted into the pods that fetch; the
    /// operator never reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalObjectReference>,
}
