//! Transactions: what is decided of them, as records of the topic `__transaction_state`. Pure.
//!
//! A transactional id belongs to one partition of that topic, so all that is known of it lies in one sequence of records,
//! of which the last one holds:
//!
//! ```text
//! Coordinator::begin, State::with --> record --> appended by the caller --> Coordinator::replay --> Coordinator::verdict
//!                                             (and again at each open) --^
//! ```
//!
//! Replay is the only mutation, so the state after an open is that before it.

mod coordinator;
mod records;
mod ticket;

pub(crate) use coordinator::{Coordinator, Open, Verdict, check_transactional_id};
pub(crate) use records::{Extent, Key, Span, State, Status};
pub use ticket::{InvalidTicket, Ticket};
