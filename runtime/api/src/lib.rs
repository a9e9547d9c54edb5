//! The words that the operator, the tests and the runtime exchange over the admin face.
//!
//! serde only: no client, no server, no decision. Every type is closed (`deny_unknown_fields`) where it is
//! read by a replica, and open where it is read from one, so that an older reader survives a newer replica.
//!
//! | call | request | answer |
//! |---|---|---|
//! | `PUT /admin/v1/adapters` | [`DesiredSet`] | [`Accepted`]; 409 [`AdminError`] when the version is not newer |
//! | `PATCH /admin/v1/adapters` | [`DesiredChange`] | [`Accepted`]; 409 when the replica's version is not `base` |
//! | `GET /admin/v1/adapters` | | [`ReportedSet`], complete |
//! | `GET /admin/v1/adapters?instance=I&after=N&wait_seconds=S` | | [`ReportedSet`], when its `report` passes `N` or the wait is over: what changed after `N`, or complete when `I` is not this process |
//! | `GET /admin/v1/adapters/{name}` | | [`AdapterReport`]; 404 |
//! | `DELETE /admin/v1/adapters/{name}` | | [`Accepted`]; drains, then forgets; 404 |
//! | `POST /admin/v1/inspect` | [`InspectRequest`] | [`InspectedSource`]; of an inspector, which is no replica |

mod desired;
mod error;
mod inspect;
mod reported;

pub use desired::{Accepted, DesiredAdapter, DesiredChange, DesiredSet, Version};
pub use error::{AdminError, AdminErrorBody, ErrorCode};
pub use inspect::{InspectRequest, InspectedSource, MAX_CONFIG_BYTES, WeightsSize};
pub use reported::{
    AdapterReport, AdapterState, BaseModel, Failure, MAX_BASE_MODEL_BYTES, ReportedSet, Tier, TierBytes,
};

/// The path of the desired set (`PUT`), of a change of it (`PATCH`) and of the reported set (`GET`).
pub const ADAPTERS_PATH: &str = "/admin/v1/adapters";
/// The path where an inspector is asked what a source says of itself (`POST`).
pub const INSPECT_PATH: &str = "/admin/v1/inspect";
