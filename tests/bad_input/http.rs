//! Bodies and headers that are none of the contract.
