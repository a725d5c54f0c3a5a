//! How the crate works and what it promises, written for whoever runs it or changes it.
//!
//! | Page | Answers |
//! |---|---|
//! | [`design`] | How is it built, and where do I find things? |
//! | [`format`](mod@format) | What is in each file, byte by byte? |
//! | [`durability`] | What survives what, and how do we know? |
//! | [`producers`] | Which producer is for what, and how is a record stored once that is sent twice? |
//! | [`transactions`] | What do transactions promise, and what becomes of those that a crash cut short? |
//! | [`queues`] | How do workers share single records, and what becomes of one that nobody can do? |
//! | [`groups`] | How do consumers share partitions, and what becomes of those of one that dies? |
//! | [`replication`] | How do several nodes hold the same log, and what is kept when one is lost? |
//! | [`compaction`] | What does compaction keep, when does it run, what does it need? |
//! | [`operations`] | Which settings are there, what does it need, what do I do when something broke? |
//! | [`broker`] | How is a Kafka broker's directory read, or taken over, and what of its damage? |
//! | [`changelog`] | What changed, and what do I have to do? |
//!
//! The pages describe what is built. What is only planned is named as planned.

pub mod design {
    #![doc = include_str!("design.md")]
}

pub mod format {
    #![doc = include_str!("format.md")]
}

pub mod producers {
    #![doc = include_str!("producers.md")]
}

pub mod transactions {
    #![doc = include_str!("transactions.md")]
}

pub mod durability {
    #![doc = include_str!("durability.md")]
}

pub mod queues {
    #![doc = include_str!("queues.md")]
}

pub mod groups {
    #![doc = include_str!("groups.md")]
}

pub mod replication {
    #![doc = include_str!("replication.md")]
}

pub mod compaction {
    #![doc = include_str!("compaction.md")]
}

pub mod operations {
    #![doc = include_str!("operations.md")]
}

pub mod broker {
    #![doc = include_str!("broker.md")]
}

pub mod changelog {
    #![doc = include_str!("changelog.md")]
}
