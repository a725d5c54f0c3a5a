//! Values as protocol buffers.

use prost::Message;

use super::{Codec, CodecError};

/// Values as protocol buffers, by prost.
///
/// Fields that a message does not have are passed over, and those that bytes do not have are as by default: so most bytes of
/// another message are an error, but not all.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use chiplog::typed::Protobuf;
/// use chiplog::{Log, Offset};
///
/// let log = Log::open(dir.path())?;
/// // prost has messages for what stands alone: a string in field 1.
/// let names = log.topic("names")?.typed::<String, Protobuf>();
/// names.append(&"tea".to_owned())?;
/// let records = names.topic().partition(0)?.read(Offset::ZERO)?;
/// assert_eq!(records.iter().next().unwrap().value, Some(&b"\x0a\x03tea"[..]));
/// assert_eq!(names.iter(&records).next().unwrap().value?.as_deref(), Some("tea"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Protobuf;

impl<T: Message + Default> Codec<T> for Protobuf {
    fn encode(&self, value: &T, into: &mut Vec<u8>) -> Result<(), CodecError> {
        Ok(value.encode(into)?)
    }

    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError> {
        Ok(T::decode(bytes)?)
    }
}
