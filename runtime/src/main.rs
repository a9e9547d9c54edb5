//! The `lorikeet` command: arguments -> configuration -> engine -> faces -> drain.
fn main() {}
