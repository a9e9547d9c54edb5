//! One good file, broken in one place at a time.

use super::*;

const LIMITS: Limits = Limits { file_bytes: 1 << 20, header_bytes: 1 << 16, tensors: 16 };

fn file(header: &str, data: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.resize(file.len() + data, 0);
    file
}

fn two(first: &str, second: &str) -> String {
    format!(r#"{{"__metadata__":{{"format":"pt"}},"a":{first},"b":{second}}}"#)
}

const A: &str = r#"{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}"#;
const B: &str = r#"{"dtype":"BF16","shape":[3],"data_offsets":[16,22]}"#;

fn refusal(bytes: &[u8]) -> String {
    Header::parse(bytes, &LIMITS).unwrap_err().to_string()
}

#[track_caller]
fn refused(header: &str, data: usize, words: &[&str]) {
    let message = refusal(&file(header, data));
    for word in words {
        assert!(message.contains(word), "{message:?} lacks {word:?}");
    }
}

#[test]
fn a_good_file_is_read_with_ranges_from_its_start() {
    let header = two(A, B);
    let bytes = file(&header, 22);
    let read = Header::parse(&bytes, &LIMITS).unwrap();
    let start = 8 + header.len() as u64;
    assert_eq!(read.tensors["a"].range, start..start + 16);
    assert_eq!(read.tensors["b"].dtype, TensorDtype::Bf16);
    assert_eq!(read.tensors["b"].shape, [3]);
    assert_eq!(read.metadata["format"], "pt");
}

#[test]
fn padding_after_the_header_and_empty_tensors_are_allowed() {
    let empty = r#"{"dtype":"F32","shape":[0,4],"data_offsets":[16,16]}"#;
    assert!(Header::parse(&file(&format!("{}   ", two(A, empty)), 16), &LIMITS).is_ok());
    assert!(Header::parse(&file("{}", 0), &LIMITS).unwrap().tensors.is_empty());
}

#[test]
fn a_header_length_beyond_the_file_or_the_limit_is_refused_before_it_is_allocated() {
    assert!(refusal(&[]).contains("empty"));
    assert!(refusal(&[1, 2, 3, 4, 5]).contains("too small"));
    for length in [23, u64::MAX, i64::MAX as u64, 1 << 40] {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend([b' '; 22]);
        assert!(refusal(&bytes).contains("header length"), "{length}");
    }
    let long = file(&format!("{{}}{}", " ".repeat(1 << 16)), 0);
    assert!(refusal(&long).contains("at most 65536"));
    let limits = Limits { file_bytes: 10, ..LIMITS };
    assert!(Header::parse(&file(&two(A, B), 22), &limits).unwrap_err().to_string().contains("at most 10"));
}

#[test]
fn a_reader_that_ends_early_is_refused() {
    let bytes = file(&two(A, B), 22);
    let mut short = &bytes[..40];
    assert!(
        Header::read(&mut short, bytes.len() as u64, &LIMITS)
            .unwrap_err()
            .to_string()
            .contains("header length")
    );
}

#[test]
fn a_header_that_is_not_its_json_is_refused() {
    for header in
        ["", "garbage", " {}", "[]", "null", "{", "{\"a\":", "{}x", "{\"a\":1}", "{\"a\":[]}", "{} {}"]
    {
        refused(header, 0, &["header", "JSON"]);
    }
    refused(&format!("{{\"a\":{}", "[".repeat(60_000)), 0, &["JSON"]);
    refused(&format!("{}{}", "{\"a\":".repeat(9_000), "}".repeat(9_000)), 0, &["JSON"]);
    let mut bad_utf8 = file("{\"a\":1}", 0);
    bad_utf8[10] = 0xff;
    assert!(refusal(&bad_utf8).contains("JSON"));
}

#[test]
fn an_entry_must_have_its_three_fields_once_and_in_whole_numbers() {
    for entry in [
        r#"{"dtype":"F32","shape":[2,2]}"#,
        r#"{"shape":[2,2],"data_offsets":[0,16]}"#,
        r#"{"dtype":"F32","data_offsets":[0,16]}"#,
        r#"{"dtype":"F32","shape":[2,-2],"data_offsets":[0,16]}"#,
        r#"{"dtype":"F32","shape":[2,2.0],"data_offsets":[0,16]}"#,
        r#"{"dtype":"F32","shape":["2",2],"data_offsets":[0,16]}"#,
        r#"{"dtype":"F32","shape":[[2],2],"data_offsets":[0,16]}"#,
        r#"{"dtype":"F32","shape":4,"data_offsets":[0,16]}"#,
        r#"{"dtype":"F32","shape":[2,2],"data_offsets":[0,16,32]}"#,
        r#"{"dtype":"F32","shape":[2,2],"data_offsets":[0]}"#,
        r#"{"dtype":"F32","shape":[2,2],"data_offsets":[-1,15]}"#,
        r#"{"dtype":"F32","shape":[2,2],"data_offsets":[0,18446744073709551616]}"#,
        r#"{"dtype":"F32","dtype":"F32","shape":[2,2],"data_offsets":[0,16]}"#,
        r#"{"dtype":"F32","shape":[2,2],"data_offsets":[0,16],"extra":1}"#,
        r#"{"dtype":7,"shape":[2,2],"data_offsets":[0,16]}"#,
    ] {
        refused(&two(entry, B), 22, &["JSON", "\"a\""]);
    }
    refused(r#"{"__metadata__":{"a":1}}"#, 0, &["JSON"]);
    refused(&two(r#"{"dtype":"Q4","shape":[2,2],"data_offsets":[0,16]}"#, B), 22, &["dtype", "\"Q4\""]);
}

#[test]
fn a_name_twice_is_refused() {
    refused(&format!(r#"{{"a":{A},"a":{A}}}"#), 16, &["duplicate", "\"a\""]);
    refused(r#"{"__metadata__":{},"__metadata__":{}}"#, 0, &["duplicate"]);
    refused(&format!(r#"{{"a":{A},"\u0061":{A}}}"#), 16, &["duplicate"]);
}

#[test]
fn more_tensors_than_the_limit_are_refused() {
    let entries: Vec<String> =
        (0..17).map(|i| format!(r#""t{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#)).collect();
    refused(&format!("{{{}}}", entries.join(",")), 0, &["more than 16 tensors"]);
}

#[test]
fn offsets_must_tile_the_data() {
    let at =
        |begin: u64, end: u64| format!(r#"{{"dtype":"BF16","shape":[3],"data_offsets":[{begin},{end}]}}"#);
    refused(&two(A, &at(22, 16)), 22, &["offsets", "reversed"]);
    refused(&two(A, &at(16, 22)), 21, &["offset", "size", "truncated"]);
    refused(&two(A, &at(u64::MAX - 6, u64::MAX)), 22, &["offset", "size"]);
    refused(&two(A, &at(14, 20)), 22, &["overlap", "\"b\""]);
    refused(&two(A, &at(17, 23)), 23, &["begin at 17, expected 16"]);
    refused(&two(A, B), 23, &["cover", "trailing"]);
}

#[test]
fn shapes_must_fit_the_offsets() {
    let shaped = |shape: &str| format!(r#"{{"dtype":"BF16","shape":{shape},"data_offsets":[16,22]}}"#);
    refused(&two(A, &shaped("[4]")), 22, &["shape", "size", "8 bytes", "span 6"]);
    refused(&two(A, &shaped("[4294967296,4294967296,4]")), 22, &["shape", "overflow"]);
    refused(&two(A, &shaped("[0,4294967296,4294967296,4]")), 22, &["shape", "overflow"]);
    refused(&two(A, &shaped("[1,1,1,1,1,1,1,1,3]")), 22, &["shape", "dimensions"]);
    assert!(Header::parse(&file(&two(A, &shaped("[1,3,1]")), 22), &LIMITS).is_ok());
}

#[test]
fn every_bad_file_of_the_golden_suite_is_refused_with_a_word_that_it_advises() {
    let bad = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/golden/bad");
    let readme: serde_json::Value =
        serde_json::from_slice(&std::fs::read(bad.join("README.json")).unwrap()).unwrap();
    let limits = Limits { file_bytes: 1 << 30, header_bytes: 1 << 20, tensors: 1 << 12 };
    let faults = [
        "header_len_beyond_file",
        "header_len_u64_max",
        "header_not_json",
        "overlapping_offsets",
        "offsets_reversed",
        "offsets_beyond_file",
        "shape_overflow",
        "shape_vs_bytes",
        "truncated",
        "truncated_header",
        "empty_file",
        "trailing_bytes",
        "duplicate_key",
    ];
    for entry in readme["adapters"].as_array().unwrap() {
        let name = entry["dir"].as_str().unwrap();
        let path = bad.join(name).join("adapter_model.safetensors");
        if !path.exists() {
            continue;
        }
        let opened = SafetensorsFile::open(&path, &limits);
        if !faults.contains(&name) {
            assert!(opened.is_ok(), "{name}: {}", opened.unwrap_err());
            continue;
        }
        let message = opened.unwrap_err().to_string().to_lowercase();
        let words = entry["error_should_mention"].as_array().unwrap();
        assert!(
            words.iter().any(|word| message.contains(&word.as_str().unwrap().to_lowercase())),
            "{name}: {message}"
        );
    }
}

#[test]
fn a_file_is_read_by_range() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let mut bytes = file(&two(A, B), 22);
    let end = bytes.len();
    bytes[end - 6..].copy_from_slice(b"parrot");
    std::fs::write(&path, &bytes).unwrap();
    let opened = SafetensorsFile::open(&path, &LIMITS).unwrap();
    let mut buffer = Vec::new();
    opened.read_range(opened.header().tensors["b"].range.clone(), &mut buffer).unwrap();
    assert_eq!(buffer, b"parrot");
}
