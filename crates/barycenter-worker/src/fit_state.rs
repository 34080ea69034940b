//! Saved states of fits, bound to the projection that they belong to.
//!
//! `X` means something along the directions of one projection alone: a state of another one is not resumed. What is sent is the magic
//! `BARYFIT+` (8), the BLAKE3 digest of the projection's key (32), then the state.

const MAGIC: &[u8; 8] = b"BARYFIT+";

/// A state with the key of its projection.
pub(crate) fn bind(projection_key: &str, state: &[u8]) -> Vec<u8> {
    [MAGIC.as_slice(), blake3::hash(projection_key.as_bytes()).as_bytes(), state].concat()
}

/// The state in these bytes; `None` where it belongs to another projection, or is from before states were bound.
pub(crate) fn of_projection<'a>(projection_key: &str, bytes: &'a [u8]) -> Option<&'a [u8]> {
    bytes.strip_prefix(MAGIC)?.strip_prefix(blake3::hash(projection_key.as_bytes()).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_under_the_key_that_it_was_bound_to_and_no_other() {
        let bound = bind("one", b"state");
        assert_eq!(of_projection("one", &bound), Some(b"state".as_slice()));
        assert_eq!(of_projection("another", &bound), None);
        assert_eq!(of_projection("one", b"BARYJOB2 and the rest"), None);
    }
}
