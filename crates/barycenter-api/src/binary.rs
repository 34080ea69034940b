//! Binary values inside JSON: base64 of little-endian bytes, so that numbers survive bit for bit.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// Opaque bytes, written as base64.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bytes64(pub Vec<u8>);

/// A vector of f64 values, written as base64 of their little-endian bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Floats(pub Vec<f64>);

impl Serialize for Bytes64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Self).map_err(|e| D::Error::custom(format!("not base64: {e}")))
    }
}

impl Floats {
    /// Little-endian bytes of the values, eight a value.
    pub fn to_le_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    /// Reads what [`Floats::to_le_bytes`] wrote; `None` where the length is no multiple of eight.
    pub fn from_le_bytes(bytes: &[u8]) -> Option<Self> {
        let (values, rest) = bytes.as_chunks::<8>();
        rest.is_empty().then(|| Self(values.iter().map(|v| f64::from_le_bytes(*v)).collect()))
    }
}

impl Serialize for Floats {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(self.to_le_bytes()))
    }
}

impl<'de> Deserialize<'de> for Floats {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Bytes64::deserialize(deserializer)?;
        Self::from_le_bytes(&bytes.0).ok_or_else(|| D::Error::custom("length is not a multiple of eight bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_survive_json_bit_for_bit() {
        let floats = Floats(vec![0.1, -0.0, f64::MIN_POSITIVE, 1.0 / 3.0]);
        let text = serde_json::to_string(&floats).unwrap();
        let back: Floats = serde_json::from_str(&text).unwrap();
        assert_eq!(floats.to_le_bytes(), back.to_le_bytes());
    }

    #[test]
    fn a_torn_vector_is_refused() {
        let error = serde_json::from_str::<Floats>("\"AAAA\"").unwrap_err();
        assert!(error.to_string().contains("multiple of eight"), "{error}");
    }
}
