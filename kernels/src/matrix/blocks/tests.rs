//! Packed blocks against what the Python package `gguf` reads from the same bytes (tests/blocks/make.py).

use super::*;

fn fixture(kind: BlockType) -> (Vec<u8>, Vec<f32>) {
    let file = |extension: &str| {
        let path = format!("{}/tests/blocks/{kind}.{extension}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    let values = file("f32").chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    (file("blocks"), values)
}

#[test]
fn every_type_gives_back_the_values_that_gguf_defines() {
    for kind in BlockType::ALL {
        let (bytes, expected) = fixture(kind);
        let matrix = BlockMatrix::from_blocks(kind, 3, 512, &bytes).unwrap();
        let mut row = vec![0.0; 512];
        for (i, expected) in expected.chunks_exact(512).enumerate() {
            matrix.row(i, &mut row);
            assert_eq!(row, expected, "{kind} row {i}");
        }
    }
}

#[test]
fn rows_land_in_their_own_lane_of_every_tile() {
    for kind in BlockType::ALL {
        let (bytes, expected) = fixture(kind);
        let bytes = bytes.repeat(12);
        let matrix = BlockMatrix::from_blocks(kind, 36, 512, &bytes).unwrap();
        let mut row = vec![0.0; 512];
        for i in 0..36 {
            matrix.row(i, &mut row);
            assert_eq!(row, expected[512 * (i % 3)..][..512], "{kind} row {i}");
        }
    }
}

#[test]
fn a_row_that_is_no_whole_number_of_blocks_is_refused() {
    let error = BlockMatrix::from_blocks(BlockType::Q4K, 2, 576, &[]).unwrap_err();
    assert_eq!(error.to_string(), "Q4_K: rows of 576 values are not a whole number of blocks of 256");
}

#[test]
fn a_size_that_differs_from_the_shape_is_refused() {
    for got in [0, 39, 41, 60] {
        let error = BlockMatrix::from_blocks(BlockType::Q4_1, 2, 32, &vec![0; got]).unwrap_err();
        assert_eq!(error.to_string(), format!("Q4_1: a matrix of 2 x 32 takes 40 bytes, got {got}"));
    }
}

#[test]
fn a_shape_larger_than_memory_is_refused() {
    let error = BlockMatrix::from_blocks(BlockType::Q8_0, usize::MAX / 8, 32, &[]).unwrap_err();
    assert!(matches!(error, BlockError::TooLarge { .. }), "{error}");
}

#[test]
fn a_scale_that_is_not_finite_is_refused_with_its_place() {
    for (kind, at) in [(BlockType::Q4_1, 2), (BlockType::Q8_0, 0), (BlockType::Q4K, 2), (BlockType::Q6K, 208)]
    {
        for bits in [0x7c00_u16, 0xfc00, 0x7e01] {
            let (mut bytes, _) = fixture(kind);
            let last = bytes.len() - kind.block_bytes();
            bytes[last + at..][..2].copy_from_slice(&bits.to_le_bytes());
            let error = BlockMatrix::from_blocks(kind, 3, 512, &bytes).unwrap_err();
            let column = 512 - kind.block_len();
            assert!(
                matches!(error, BlockError::NotFinite { row: 2, column: c, .. } if c >= column),
                "{error}"
            );
        }
    }
}

#[test]
fn the_packed_form_takes_little_more_than_the_file() {
    for (kind, most) in [
        (BlockType::Q4_0, 1.01),
        (BlockType::Q4_1, 1.01),
        (BlockType::Q8_0, 1.01),
        (BlockType::Q4K, 1.04),
        (BlockType::Q6K, 1.32),
        (BlockType::Q5K, 1.6),
    ] {
        let file = 512 * 512 / kind.block_len() * kind.block_bytes();
        let packed = BlockMatrix::zeros(kind, 512, 512).unwrap().bytes();
        assert!((packed as f64) < most * file as f64, "{kind}: {packed} for {file}");
    }
}
