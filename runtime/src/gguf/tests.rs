//! One good file built by hand, broken in one place at a time.

use super::*;

const LIMITS: Limits =
    Limits { file_bytes: 1 << 20, header_bytes: 1 << 14, keys: 8, tensors: 4, text_bytes: 64 };

/// Writes the format's pieces.
#[derive(Clone, Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn header(version: u32, tensors: u64, keys: u64) -> Self {
        Self(b"GGUF".to_vec()).u32(version).u64(tensors).u64(keys)
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn text(self, text: &str) -> Self {
        self.u64(text.len() as u64).raw(text.as_bytes())
    }

    /// A tensor info; `shape` innermost first, as the file has it.
    fn tensor(self, name: &str, shape: &[u64], element: u32, offset: u64) -> Self {
        let start = self.text(name).u32(shape.len() as u32);
        shape.iter().fold(start, |writer, dim| writer.u64(*dim)).u32(element).u64(offset)
    }

    /// Pads to 32 and adds `data` bytes.
    fn data(mut self, data: usize) -> Vec<u8> {
        self.0.resize(self.0.len().next_multiple_of(32) + data, 0);
        self.0
    }
}

fn read(bytes: &[u8]) -> Result<Header, GgufError> {
    Header::read(bytes, bytes.len() as u64, &LIMITS)
}

#[track_caller]
fn refused(bytes: &[u8], words: &[&str]) {
    let message = read(bytes).unwrap_err().to_string();
    for word in words {
        assert!(message.contains(word), "{message:?} lacks {word:?}");
    }
}

fn good() -> Vec<u8> {
    Writer::header(3, 2, 6)
        .text("general.architecture")
        .u32(8)
        .text("llama")
        .text("n")
        .u32(4)
        .u32(7)
        .text("eps")
        .u32(6)
        .raw(&1e-5f32.to_le_bytes())
        .text("tokens")
        .u32(9)
        .u32(8)
        .u64(2)
        .text("a")
        .text("<0x0A>")
        .text("types")
        .u32(9)
        .u32(5)
        .u64(3)
        .raw(&[1, 0, 0, 0, 255, 255, 255, 255, 3, 0, 0, 0])
        .text("flag")
        .u32(7)
        .raw(&[1])
        .tensor("w", &[64, 2], 3, 0)
        .tensor("v", &[3], 0, 96)
        .data(96 + 12)
}

#[test]
fn a_good_file_is_read_with_shapes_outermost_first() {
    let bytes = good();
    let header = read(&bytes).unwrap();
    let metadata = &header.metadata;
    assert_eq!(metadata.get_str("general.architecture").unwrap(), Some("llama"));
    assert_eq!(metadata.get_u32("n").unwrap(), Some(7));
    assert_eq!(metadata.get_f32("eps").unwrap(), Some(1e-5));
    assert_eq!(metadata.get_bool("flag").unwrap(), Some(true));
    assert_eq!(metadata.get_strings("tokens").unwrap().unwrap(), ["a", "<0x0A>"]);
    assert_eq!(metadata.get_integers("types").unwrap().unwrap(), [1, -1, 3]);
    assert_eq!(metadata.get_u32("absent").unwrap(), None);
    let w = &header.tensors["w"];
    assert_eq!((w.element, w.shape.as_slice()), (Element::Q4_1, [2, 64].as_slice()));
    assert_eq!(w.range.end - w.range.start, 80);
    assert_eq!(header.tensors["v"].range.end, bytes.len() as u64);
}

#[test]
fn every_prefix_of_a_good_file_is_refused() {
    let bytes = good();
    for length in 0..bytes.len() {
        assert!(read(&bytes[..length]).is_err(), "{length} bytes");
    }
}

#[test]
fn accessors_name_the_key_and_what_they_found() {
    let header = read(&good()).unwrap();
    let error = header.metadata.get_u32("tokens").unwrap_err().to_string();
    assert!(
        error.contains("\"tokens\"") && error.contains("whole number") && error.contains("2 texts"),
        "{error}"
    );
    assert!(header.metadata.get_strings("n").unwrap_err().to_string().contains("the number 7"));
    assert!(Metadata::require::<u32>("k", None).unwrap_err().to_string().contains("\"k\" is missing"));
}

#[test]
fn files_of_another_kind_are_refused() {
    refused(b"PK\x03\x04________________", &["not a GGUF"]);
    for version in [0, 1, 4, 3u32.swap_bytes()] {
        refused(&Writer::header(version, 0, 0).data(0), &["version", "2 or 3"]);
    }
    let split = Writer::header(3, 0, 1).text("split.count").u32(2).raw(&2u16.to_le_bytes());
    refused(&split.data(0), &["split.count", "2 files"]);
}

#[test]
fn counts_and_lengths_that_the_file_does_not_hold_are_refused() {
    refused(&Writer::header(3, u64::MAX, 0).data(0), &["tensors", "at most 4"]);
    refused(&Writer::header(3, 0, u64::MAX).data(0), &["keys", "at most 8"]);
    refused(&Writer::header(3, 0, 1).u64(u64::MAX).data(64), &["text", "at most 64"]);
    refused(&Writer::header(3, 0, 1).u64(60).data(8), &["truncated"]);
    for kind in [0, 1, 4, 6, 8, 12] {
        let long = Writer::header(3, 0, 1).text("k").u32(9).u32(kind).u64(u64::MAX / 2);
        refused(&long.data(64), &["truncated", "array"]);
    }
    let wide = Writer::header(3, 0, 1).text("k").u32(9).u32(0).u64(1 << 14);
    refused(&wide.data(1 << 15), &["more than 16384 bytes"]);
    let limits = Limits { file_bytes: 10, ..LIMITS };
    let bytes = good();
    assert!(Header::read(bytes.as_slice(), bytes.len() as u64, &limits).is_err());
}

#[test]
fn values_of_unknown_form_are_refused_with_their_key() {
    refused(&Writer::header(3, 0, 1).text("k").u32(13).data(64), &["\"k\"", "value type 13"]);
    refused(&Writer::header(3, 0, 1).text("k").u32(9).u32(9).u64(1).data(64), &["\"k\"", "array of arrays"]);
    refused(&Writer::header(3, 0, 1).text("k").u32(7).raw(&[2]).data(64), &["\"k\"", "bool"]);
    let twice = Writer::header(3, 0, 2).text("k").u32(4).u32(1).text("k").u32(4).u32(1);
    refused(&twice.data(0), &["\"k\" is a duplicate"]);
    refused(&Writer::header(3, 0, 1).u64(2).raw(&[0xff, 0xfe]).data(64), &["UTF-8"]);
}

#[test]
fn tensors_must_lie_inside_the_data_and_apart() {
    let one = |shape: &[u64], element: u32, offset: u64| {
        Writer::header(3, 1, 0).tensor("w", shape, element, offset)
    };
    refused(&one(&[], 0, 0).data(64), &["\"w\"", "dimensions"]);
    refused(&one(&[1, 1, 1, 1, 1], 0, 0).data(64), &["\"w\"", "dimensions"]);
    refused(&one(&[4], 16, 0).data(64), &["\"w\"", "IQ2_XXS", "Q4_K"]);
    refused(&one(&[4], 4, 0).data(64), &["number 4"]);
    refused(&one(&[33], 3, 0).data(64), &["blocks of 32"]);
    refused(&one(&[0], 0, 0).data(64), &["shape"]);
    refused(&one(&[1 << 40, 1 << 40], 0, 0).data(64), &["overflow"]);
    refused(&one(&[1 << 62], 0, 0).data(64), &["overflow"]);
    refused(&one(&[4], 0, 8).data(64), &["multiple of the alignment 32"]);
    refused(&one(&[17], 0, 0).data(64), &["truncated"]);
    refused(&one(&[4], 0, u64::MAX - 31).data(64), &["truncated"]);
    let two =
        |offset: u64| Writer::header(3, 2, 0).tensor("a", &[16], 0, 0).tensor("b", &[8], 0, offset).data(96);
    refused(&two(32), &["\"b\"", "overlap", "\"a\""]);
    assert!(read(&two(64)).is_ok());
    refused(
        &Writer::header(3, 2, 0).tensor("a", &[8], 0, 0).tensor("a", &[8], 0, 32).data(64),
        &["duplicate"],
    );
}

#[test]
fn a_strange_alignment_is_refused() {
    for alignment in [0, 1, 12, 1 << 30] {
        refused(
            &Writer::header(3, 0, 1).text("general.alignment").u32(4).u32(alignment).data(64),
            &["alignment"],
        );
    }
}
