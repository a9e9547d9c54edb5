//! The block layouts of GGUF, each read into 32 integers with their scales and minima.
//!
//! Must not round anything.

use half::f16;

use super::{BLOCK, BlockType};

/// 32 values: `scale * (quants[i] - centre) + minimum`. Scale and minimum are the units themselves or, of a type that has
/// factors, each unit times its factor for the half that the value is in (of a type that scales by 32: for all).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Decoded {
    pub(super) quants: [u8; BLOCK],
    /// Of the scale and of the minimum.
    pub(super) units: [f32; 2],
    pub(super) factors: [[i8; 2]; 2],
}

/// Decodes one row; `bytes` is a whole number of blocks and `out` has an entry for each 32 values.
pub(super) fn row(kind: BlockType, bytes: &[u8], out: &mut [Decoded]) {
    let outs = out.chunks_exact_mut(kind.block_len() / BLOCK);
    for (bytes, out) in bytes.chunks_exact(kind.block_bytes()).zip(outs) {
        match kind {
            BlockType::Q4_0 => out[0] = narrow(scale(bytes, 0), 0.0, nibbles(&bytes[2..], &[0; 4])),
            BlockType::Q4_1 => {
                out[0] = narrow(scale(bytes, 0), scale(bytes, 2), nibbles(&bytes[4..], &[0; 4]))
            }
            BlockType::Q5_0 => out[0] = narrow(scale(bytes, 0), 0.0, nibbles(&bytes[6..], &bytes[2..6])),
            BlockType::Q5_1 => {
                out[0] = narrow(scale(bytes, 0), scale(bytes, 2), nibbles(&bytes[8..], &bytes[4..8]));
            }
            BlockType::Q8_0 => {
                out[0] = narrow(scale(bytes, 0), 0.0, std::array::from_fn(|i| bytes[2 + i] ^ 0x80))
            }
            BlockType::Q2K => q2_k(bytes, out),
            BlockType::Q3K => q3_k(bytes, out),
            BlockType::Q4K => q4_k(bytes, out),
            BlockType::Q5K => q5_k(bytes, out),
            BlockType::Q6K => q6_k(bytes, out),
        }
    }
}

fn scale(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

fn narrow(scale: f32, minimum: f32, quants: [u8; BLOCK]) -> Decoded {
    Decoded { quants, units: [scale, minimum], factors: [[0; 2]; 2] }
}

/// 16 bytes of low and high halves, a fifth bit for each value from `fifth`.
fn nibbles(bytes: &[u8], fifth: &[u8]) -> [u8; BLOCK] {
    std::array::from_fn(|i| {
        let low = if i < 16 { bytes[i] & 15 } else { bytes[i - 16] >> 4 };
        low | (fifth[i / 8] >> (i % 8) & 1) << 4
    })
}

/// `[scales: 16][quants: 64][d][dmin]`; a scale byte is the factor of `d` below, of `dmin` above.
fn q2_k(bytes: &[u8], out: &mut [Decoded]) {
    let (d, dmin) = (scale(bytes, 80), scale(bytes, 82));
    for (b, out) in out.iter_mut().enumerate() {
        let quants = &bytes[16 + 32 * (b / 4)..];
        out.quants = std::array::from_fn(|i| quants[i] >> (2 * (b % 4)) & 3);
        out.units = [d, -dmin];
        out.factors =
            [[0, 1].map(|h| (bytes[2 * b + h] & 15) as i8), [0, 1].map(|h| (bytes[2 * b + h] >> 4) as i8)];
    }
}

/// `[high bits: 32][quants: 64][scales: 12][d]`.
fn q3_k(bytes: &[u8], out: &mut [Decoded]) {
    let (scales, d) = (&bytes[96..108], scale(bytes, 108));
    for (b, out) in out.iter_mut().enumerate() {
        let quants = &bytes[32 + 32 * (b / 4)..];
        out.quants = std::array::from_fn(|i| (quants[i] >> (2 * (b % 4)) & 3) | (bytes[i] >> b & 1) << 2);
        let factor = |h: usize| {
            let s = 2 * b + h;
            let low = if s < 8 { scales[s] & 15 } else { scales[s - 8] >> 4 };
            (low | (scales[8 + s % 4] >> (2 * (s / 4)) & 3) << 4) as i8 - 32
        };
        out.units = [d, 0.0];
        out.factors = [[factor(0), factor(1)], [0; 2]];
    }
}

/// The six-bit factors of scale and minimum for 32 values `b`, from 12 bytes.
fn factors(bytes: &[u8], b: usize) -> [[i8; 2]; 2] {
    let (scale, minimum) = if b < 4 {
        (bytes[b] & 63, bytes[b + 4] & 63)
    } else {
        (bytes[b + 4] & 15 | (bytes[b - 4] >> 6) << 4, bytes[b + 4] >> 4 | (bytes[b] >> 6) << 4)
    };
    [[scale as i8, 0], [minimum as i8, 0]]
}

/// `[d][dmin][factors: 12][quants: 128]`; 32 bytes hold 32 values below and the next 32 above.
fn q4_k(bytes: &[u8], out: &mut [Decoded]) {
    let (d, dmin) = (scale(bytes, 0), scale(bytes, 2));
    for (b, out) in out.iter_mut().enumerate() {
        let quants = &bytes[16 + 32 * (b / 2)..];
        *out = narrow(d, -dmin, std::array::from_fn(|i| quants[i] >> (4 * (b % 2)) & 15));
        out.factors = factors(&bytes[4..16], b);
    }
}

/// `[d][dmin][factors: 12][fifth bits: 32][quants: 128]`.
fn q5_k(bytes: &[u8], out: &mut [Decoded]) {
    let (d, dmin) = (scale(bytes, 0), scale(bytes, 2));
    for (b, out) in out.iter_mut().enumerate() {
        let quants = &bytes[48 + 32 * (b / 2)..];
        let value = |i: usize| (quants[i] >> (4 * (b % 2)) & 15) | (bytes[16 + i] >> b & 1) << 4;
        *out = narrow(d, -dmin, std::array::from_fn(value));
        out.factors = factors(&bytes[4..16], b);
    }
}

/// `[low: 128][high: 64][scales: 16][d]`; 128 values share 64 low and 32 high bytes.
fn q6_k(bytes: &[u8], out: &mut [Decoded]) {
    let (scales, d) = (&bytes[192..208], scale(bytes, 208));
    for (b, out) in out.iter_mut().enumerate() {
        let low = &bytes[64 * (b / 4) + 32 * (b % 2)..];
        let high = &bytes[128 + 32 * (b / 4)..];
        out.quants =
            std::array::from_fn(|i| (low[i] >> (4 * (b % 4 / 2)) & 15) | (high[i] >> (2 * (b % 4)) & 3) << 4);
        out.units = [d, 0.0];
        out.factors = [[scales[2 * b].cast_signed(), scales[2 * b + 1].cast_signed()], [0; 2]];
    }
}
