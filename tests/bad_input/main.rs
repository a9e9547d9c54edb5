//! What is refused, with the exact status and message: invalid adapters, and bodies and headers that are none of the contract.

mod adapters;
mod http;
mod long;
