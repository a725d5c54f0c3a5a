//! Values as Avro.

use std::fmt;

use apache_avro::headers::{HeaderBuilder, RabinFingerprintHeader};
use apache_avro::{AvroSchema, Schema, SpecificSingleObjectReader, write_avro_datum_ref};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Codec, CodecError};

/// Values as Avro, in its single-object encoding: ten bytes say which schema follows, so that bytes of another schema are an
/// error and not another value. The schema is the one that the type derives.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use apache_avro::AvroSchema;
/// use apache_avro::schema::Schema;
/// use chiplog::typed::Avro;
/// use chiplog::{Error, Log, Offset};
///
/// #[derive(serde::Serialize, serde::Deserialize, Debug, PartialEq)]
/// struct Price {
///     cents: i64,
/// }
///
/// impl AvroSchema for Price {
///     fn get_schema() -> Schema {
///         let text = r#"{"type": "record", "name": "Price", "fields": [{"name": "cents", "type": "long"}]}"#;
///         Schema::parse_str(text).unwrap()
///     }
/// }
///
/// let log = Log::open(dir.path())?;
/// let prices = log.topic("prices")?.typed::<Price, Avro<Price>>();
/// prices.append(&Price { cents: 480 })?;
/// prices.append(&Price { cents: 520 })?;
/// prices.topic().append("480")?; // by somebody else
/// let records = prices.topic().partition(0)?.read(Offset::ZERO)?;
/// let read: Vec<_> = prices.iter(&records).map(|record| record.value).collect();
/// assert_eq!(read[0].as_ref().unwrap(), &Some(Price { cents: 480 }));
/// assert_eq!(read[1].as_ref().unwrap(), &Some(Price { cents: 520 }));
/// assert!(matches!(read[2], Err(Error::NotDecoded { offset: Offset(2), .. })));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Avro<T: AvroSchema> {
    /// Or why the schema cannot be used.
    made: Result<Made<T>, Box<str>>,
}

struct Made<T: AvroSchema> {
    /// Which schema follows.
    header: Vec<u8>,
    schema: Schema,
    reader: SpecificSingleObjectReader<T>,
}

impl<T: AvroSchema> fmt::Debug for Avro<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Avro")
    }
}

impl<T: AvroSchema> Default for Avro<T> {
    fn default() -> Self {
        let make = || {
            let schema = T::get_schema();
            let header = RabinFingerprintHeader::from_schema(&schema).build_header();
            Ok(Made { header, schema, reader: SpecificSingleObjectReader::new()? })
        };
        Self { made: make().map_err(|error: apache_avro::Error| error.to_string().into()) }
    }
}

impl<T: AvroSchema> Avro<T> {
    fn made(&self) -> Result<&Made<T>, CodecError> {
        self.made.as_ref().map_err(|reason| CodecError::from(&**reason))
    }
}

impl<T: AvroSchema + Serialize + DeserializeOwned> Codec<T> for Avro<T> {
    fn encode(&self, value: &T, into: &mut Vec<u8>) -> Result<(), CodecError> {
        // Not by the crate's own writer of such objects, which puts the header before its first value only.
        let made = self.made()?;
        into.extend_from_slice(&made.header);
        write_avro_datum_ref(&made.schema, value, into)?;
        Ok(())
    }

    fn decode(&self, mut bytes: &[u8]) -> Result<T, CodecError> {
        let value = self.made()?.reader.read(&mut bytes)?;
        match bytes.len() {
            0 => Ok(value),
            left => Err(format!("{left} bytes follow the value").into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use apache_avro::Schema;

    use super::*;

    #[derive(serde::Serialize, serde::Deserialize, Debug, PartialEq)]
    struct Price {
        cents: i64,
    }

    impl AvroSchema for Price {
        fn get_schema() -> Schema {
            let text = r#"{"type": "record", "name": "Price", "fields": [{"name": "cents", "type": "long"}]}"#;
            Schema::parse_str(text).unwrap()
        }
    }

    /// Only the first value of a codec had the header that says of which schema it is: all others were stored, and none could
    /// be read again.
    #[test]
    fn each_value_says_of_which_schema_it_is() {
        let codec = Avro::<Price>::default();
        for cents in [480, -1, 480] {
            let mut bytes = Vec::new();
            codec.encode(&Price { cents }, &mut bytes).unwrap();
            assert_eq!(codec.decode(&bytes).unwrap(), Price { cents });
        }
    }
}
