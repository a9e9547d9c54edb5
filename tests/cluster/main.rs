//! The judges of the operator, on a real control plane: kubectl and HTTP are their only hands.
//!
//! Scripted replicas stand for pods, a proxy between operator and API server makes the faults, the audit log says what
//! was written. A scenario waits on conditions, never for a time; each has namespaces of its own. The control plane is our own
//! or, by `KUBECONFIG`, a given one: what needs one of its own is skipped there, and says so.

mod account;
mod audit;
mod certificates;
mod container;
mod control_plane;
mod end_state;
mod fake;
mod given;
mod ground;
mod inspected;
mod kubectl;
mod kubelet;
mod manifests;
mod nodes;
mod operator;
mod proxy;
mod registry;
mod scene;
mod second;
mod stage;
mod tethered;
mod until;

mod admin_secret;
mod at_rest;
mod by_kubeconfig;
mod clocks;
mod crash_sweep;
mod deletion;
mod demand;
mod drain;
mod drift;
mod events;
mod failover;
mod fan_out;
mod faults;
mod fields;
mod finalizers;
mod gpus;
mod last_copy;
mod leader;
mod lifecycle;
mod mounts;
mod namespaces;
mod outage;
mod paused;
mod peers;
mod pinned;
mod placement;
mod printed;
mod process;
mod real;
mod refused;
mod samples;
mod scale;
mod scaling;
mod schema;
mod standing;
mod told;
mod unreadable;
mod why;
