//! The words that the operator, the tests and the runtime exchange over the admin face.
//!
//! serde only: no client, no server, no decision. Every type is closed (`deny_unknown_fields`) where it is
//! read by a replica, and open where it is read from one, so that an older reader survives a newer replica.
//!
//! | call | request | answer |
//! |---|---|---|
//! | `PUT /admin/v1/adapters` | [`DesiredSet`] | [`Accepted`]; 409 [`AdminError`] when the version is not newer |
//! | `GET /admin/v1/adapters?after=N&wait_seconds=S` | | [`ReportedSet`], at once or when its `report` passes `N` |
//! | `GET /admin/v1/adapters/{name}` | | [`AdapterReport`]; 404 |
//! | `DELETE /admin/v1/adapters/{name}` | | [`Accepted`]; drains, then forgets; 404 |

mod desired;
mod error;
mod reported;

pub use desired::{Accepted, DesiredAdapter, DesiredSet, Version};
pub use error::{AdminError, AdminErrorBody, ErrorCode};
pub use reported::{AdapterReport, AdapterState, BaseModel, Failure, ReportedSet, Tier, TierBytes};

/// The path of the desired set (`PUT`) and of the reported set (`GET`).
pub const ADAPTERS_PATH: &str = "/admin/v1/adapters";
