//! The name of a prepared transaction, for whoever keeps the other half of it.

use std::fmt;
use std::str::FromStr;

use crate::types::{Offset, ProducerEpoch, ProducerId};

/// The name of a transaction that was prepared: a text to store beside the other half of the work, in a database say, and
/// to commit or abort by, also after a restart. See [`Transaction::prepare`](crate::Transaction::prepare).
///
/// No two prepared transactions of a log have the same one.
///
/// ```
/// use chiplog::Ticket;
///
/// let ticket: Ticket = "17.1000.0.billing-1".parse()?;
/// assert_eq!(ticket.transactional_id(), "billing-1");
/// assert_eq!(ticket.to_string(), "17.1000.0.billing-1");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket {
    pub(crate) id: Box<str>,
    pub(crate) producer: ProducerId,
    pub(crate) epoch: ProducerEpoch,
    /// Where the record is that prepared it.
    pub(crate) position: Offset,
}

impl Ticket {
    /// The transactional id of the producer.
    #[must_use]
    pub fn transactional_id(&self) -> &str {
        &self.id
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}.{}", self.position, self.producer, self.epoch.0, self.id)
    }
}

impl FromStr for Ticket {
    type Err = InvalidTicket;

    fn from_str(text: &str) -> Result<Self, InvalidTicket> {
        let fields: Vec<_> = text.splitn(4, '.').collect();
        let [position, producer, epoch, id] = fields[..] else { return Err(InvalidTicket) };
        let ticket = Self {
            id: id.into(),
            producer: ProducerId(producer.parse().map_err(|_| InvalidTicket)?),
            epoch: ProducerEpoch(epoch.parse().map_err(|_| InvalidTicket)?),
            position: Offset(position.parse().map_err(|_| InvalidTicket)?),
        };
        // One text for each: `+1` and `01` are numbers, too.
        if ticket.to_string() == text && !id.is_empty() { Ok(ticket) } else { Err(InvalidTicket) }
    }
}

/// A text that is no [`Ticket`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a ticket: three numbers and a transactional id are, with dots between them")]
pub struct InvalidTicket;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_has_one_text_and_reads_back_from_it() {
        for text in ["0.0.0.a", "17.1000.32767.billing.eu-1", "9.1.1. "] {
            assert_eq!(text.parse::<Ticket>().map(|ticket| ticket.to_string()), Ok(text.to_owned()));
        }
        let ticket: Ticket = "17.1000.32767.billing.eu-1".parse().unwrap();
        assert_eq!(ticket.transactional_id(), "billing.eu-1");
        for text in ["", "1.2.3", "1.2.3.", "01.2.3.a", "+1.2.3.a", "1.2.32768.a", "-1.2.3.a", "x.2.3.a"] {
            assert_eq!(text.parse::<Ticket>(), Err(InvalidTicket), "{text}");
        }
    }
}
