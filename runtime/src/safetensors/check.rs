//! Holds a header against its file: every byte of the data belongs to exactly one tensor. Pure.

use std::collections::BTreeMap;

use super::json::{RawHeader, RawTensor};
use super::{Header, SafetensorsError, TensorDtype, TensorInfo};

/// More dimensions than any weight has.
const MAX_DIMENSIONS: usize = 8;

/// Checks `raw` against `data` bytes that begin at `data_start` of the file.
pub(super) fn check(raw: RawHeader, data_start: u64, data: u64) -> Result<Header, SafetensorsError> {
    let mut tensors = BTreeMap::new();
    for (name, tensor) in raw.tensors {
        let info = check_tensor(&name, tensor, data_start, data)?;
        tensors.insert(name, info);
    }
    check_cover(&tensors, data_start, data)?;
    Ok(Header { tensors, metadata: raw.metadata })
}

fn check_tensor(name: &str, raw: RawTensor, start: u64, data: u64) -> Result<TensorInfo, SafetensorsError> {
    let tensor = || name.to_owned();
    let (begin, end) = raw.data_offsets;
    let dtype = TensorDtype::named(&raw.dtype).ok_or_else(|| SafetensorsError::UnknownDtype {
        tensor: tensor(),
        dtype: raw.dtype.chars().take(40).collect(),
    })?;
    if raw.shape.len() > MAX_DIMENSIONS {
        let dimensions = raw.shape.len();
        return Err(SafetensorsError::TooManyDimensions {
            tensor: tensor(),
            dimensions,
            limit: MAX_DIMENSIONS,
        });
    }
    // A zero dimension does not excuse the others: their product must fit as well.
    let overflow = || SafetensorsError::ShapeOverflow { tensor: tensor(), shape: raw.shape.clone() };
    let product = |dims: &[u64]| dims.iter().try_fold(dtype.size(), |size, dim| size.checked_mul(*dim));
    let nonzero: Vec<u64> = raw.shape.iter().copied().filter(|dim| *dim > 0).collect();
    product(&nonzero).filter(|size| i64::try_from(*size).is_ok()).ok_or_else(overflow)?;
    let expected = product(&raw.shape).ok_or_else(overflow)?;
    if begin > end {
        return Err(SafetensorsError::OffsetsReversed { tensor: tensor(), begin, end });
    }
    if end > data {
        return Err(SafetensorsError::OffsetsBeyondFile { tensor: tensor(), end, data });
    }
    let got = end - begin;
    if got != expected {
        let shape = raw.shape;
        return Err(SafetensorsError::ShapeAndOffsetsDiffer {
            tensor: tensor(),
            shape,
            dtype,
            expected,
            got,
        });
    }
    let shape = raw.shape.iter().map(|dim| *dim as usize).collect();
    Ok(TensorInfo { dtype, shape, range: start + begin..start + end })
}

fn check_cover(
    tensors: &BTreeMap<String, TensorInfo>,
    start: u64,
    data: u64,
) -> Result<(), SafetensorsError> {
    let mut order: Vec<(&String, &TensorInfo)> = tensors.iter().collect();
    order.sort_by_key(|(_, info)| (info.range.start, info.range.end));
    let mut covered = start;
    let mut last: Option<&String> = None;
    for (name, info) in order {
        let begin = info.range.start;
        if begin < covered {
            let first = last.cloned().unwrap_or_default();
            return Err(SafetensorsError::Overlap { first, second: name.clone() });
        }
        if begin > covered {
            let (begin, expected) = (begin - start, covered - start);
            return Err(SafetensorsError::Hole { tensor: name.clone(), begin, expected });
        }
        covered = info.range.end;
        last = Some(name);
    }
    if covered - start < data {
        return Err(SafetensorsError::TrailingBytes { covered: covered - start, data });
    }
    Ok(())
}
