//! The size of an adapter's weights by the first bytes of its file: what is in memory then is all but the header. Pure.

/// Bytes that say how long the header is.
pub(super) const START: usize = 8;

/// Bytes of the tensors in a safetensors file of `length` bytes that begins with `start`; nothing where it is no such
/// file.
#[must_use]
pub(super) fn size(length: u64, start: [u8; START]) -> Option<u64> {
    tensors(length, u64::from_le_bytes(start))
}

/// As [`size`], of a file whose header has `header` bytes.
#[must_use]
pub(super) fn tensors(length: u64, header: u64) -> Option<u64> {
    length.checked_sub(START as u64)?.checked_sub(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_not_in_memory() {
        assert_eq!(size(1000, 92_u64.to_le_bytes()), Some(900));
        assert_eq!(size(100, 92_u64.to_le_bytes()), Some(0));
        assert_eq!(size(99, 92_u64.to_le_bytes()), None);
        assert_eq!(size(3, [0xff; START]), None);
    }
}
