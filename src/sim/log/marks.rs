//! Rare states that a full run must reach: an explorer that cannot reach a state gives false comfort.

/// Each must be reached in the crash explorer and the sequences together.
pub const MARKS: &[&str] = &[];
