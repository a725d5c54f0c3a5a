//! Values as JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Codec, CodecError};

/// Values as JSON text, by serde.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use std::collections::BTreeMap;
/// use chiplog::typed::Json;
/// use chiplog::{Error, Log, Offset};
///
/// let log = Log::open(dir.path())?;
/// let topic = log.topic("stock")?;
/// let stock = topic.typed::<BTreeMap<String, u32>, Json>();
/// stock.append(&BTreeMap::from([("tea".to_owned(), 12)]))?;
/// topic.append("twelve")?; // by somebody else
/// stock.append(&BTreeMap::new())?;
///
/// let records = topic.partition(0)?.read(Offset::ZERO)?;
/// let read: Vec<_> = stock.iter(&records).map(|record| record.value).collect();
/// assert_eq!(read[0].as_ref().unwrap().as_ref().unwrap()["tea"], 12);
/// assert!(matches!(read[1], Err(Error::NotDecoded { offset: Offset(1), .. })));
/// assert!(read[2].is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Json;

impl<T: Serialize + DeserializeOwned> Codec<T> for Json {
    fn encode(&self, value: &T, into: &mut Vec<u8>) -> Result<(), CodecError> {
        Ok(serde_json::to_writer(into, value)?)
    }

    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError> {
        Ok(serde_json::from_slice(bytes)?)
    }
}
