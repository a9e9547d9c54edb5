//! How fast linears over quantized blocks are. usage: cargo bench -p lorikeet-kernels --bench quant -- [THREADS] [SmolLM2] [TYPE]…
//!
//! Prints the linear layers of SmolLM2-135M (as its Q4_1 file has them) at several numbers of rows, then each type's
//! kernel alone; every time is the best of some runs, of each linear by itself. `peak` is what one core does in a loop of nothing but the kernel's three
//! instructions (broadcast, multiply, add), times the threads.
#![allow(clippy::print_stdout, reason = "a bench prints")]
#![allow(unsafe_code, reason = "the peak is measured with the kernel's instructions")]

use std::num::NonZeroUsize;
use std::time::Instant;

use lorikeet_kernels::device::Device;
use lorikeet_kernels::linear::linear;
use lorikeet_kernels::matrix::{BlockType, Matrix};
use lorikeet_kernels::tensor::Tensor;

const ROWS: [usize; 13] = [1, 2, 3, 4, 6, 8, 12, 16, 25, 32, 64, 128, 256];

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).peekable();
    let threads =
        arguments.next_if(|argument| argument.parse::<usize>().is_ok()).and_then(|a| a.parse().ok());
    let threads = threads.or(std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN);
    let types: Vec<String> = arguments.collect();
    let dev = Device::new(threads);
    let core = peak();
    let peak = core * threads.get() as f64;
    println!("{:?}, {threads} threads, peak {peak:.0} GOPS", dev.isa());
    if types.is_empty() || types.iter().any(|name| name == "SmolLM2") {
        smollm2(&dev, peak);
    }
    for kind in BlockType::ALL {
        if types.is_empty() || types.iter().any(|name| name == kind.name()) {
            one_type(core, kind);
        }
    }
}

/// The linears of a step: each site's parts with their common input length.
fn smollm2(dev: &Device, peak: f64) {
    const Q: BlockType = BlockType::Q4_1;
    let layer = || {
        [
            vec![weights(Q, 576, 576), weights(Q, 192, 576), weights(Q, 192, 576)],
            vec![weights(Q, 576, 576)],
            vec![weights(Q, 1536, 576), weights(Q, 1536, 576)],
            vec![weights(Q, 576, 1536)],
        ]
    };
    let layers: Vec<Vec<Matrix>> = (0..30).flat_map(|_| layer()).collect();
    let head = vec![vec![weights(BlockType::Q8_0, 49152, 576)]];
    println!("SmolLM2-135M: layers (Q4_1), head (Q8_0), both");
    for rows in ROWS {
        let (layers, head) = (measure(dev, rows, &layers), measure(dev, rows, &head));
        let both = Run { seconds: layers.seconds + head.seconds, bytes: layers.bytes + head.bytes, ..layers };
        let both = Run { operations: layers.operations + head.operations, ..both };
        println!("{rows:4} rows: {} | {} | {}", layers.show(peak), head.show(peak), both.show(peak));
    }
}

/// Sixteen tiles that stay in the second-level cache, on one core: what the kernel itself does.
fn one_type(peak: f64, kind: BlockType) {
    let dev = Device::new(NonZeroUsize::MIN);
    let sites = [vec![weights(kind, 256, 768)]];
    print!("{kind} in cache, one core, GOPS at rows:");
    for rows in [1, 2, 3, 4, 5, 6, 8, 25, 64] {
        let run = (0..400).map(|_| measure(&dev, rows, &sites));
        let best = run.fold(f64::INFINITY, |best, run| best.min(run.seconds));
        print!(" {rows}: {:.0}", 2.0 * (256 * 768 * rows) as f64 / best * 1e-9);
    }
    println!(" of {peak:.0}");
}

struct Run {
    rows: usize,
    seconds: f64,
    bytes: usize,
    operations: f64,
}

impl Run {
    fn show(&self, peak: f64) -> String {
        let gops = self.operations / self.seconds * 1e-9;
        format!(
            "{:7.0} rows/s {:7.3} ms {:5.1} GB/s {gops:4.0} GOPS {:3.0} %",
            self.rows as f64 / self.seconds,
            self.seconds * 1e3,
            self.bytes as f64 / self.seconds * 1e-9,
            gops / peak * 100.0
        )
    }
}

/// All `sites` one after the other, again and again; the sum of each one's best time, so that other work on the machine
/// counts little.
fn measure(dev: &Device, rows: usize, sites: &[Vec<Matrix>]) -> Run {
    let n = |parts: &[Matrix]| parts.iter().map(Matrix::n).sum::<usize>();
    let operations: f64 = sites.iter().flatten().map(|part| 2.0 * (part.n() * part.k() * rows) as f64).sum();
    let mut buffers: Vec<(Tensor, Tensor)> = sites
        .iter()
        .take(4)
        .map(|parts| (input(rows, parts[0].k()), Tensor::zeros(rows, n(parts))))
        .collect();
    let mut best = vec![f64::INFINITY; sites.len()];
    for _ in 0..if operations > 3e10 { 8 } else { 24 } {
        for (i, (parts, best)) in sites.iter().zip(&mut best).enumerate() {
            let (x, out) = &mut buffers[i % 4];
            let start = Instant::now();
            linear(dev, x, parts, None, out);
            *best = best.min(start.elapsed().as_secs_f64());
        }
    }
    let best = best.iter().sum();
    Run { rows, seconds: best, bytes: sites.iter().flatten().map(Matrix::bytes).sum(), operations }
}

fn input(rows: usize, k: usize) -> Tensor {
    let values: Vec<f32> = (0..rows * k).map(|i| (i as f32 * 0.37).sin()).collect();
    Tensor::from_slice(rows, k, &values)
}

/// Any bytes do, so long as every f16 in them is finite.
fn weights(kind: BlockType, n: usize, k: usize) -> Matrix {
    let bytes: Vec<u8> =
        (0..n * k / kind.block_len() * kind.block_bytes()).map(|i| (i * 7 % 59) as u8).collect();
    match Matrix::from_blocks(kind, n, k, &bytes) {
        Ok(matrix) => matrix,
        Err(error) => unreachable!("{error}"),
    }
}

/// Billions of multiplications and additions per second of one core, or NaN where that is not known.
fn peak() -> f64 {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has it.
            return best_of(|turns| unsafe { vnni(turns) }) * 128.0;
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has it.
            return best_of(|turns| unsafe { avx2(turns) }) * 64.0;
        }
    }
    f64::NAN
}

/// Steps per nanosecond; a turn has eight.
fn best_of(work: impl Fn(usize) -> i32) -> f64 {
    const TURNS: usize = 20_000;
    let time = |_| {
        let start = Instant::now();
        std::hint::black_box(work(TURNS));
        start.elapsed().as_secs_f64()
    };
    (TURNS * 8) as f64 / (0..200).map(time).fold(f64::INFINITY, f64::min) * 1e-9
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn avx2(turns: usize) -> i32 {
    use std::arch::x86_64::*;
    let (inputs, weights) = (std::hint::black_box([3_i32; 8]), _mm256_set1_epi8(5));
    let mut sums = [_mm256_setzero_si256(); 8];
    for _ in 0..turns {
        for (sum, input) in sums.iter_mut().zip(std::hint::black_box(&inputs)) {
            *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(weights, _mm256_set1_epi32(*input)));
        }
    }
    sums.iter().map(|sum| _mm256_extract_epi32(*sum, 0)).fold(0, i32::wrapping_add)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn vnni(turns: usize) -> i32 {
    use std::arch::x86_64::*;
    let (inputs, weights) = (std::hint::black_box([3_i32; 8]), _mm512_set1_epi8(5));
    let mut sums = [_mm512_setzero_si512(); 8];
    for _ in 0..turns {
        for (sum, input) in sums.iter_mut().zip(std::hint::black_box(&inputs)) {
            *sum = _mm512_dpbusd_epi32(*sum, weights, _mm512_set1_epi32(*input));
        }
    }
    sums.iter().map(|sum| _mm512_reduce_add_epi32(*sum)).fold(0, i32::wrapping_add)
}
