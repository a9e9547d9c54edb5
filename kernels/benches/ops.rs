//! Rates of the operations beside what this machine can do at most: `cargo bench -p lorikeet-kernels --bench ops [-- WORD [THREADS]]`.
//!
//! Each figure is the best of many runs, so that a busy neighbour does not count. The peak of multiplying is that of register
//! arithmetic of all threads; that of reading is a sum over more memory than the caches hold.
#![allow(unsafe_code, reason = "register arithmetic for the peak")]
#![allow(clippy::print_stdout, reason = "a bench prints")]

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lorikeet_kernels::device::{Device, Isa};
use lorikeet_kernels::gate::{self, Activation};
use lorikeet_kernels::kv_cache::{KvCache, KvDtype};
use lorikeet_kernels::linear::linear;
use lorikeet_kernels::low_rank::{LowRank, Numbers, Piece, Segment, low_rank};
use lorikeet_kernels::matrix::{Dtype, Matrix};
use lorikeet_kernels::paged_attention::{AttentionParams, AttentionSpan, paged_attention};
use lorikeet_kernels::rms_norm::rms_norm;
use lorikeet_kernels::rope::{RopeScaling, RopeTable, rope};
use lorikeet_kernels::tensor::Tensor;

/// How long each figure is measured.
const TIME: Duration = Duration::from_millis(400);

struct Peak {
    /// Multiplications and additions a second, all threads.
    flops: f64,
    /// Bytes read from memory a second, all threads.
    bytes: f64,
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let threads = words.get(1).and_then(|word| word.parse().ok()).unwrap_or(2);
    let dev = Device::new(NonZeroUsize::new(threads).unwrap_or(NonZeroUsize::MIN));
    let peak = Peak { flops: peak_flops(&dev), bytes: peak_bytes(&dev) };
    println!(
        "{:?}, {} threads: {:.0} GFLOP/s in registers, {:.1} GB/s from memory, a region of 2 tasks {:.2} us",
        dev.isa(),
        dev.threads(),
        peak.flops / 1e9,
        peak.bytes / 1e9,
        best(|_| dev.parallel(2, |task| assert!(black_box(task) < 2))) * 1e6
    );
    let wanted = |name: &str| words.first().is_none_or(|word| name.contains(word.as_str()));
    for (name, run) in [
        ("linear", linears as fn(&Device, &Peak)),
        ("attention", attentions),
        ("low_rank", low_ranks),
        ("rows", rows),
    ] {
        if wanted(name) {
            run(&dev, &peak);
        }
    }
}

/// Seconds of the fastest run; it is told its number, to take other memory than the last.
fn best(mut run: impl FnMut(usize)) -> f64 {
    let (start, mut best, mut count) = (Instant::now(), f64::MAX, 0);
    while start.elapsed() < TIME {
        let now = Instant::now();
        run(count);
        count += 1;
        best = best.min(now.elapsed().as_secs_f64());
    }
    best
}

fn report(peak: &Peak, name: &str, seconds: f64, flops: f64, bytes: f64) {
    let (flops_rate, bytes_rate) = (flops / seconds, bytes / seconds);
    println!(
        "{name:<46} {:>9.1} us {:>7.1} GFLOP/s ({:>3.0} %) {:>6.1} GB/s ({:>3.0} %)",
        seconds * 1e6,
        flops_rate / 1e9,
        100.0 * flops_rate / peak.flops,
        bytes_rate / 1e9,
        100.0 * bytes_rate / peak.bytes
    );
}

fn numbers(len: usize, seed: u32) -> Vec<f32> {
    (0..len as u32)
        .map(|i| ((i ^ seed).wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0)
        .collect()
}

fn encode(dtype: Dtype, numbers: &[f32]) -> Vec<u8> {
    match dtype {
        Dtype::F32 => numbers.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Dtype::F16 => numbers.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect(),
        Dtype::Bf16 => numbers.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect(),
    }
}

/// Layers of a 576-wide Llama of 135 million weights: enough of them to leave the caches.
fn linears(dev: &Device, peak: &Peak) {
    for dtype in [Dtype::Bf16, Dtype::F32, Dtype::F16] {
        for (n, k) in [(960, 576), (3072, 576), (576, 1536)] {
            let copies = (96 << 20) / (n * k * dtype.bytes());
            let weights = encode(dtype, &numbers(n * k, 1));
            let layers: Vec<Vec<Matrix>> = (0..copies)
                .map(|_| vec![Matrix::from_plain(dtype, n, k, &weights).expect("a shape that fits")])
                .collect();
            for rows in [1, 2, 6, 25, 128] {
                let x = Tensor::from_slice(rows, k, &numbers(rows * k, 2));
                let mut out = Tensor::zeros(rows, n);
                let seconds = best(|i| linear(dev, &x, &layers[i % copies], None, &mut out));
                let flops = 2.0 * (n * k * rows) as f64;
                report(
                    peak,
                    &format!("linear {dtype:?} [{n}, {k}] x {rows} rows"),
                    seconds,
                    flops,
                    weights.len() as f64,
                );
            }
        }
    }
}

fn attentions(dev: &Device, peak: &Peak) {
    let (heads, kv_heads, dim, block_size) = (9, 3, 64, 16);
    for dtype in [KvDtype::F32, KvDtype::F16] {
        for (sequences, rows, context) in [
            (1, 1, 256),
            (1, 1, 8192),
            (25, 1, 128),
            (25, 1, 1024),
            (1, 64, 64),
            (1, 512, 512),
            (1, 512, 4096),
        ] {
            let blocks = context / block_size;
            let cache = KvCache::new(1, sequences * blocks, block_size, kv_heads, dim, dtype);
            let tables: Vec<Vec<u32>> =
                (0..sequences).map(|s| (0..blocks).map(|b| (s * blocks + b) as u32).collect()).collect();
            let first_position = (context - rows) as u32;
            let spans: Vec<AttentionSpan<'_>> = tables
                .iter()
                .enumerate()
                .map(|(s, blocks)| AttentionSpan { rows: s * rows..(s + 1) * rows, first_position, blocks })
                .collect();
            let total = sequences * rows;
            let q = Tensor::from_slice(total, heads * dim, &numbers(total * heads * dim, 3));
            let mut out = Tensor::zeros(total, heads * dim);
            let params = AttentionParams { heads, scale: 0.125, window: None, soft_cap: None };
            let seconds =
                best(|_| paged_attention(dev, &q, 0..heads * dim, (&cache, 0), &spans, &params, &mut out));
            let met = total as f64 * (context as f64 - (rows as f64 - 1.0) / 2.0);
            let size = if dtype == KvDtype::F32 { 4.0 } else { 2.0 };
            let bytes = (sequences * context * kv_heads * dim * 2) as f64 * size;
            let name = format!("attention {dtype:?} {sequences} x {rows} rows at {context}");
            report(peak, &name, seconds, 4.0 * met * (heads * dim) as f64, bytes);
        }
    }
}

/// An update of some pieces `(columns, rank)` of a linear `[outputs, inputs]`.
fn update(inputs: usize, outputs: usize, pieces: &[(std::ops::Range<usize>, usize)]) -> LowRank {
    let data: Vec<(Vec<u8>, Vec<u8>)> = pieces
        .iter()
        .map(|(columns, rank)| {
            let of = |len| encode(Dtype::F16, &numbers(len, 4));
            (of(rank * inputs), of(rank * columns.len()))
        })
        .collect();
    let pieces = pieces.iter().zip(&data).map(|((columns, rank), (a, b))| Piece {
        columns: columns.clone(),
        rank: *rank,
        a: Numbers { dtype: Dtype::F16, bytes: a },
        b: Numbers { dtype: Dtype::F16, bytes: b },
        scale: 2.0,
        bias: None,
        magnitude: None,
    });
    LowRank::new(inputs, outputs, pieces.collect()).expect("pieces that fit")
}

fn low_ranks(dev: &Device, peak: &Peak) {
    let qv = |rank: usize| update(576, 960, &[(0..576, rank), (768..960, rank)]);
    let gate_up = |rank: usize| update(576, 3072, &[(0..1536, rank), (1536..3072, rank)]);
    let copies = 30;
    for (name, make, ranks) in [
        ("q and v, rank 8", &qv as &dyn Fn(usize) -> LowRank, [8, 8, 8, 8]),
        ("gate and up, ranks 8 to 64", &gate_up, [8, 16, 32, 64]),
    ] {
        for (segments, rows) in [(1, 1), (25, 1), (1, 25), (1, 256)] {
            let layers: Vec<Vec<LowRank>> =
                (0..copies).map(|_| (0..segments).map(|s| make(ranks[(s + 3) % 4])).collect()).collect();
            let total = segments * rows;
            let x = Tensor::from_slice(total, 576, &numbers(total * 576, 5));
            let mut y = Tensor::zeros(total, layers[0][0].outputs());
            let seconds = best(|i| {
                let segments: Vec<Segment<'_>> = (layers[i % copies].iter().enumerate())
                    .map(|(s, update)| Segment { rows: s * rows..(s + 1) * rows, update })
                    .collect();
                low_rank(dev, &x, None, &segments, &mut y);
            });
            let bytes: usize = layers[0].iter().map(LowRank::bytes).sum();
            let name = format!("low_rank {name}: {segments} x {rows} rows");
            report(peak, &name, seconds, (bytes * rows) as f64, bytes as f64);
        }
    }
}

/// Operations on rows: they move little, and should cost next to nothing.
fn rows(dev: &Device, peak: &Peak) {
    for rows in [1, 25, 256] {
        let wide = Tensor::from_slice(rows, 3072, &numbers(rows * 3072, 6));
        let x = Tensor::from_slice(rows, 576, &numbers(rows * 576, 7));
        let (mut gated, mut normed, mut turned) =
            (Tensor::zeros(rows, 1536), Tensor::zeros(rows, 576), Tensor::zeros(rows, 960));
        let weight = numbers(576, 8);
        let table = RopeTable::with_theta(10_000.0, 64, RopeScaling::None);
        let positions: Vec<u32> = (0..rows as u32).collect();
        let len = |cols: usize| (rows * cols * 4) as f64;
        let seconds = best(|_| gate::gated(dev, Activation::Silu, &wide, &mut gated));
        report(peak, &format!("silu gate of 1536, {rows} rows"), seconds, 0.0, len(4608));
        let seconds = best(|_| rms_norm(dev, &x, &weight, false, 1e-5, &mut normed));
        report(peak, &format!("rms_norm of 576, {rows} rows"), seconds, 0.0, len(1152));
        let seconds = best(|_| rope(dev, &table, &positions, &mut turned, 0..768, 64));
        report(peak, &format!("rope of 768, {rows} rows"), seconds, 0.0, len(1536));
        let seconds = best(|_| lorikeet_kernels::add::add(dev, &mut normed, &x));
        report(peak, &format!("add of 576, {rows} rows"), seconds, 0.0, len(1728));
    }
}

fn peak_bytes(dev: &Device) -> f64 {
    const PIECE: usize = 1 << 18;
    let data = vec![1_u64; 128 * PIECE];
    let seconds = best(|i| {
        let piece = &data[i % 128 * PIECE..][..PIECE];
        dev.parallel(16, |task| {
            let part = &piece[task * PIECE / 16..(task + 1) * PIECE / 16];
            let mut sums = [0_u64; 32];
            for line in part.as_chunks::<32>().0 {
                sums.iter_mut().zip(line).for_each(|(sum, x)| *sum = sum.wrapping_add(*x));
            }
            black_box(sums);
        });
    });
    (PIECE * 8) as f64 / seconds
}

fn peak_flops(dev: &Device) -> f64 {
    let (tasks, turns) = (64, 20_000);
    let seconds = best(|_| dev.parallel(tasks, |_| multiply(dev.isa(), turns)));
    let lanes = if dev.isa() >= Isa::Avx512 { 16 } else { 8 };
    (tasks * turns * 12 * lanes * 2) as f64 / seconds
}

/// 12 independent chains of fused multiplications, `turns` long.
fn multiply(isa: Isa, turns: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::*;
        #[target_feature(enable = "avx2,fma")]
        fn narrow(turns: usize) {
            let mut sums = [_mm256_set1_ps(1.0); 12];
            let (x, y) = (black_box(_mm256_set1_ps(0.999)), black_box(_mm256_set1_ps(0.001)));
            for _ in 0..turns {
                sums.iter_mut().for_each(|sum| *sum = _mm256_fmadd_ps(*sum, x, y));
            }
            black_box(sums);
        }
        #[target_feature(enable = "avx512f")]
        fn wide(turns: usize) {
            let mut sums = [_mm512_set1_ps(1.0); 12];
            let (x, y) = (black_box(_mm512_set1_ps(0.999)), black_box(_mm512_set1_ps(0.001)));
            for _ in 0..turns {
                sums.iter_mut().for_each(|sum| *sum = _mm512_fmadd_ps(*sum, x, y));
            }
            black_box(sums);
        }
        match isa {
            Isa::Portable => {}
            // SAFETY: the device has this instruction set.
            Isa::Avx2 => unsafe { narrow(turns) },
            // SAFETY: as above.
            _ => unsafe { wide(turns) },
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (isa, turns);
}
