//! Reads a GGUF header from its first byte on, counting; nothing is allocated beyond what the file still holds.

use std::collections::BTreeMap;
use std::io::Read;

use super::metadata::{Array, Metadata, Value};
use super::{Element, GgufError, Header, Limits, TensorInfo};

/// A tensor info as written: its offset counts from the start of the data.
struct RawTensor {
    name: String,
    element: Element,
    shape: Vec<u64>,
    offset: u64,
}

pub(super) fn read(reader: impl Read, file: u64, limits: &Limits) -> Result<Header, GgufError> {
    if file > limits.file_bytes {
        return Err(GgufError::FileTooLarge { bytes: file, limit: limits.file_bytes });
    }
    let mut reader = Reader { reader, at: 0, file, limits };
    let magic: [u8; 4] = reader.fixed("the magic")?;
    if &magic != b"GGUF" {
        return Err(GgufError::Magic(magic));
    }
    let version = reader.u32("the version")?;
    if !(2..=3).contains(&version) {
        return Err(GgufError::Version(version));
    }
    let tensors = reader.u64("the tensor count")?;
    let keys = reader.u64("the key count")?;
    within("tensors", tensors, limits.tensors)?;
    within("keys", keys, limits.keys)?;
    let mut metadata = Metadata::default();
    for _ in 0..keys {
        let key = reader.text("a key")?;
        let value = reader.value(&key)?;
        metadata.insert(key, value)?;
    }
    if let Some(count) = metadata.get_u32("split.count")?.filter(|count| *count > 1) {
        return Err(GgufError::Split(count));
    }
    let mut raw = Vec::new();
    for _ in 0..tensors {
        raw.push(reader.tensor()?);
    }
    let alignment = alignment(&metadata)?;
    let start = reader.at.next_multiple_of(alignment);
    let tensors = place(raw, start, file, alignment)?;
    Ok(Header { version, metadata, tensors })
}

fn within(what: &'static str, count: u64, limit: u64) -> Result<(), GgufError> {
    if count > limit { Err(GgufError::TooMany { what, count, limit }) } else { Ok(()) }
}

fn alignment(metadata: &Metadata) -> Result<u64, GgufError> {
    let alignment = u64::from(metadata.get_u32("general.alignment")?.unwrap_or(32));
    let fits = alignment.is_power_of_two() && (8..=65536).contains(&alignment);
    if fits { Ok(alignment) } else { Err(GgufError::Alignment(alignment)) }
}

/// Gives every tensor its range in the file and proves the ranges apart and inside.
fn place(
    raw: Vec<RawTensor>,
    start: u64,
    file: u64,
    alignment: u64,
) -> Result<BTreeMap<String, TensorInfo>, GgufError> {
    let data = file.saturating_sub(start);
    let mut tensors = BTreeMap::new();
    for RawTensor { name, element, shape, offset } in raw {
        let size = bytes(element, &shape).ok_or_else(|| GgufError::Shape {
            tensor: name.clone(),
            shape: shape.clone(),
            block: element.block(),
        })?;
        if !offset.is_multiple_of(alignment) {
            return Err(GgufError::UnalignedOffset { tensor: name, offset, alignment });
        }
        let end = offset.checked_add(size).filter(|end| *end <= data);
        let Some(end) = end else { return Err(GgufError::BeyondFile { tensor: name, offset, size, data }) };
        let shape = shape.iter().map(|dim| *dim as usize).collect();
        let info = TensorInfo { element, shape, range: start + offset..start + end };
        if tensors.contains_key(&name) {
            return Err(GgufError::DuplicateTensor(name));
        }
        tensors.insert(name, info);
    }
    let mut order: Vec<(&String, &TensorInfo)> = tensors.iter().collect();
    order.sort_by_key(|(_, info)| (info.range.start, info.range.end));
    for pair in order.windows(2) {
        if pair[1].1.range.start < pair[0].1.range.end {
            return Err(GgufError::Overlap { first: pair[0].0.clone(), second: pair[1].0.clone() });
        }
    }
    Ok(tensors)
}

/// The bytes of a tensor: whole blocks along the innermost dimension.
fn bytes(element: Element, shape: &[u64]) -> Option<u64> {
    let inner = *shape.last()?;
    if !inner.is_multiple_of(element.block()) || shape.contains(&0) {
        return None;
    }
    let row = (inner / element.block()).checked_mul(element.block_bytes())?;
    let size = shape[..shape.len() - 1].iter().try_fold(row, |size, dim| size.checked_mul(*dim))?;
    i64::try_from(size).ok().map(|_| size)
}

/// The stream, and how far it has been read.
struct Reader<'a, R> {
    reader: R,
    at: u64,
    file: u64,
    limits: &'a Limits,
}

impl<R: Read> Reader<'_, R> {
    /// Proves that `needed` more bytes are in the file and in the header's limit.
    fn claim(&mut self, what: &'static str, needed: u64) -> Result<(), GgufError> {
        if needed > self.file - self.at {
            return Err(GgufError::Truncated { what, needed, at: self.at, file: self.file });
        }
        if needed > self.limits.header_bytes.saturating_sub(self.at) {
            return Err(GgufError::HeaderTooLarge { limit: self.limits.header_bytes });
        }
        Ok(())
    }

    fn fixed<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], GgufError> {
        self.claim(what, N as u64)?;
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(bytes)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        self.fixed(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        self.fixed(what).map(u64::from_le_bytes)
    }

    fn text(&mut self, what: &'static str) -> Result<String, GgufError> {
        let length = self.u64(what)?;
        let at = self.at;
        if length > self.limits.text_bytes {
            return Err(GgufError::TextTooLong { length, at, limit: self.limits.text_bytes });
        }
        self.claim(what, length)?;
        let mut bytes = vec![0; length as usize];
        self.reader.read_exact(&mut bytes)?;
        self.at += length;
        String::from_utf8(bytes).map_err(|_| GgufError::TextNotUtf8 { at })
    }

    fn value(&mut self, key: &str) -> Result<Value, GgufError> {
        let what = "a value";
        let kind = self.u32(what)?;
        Ok(match kind {
            0 | 2 | 4 | 10 => Value::Unsigned(self.integer(kind)? as u64),
            1 | 3 | 5 | 11 => Value::Signed(self.integer(kind)? as i64),
            6 => Value::Float(f64::from(f32::from_le_bytes(self.fixed(what)?))),
            12 => Value::Float(f64::from_le_bytes(self.fixed(what)?)),
            7 => Value::Bool(self.bool(key)?),
            8 => Value::Text(self.text(what)?),
            9 => Value::Array(self.array(key)?),
            got => return Err(GgufError::UnknownValueType { key: key.to_owned(), got }),
        })
    }

    /// A whole number of the format's type `kind`, wide enough for every one.
    fn integer(&mut self, kind: u32) -> Result<i128, GgufError> {
        let what = "a number";
        Ok(match kind {
            0 => i128::from(u8::from_le_bytes(self.fixed(what)?)),
            1 => i128::from(i8::from_le_bytes(self.fixed(what)?)),
            2 => i128::from(u16::from_le_bytes(self.fixed(what)?)),
            3 => i128::from(i16::from_le_bytes(self.fixed(what)?)),
            4 => i128::from(u32::from_le_bytes(self.fixed(what)?)),
            5 => i128::from(i32::from_le_bytes(self.fixed(what)?)),
            10 => i128::from(u64::from_le_bytes(self.fixed(what)?)),
            _ => i128::from(i64::from_le_bytes(self.fixed(what)?)),
        })
    }

    fn bool(&mut self, key: &str) -> Result<bool, GgufError> {
        match self.fixed::<1>("a bool")? {
            [0] => Ok(false),
            [1] => Ok(true),
            [got] => Err(GgufError::NotABool { key: key.to_owned(), got }),
        }
    }

    fn array(&mut self, key: &str) -> Result<Array, GgufError> {
        let what = "an array";
        let kind = self.u32(what)?;
        let count = self.u64(what)?;
        let width: u64 = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => return Err(GgufError::NestedArray { key: key.to_owned() }),
            got => return Err(GgufError::UnknownValueType { key: key.to_owned(), got }),
        };
        // A text takes at least the 8 bytes of its length: the claim bounds what the vectors below can grow to.
        self.claim(what, count.saturating_mul(width))?;
        let count = 0..count;
        Ok(match kind {
            6 => Array::Floats(
                count.map(|_| Ok(f32::from_le_bytes(self.fixed(what)?))).collect::<Result<_, GgufError>>()?,
            ),
            12 => Array::Floats(
                count
                    .map(|_| Ok(f64::from_le_bytes(self.fixed(what)?) as f32))
                    .collect::<Result<_, GgufError>>()?,
            ),
            7 => Array::Bools(count.map(|_| self.bool(key)).collect::<Result<_, _>>()?),
            8 => Array::Texts(count.map(|_| self.text(what)).collect::<Result<_, _>>()?),
            _ => Array::Integers(
                count
                    .map(|_| {
                        let number = self.integer(kind)?;
                        i64::try_from(number).map_err(|_| GgufError::WrongType {
                            key: key.to_owned(),
                            expected: "whole numbers below 2^63",
                            got: number.to_string(),
                        })
                    })
                    .collect::<Result<_, _>>()?,
            ),
        })
    }

    fn tensor(&mut self) -> Result<RawTensor, GgufError> {
        let name = self.text("a tensor's name")?;
        let dimensions = self.u32("a tensor's dimensions")?;
        if !(1..=4).contains(&dimensions) {
            return Err(GgufError::Dimensions { tensor: name, got: dimensions });
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            shape.push(self.u64("a tensor's shape")?);
        }
        shape.reverse();
        let number = self.u32("a tensor's element type")?;
        let element = Element::numbered(number).ok_or_else(|| GgufError::UnsupportedElement {
            tensor: name.clone(),
            got: Element::unsupported_name(number),
            supported: Element::supported(),
        })?;
        let offset = self.u64("a tensor's offset")?;
        Ok(RawTensor { name, element, shape, offset })
    }
}
