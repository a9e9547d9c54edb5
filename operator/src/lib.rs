//! The will of Lorikeet: observe -> validate -> plan -> apply -> status.
//!
//! The unit of work is a [`fleet::Fleet`]: one Deployment, the Adapters that name it, and its replicas. What decides is
//! [`decide::decide`], a pure function of a fleet: no client, no clock, no async. Who observes and who writes comes in
//! two forms that share it: a cluster and one machine. Must not load a model or know how a replica computes.

pub mod args;
pub mod build;
pub mod cluster;
pub mod credentials;
pub mod decide;
pub mod fleet;
pub mod http;
pub mod metrics;
pub mod probe;
pub mod quantity;
pub mod replicas;
pub mod telemetry;
pub mod up;
pub mod why;
