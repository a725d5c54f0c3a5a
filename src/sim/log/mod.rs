//! The log itself under the explorers: what a user does to it, and a model of what it must hold.
//!
//! ```text
//! op        what a user does, with limits and weights drawn for each plan
//! model     what must be there, and what may be
//! look      everything there is to see of a log, with every payload checked
//! subject   the log as the explorers run it      scenarios   the calls that are failed one by one
//! backup    what a backup must hold
//! groups    what groups committed, and the records that say so
//! transactions  what becomes of records that count together or not at all
//! planted   mistakes that must be found
//! ```
//!
//! A record's bytes are derived from its id, which they begin with: what is read is checked without a copy of it.

mod apply;
mod backup;
mod groups;
mod look;
mod model;
mod op;
mod planted;
mod scenarios;
mod settle;
mod subject;
mod transactions;

pub use model::Model;
pub use op::{Op, Options};
pub use planted::{ADOPTION, BATCHING, COMPACTION, CONSUMER, ELUSIVE, GROUP_COORDINATOR, QUEUES, TRANSACTIONS};
pub use subject::Explored;

const DIR: &str = "/log";
const TOPICS: [&str; 2] = ["a", "b.c"];
const GROUPS: [&str; 2] = ["g", "h"];
/// Transactional ids.
const SEATS: [&str; 2] = ["s", "t"];
const STATE: &str = "__transaction_state";
const OFFSETS: &str = "__consumer_offsets";
