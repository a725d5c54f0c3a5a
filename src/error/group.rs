//! What a coordinator refuses, in Kafka's words.

use super::ErrorKind;

/// Why a request was refused, by the name and with the code that Kafka's clients know.
///
/// ```
/// use chiplog::group::GroupError;
///
/// assert_eq!(GroupError::FencedInstanceId.code(), 82);
/// assert_eq!(GroupError::IllegalGeneration.to_string(), "the generation is not the group's");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// What was asked for cannot be stored. Asking again does not help.
    #[error("the request cannot be stored")]
    UnknownServerError,
    /// The text beside an offset is longer than allowed; Kafka: `offset.metadata.max.bytes`. The other offsets of the
    /// request were committed.
    #[error("the metadata of the offset is too long")]
    OffsetMetadataTooLarge,
    /// What is known of groups is not all read yet. Ask again later.
    #[error("the coordinator is loading")]
    CoordinatorLoadInProgress,
    /// The group is being deleted, or a record could not be stored. Ask again later.
    #[error("the coordinator is not available")]
    CoordinatorNotAvailable,
    /// The group is coordinated elsewhere. Find its coordinator anew.
    #[error("this is not the group's coordinator")]
    NotCoordinator,
    /// The member is of another generation: it missed a rebalance. It owns nothing any more, and joins again.
    #[error("the generation is not the group's")]
    IllegalGeneration,
    /// No protocol is supported by all members, or the type of protocols is another one.
    #[error("the protocols do not fit those of the group")]
    InconsistentGroupProtocol,
    /// The id cannot be a group's.
    #[error("the group id is invalid")]
    InvalidGroupId,
    /// There is no such member (any more). It joins again, without an id.
    #[error("the member is not known")]
    UnknownMemberId,
    /// The session time-out is out of range; Kafka: `group.min.session.timeout.ms`, `group.max.session.timeout.ms`.
    #[error("the session time-out is out of range")]
    InvalidSessionTimeout,
    /// The group is rebalancing. A member joins again, with its id.
    #[error("a rebalance is in progress")]
    RebalanceInProgress,
    /// A field is longer, or a number larger, than the stored form can hold.
    #[error("the request is invalid")]
    InvalidRequest,
    /// The transactional producer was fenced by another: it must stop. The caller's answer, of what it could not append.
    #[error("the epoch of the producer is fenced")]
    InvalidProducerEpoch,
    /// The group has members.
    #[error("the group is not empty")]
    NonEmptyGroup,
    /// There is no such group.
    #[error("the group does not exist")]
    GroupIdNotFound,
    /// A new member joins again with the id that the answer brought it (KIP-394). The answer is
    /// [`Answer::MemberIdRequired`](crate::group::Answer::MemberIdRequired), which has the id.
    #[error("a member joins with an id")]
    MemberIdRequired,
    /// The group has as many members as it may; Kafka: `group.max.size`.
    #[error("the group is full")]
    GroupMaxSizeReached,
    /// Another member joined under the same instance id, and took this one's place (KIP-345). It must stop.
    #[error("another member has the instance id")]
    FencedInstanceId,
    /// A member reads the topic, so its offsets stay.
    #[error("the group is subscribed to the topic")]
    GroupSubscribedToTopic,
    /// A transaction that is not over may change the offset. Ask again later.
    #[error("a transaction is about to change the offset")]
    UnstableOffsetCommit,
}

impl GroupError {
    /// Kafka's number of the error, as it stands in the answers of a broker.
    #[must_use]
    pub fn code(self) -> i16 {
        match self {
            Self::UnknownServerError => -1,
            Self::OffsetMetadataTooLarge => 12,
            Self::CoordinatorLoadInProgress => 14,
            Self::CoordinatorNotAvailable => 15,
            Self::NotCoordinator => 16,
            Self::IllegalGeneration => 22,
            Self::InconsistentGroupProtocol => 23,
            Self::InvalidGroupId => 24,
            Self::UnknownMemberId => 25,
            Self::InvalidSessionTimeout => 26,
            Self::RebalanceInProgress => 27,
            Self::InvalidRequest => 42,
            Self::InvalidProducerEpoch => 47,
            Self::NonEmptyGroup => 68,
            Self::GroupIdNotFound => 69,
            Self::MemberIdRequired => 79,
            Self::GroupMaxSizeReached => 81,
            Self::FencedInstanceId => 82,
            Self::GroupSubscribedToTopic => 86,
            Self::UnstableOffsetCommit => 88,
        }
    }

    /// What can be done about it, in the words of this crate's own errors.
    ///
    /// | Reason | Kind |
    /// |---|---|
    /// | `RebalanceInProgress`, `UnstableOffsetCommit`, `CoordinatorLoadInProgress`, `CoordinatorNotAvailable`, `NotCoordinator` | `Retry` |
    /// | `MemberIdRequired`, `GroupMaxSizeReached`, `NonEmptyGroup`, `GroupSubscribedToTopic` | `Retry` |
    /// | `IllegalGeneration`, `UnknownMemberId`, `FencedInstanceId`, `InvalidProducerEpoch` | `Fenced` |
    /// | `UnknownServerError`, `OffsetMetadataTooLarge`, `InconsistentGroupProtocol`, `InvalidGroupId`, `InvalidSessionTimeout`, `InvalidRequest`, `GroupIdNotFound` | `Invalid` |
    ///
    /// `Retry` and `Fenced` of a commit of a [`Consumer`](crate::Consumer) mean the same: poll on. A member that is out joins
    /// again in polls, but for one whose [instance id](crate::ConsumerBuilder::instance_id) another has: its polls fail with
    /// `FencedInstanceId`, and it stops.
    ///
    /// ```
    /// use chiplog::ErrorKind;
    /// use chiplog::group::GroupError;
    ///
    /// assert_eq!(GroupError::RebalanceInProgress.kind(), ErrorKind::Retry);
    /// assert_eq!(GroupError::FencedInstanceId.kind(), ErrorKind::Fenced);
    /// ```
    #[must_use]
    pub fn kind(self) -> ErrorKind {
        match self {
            Self::CoordinatorLoadInProgress
            | Self::CoordinatorNotAvailable
            | Self::NotCoordinator
            | Self::RebalanceInProgress
            | Self::MemberIdRequired
            | Self::UnstableOffsetCommit
            | Self::NonEmptyGroup
            | Self::GroupSubscribedToTopic
            | Self::GroupMaxSizeReached => ErrorKind::Retry,
            Self::IllegalGeneration | Self::UnknownMemberId | Self::FencedInstanceId | Self::InvalidProducerEpoch => {
                ErrorKind::Fenced
            }
            Self::UnknownServerError
            | Self::OffsetMetadataTooLarge
            | Self::InconsistentGroupProtocol
            | Self::InvalidGroupId
            | Self::InvalidSessionTimeout
            | Self::InvalidRequest
            | Self::GroupIdNotFound => ErrorKind::Invalid,
        }
    }
}
