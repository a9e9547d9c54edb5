//! The scheduler's rules, each by itself.
