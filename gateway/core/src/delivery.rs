//! Per-device outbound window: push while it keeps up, catch up from the store when it does not.
