//! Where a model or an adapter comes from: the grammar of a source, once for both kinds.

use k8s_openapi::api::core::v1::LocalObjectReference;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Schemes that a source may have, as replicas read them. One URI holds exactly one of them.
pub const SCHEMES: [&str; 6] = ["hf", "s3", "https", "http", "pvc", "file"];

/// A source and what pins it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.revision) || self.source.startsWith('hf://')")
    .message("revision: only hf:// sources have revisions").field_path(".revision"))]
pub struct SourceSpec {
    /// The place: `hf://OWNER/NAME`, `s3://BUCKET/KEY`, `https://HOST/PATH`, `pvc://CLAIM/PATH` or `file:///PATH` (a path
    /// of the image, or with `up` of the machine). A claim is mounted read-only into the pods of its namespace, up to 32 of
    /// them; a new one replaces the pods, one by one, and waits until the claim is there. Example:
    /// `hf://mistralai/Mistral-7B-v0.1`.
    #[schemars(length(min = 6, max = 2048))]
    #[x_kube(validation = Rule::new("self.matches('^(hf|s3|https|http|pvc|file)://[^\\\\s@\\\\\\\\]+$')")
        .message("source: expected one of hf://, s3://, https://, http://, pvc://CLAIM/PATH, file:///PATH without spaces, user names or backslashes"),
        validation = Rule::new("!self.matches('(^|/)\\\\.\\\\.(/|$)')").message("source: '..' is not allowed in a path"))]
    pub source: String,
    /// The revision to take of an hf:// source: a branch, a tag or a commit. It is resolved to an immutable one, which the
    /// status names. Default: the source's main branch. Example: `v3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$') && !self.matches('[.][.]|(^|/)[.](/|$)')")
        .message("revision: expected letters, digits, '.', '_', '-' and '/', without '..' and without a part that is empty or '.'"))]
    pub revision: Option<String>,
    /// Pins the content: `sha256:` and 64 lower-case hex digits, as the status and `lorikeet inspect` name it. Any other
    /// content is refused. Default: whatever is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 71))]
    #[x_kube(validation = Rule::new("self.matches('^sha256:[0-9a-f]{64}$')").message("digest: expected sha256: and 64 lower-case hex digits"))]
    pub digest: Option<String>,
    /// A Secret with the credentials of the source, in this namespace, which must be the Deployment's. It is mounted into
    /// the pods, which read it for each fetch and send it to the source's own host alone; the operator never reads it. Keys:
    /// `token` (or HF_TOKEN) for hf:// and https://; `access-key-id` and `secret-access-key`, and if need be
    /// `session-token`, `region`, `endpoint`, for s3:// (or AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN,
    /// AWS_REGION, AWS_ENDPOINT_URL). The pods of a Deployment mount up to 32 Secrets: a new name replaces them, one by
    /// one; a changed key replaces nothing. Whoever may write this field can have the Secret's credentials sent to the
    /// source. Default: none. Example: `{name: hf-token}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalObjectReference>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_of_a_source_names_every_scheme_and_no_other() {
        let schema = serde_json::to_string(&schemars::schema_for!(SourceSpec)).unwrap();
        assert!(schema.contains(&format!("^({})://", SCHEMES.join("|"))), "{schema}");
    }
}
