//! How GGUF stores the elements of a tensor: plain, or in blocks of a row. Numbers only; the arithmetic is the kernels'.

use std::fmt;

/// The element types that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the format's own")]
pub enum Element {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
}

/// Element, the format's number and name of it, elements a block, bytes a block.
const ELEMENTS: [(Element, u32, &str, u64, u64); 13] = [
    (Element::F32, 0, "F32", 1, 4),
    (Element::F16, 1, "F16", 1, 2),
    (Element::Q4_0, 2, "Q4_0", 32, 18),
    (Element::Q4_1, 3, "Q4_1", 32, 20),
    (Element::Q5_0, 6, "Q5_0", 32, 22),
    (Element::Q5_1, 7, "Q5_1", 32, 24),
    (Element::Q8_0, 8, "Q8_0", 32, 34),
    (Element::Q2K, 10, "Q2_K", 256, 84),
    (Element::Q3K, 11, "Q3_K", 256, 110),
    (Element::Q4K, 12, "Q4_K", 256, 144),
    (Element::Q5K, 13, "Q5_K", 256, 176),
    (Element::Q6K, 14, "Q6_K", 256, 210),
    (Element::Bf16, 30, "BF16", 1, 2),
];

/// Further numbers, so that a refusal can say the name.
const UNSUPPORTED: [(u32, &str); 21] = [
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
    (41, "Q1_0"),
];

impl Element {
    /// The element type of the format's number.
    pub(super) fn numbered(number: u32) -> Option<Self> {
        ELEMENTS.iter().find(|entry| entry.1 == number).map(|entry| entry.0)
    }

    /// The format's number of it.
    #[must_use]
    pub fn number(self) -> u32 {
        self.entry().1
    }

    /// The name of a number that is not read.
    pub(super) fn unsupported_name(number: u32) -> String {
        let known = UNSUPPORTED.iter().find(|entry| entry.0 == number);
        known.map_or_else(|| format!("number {number}"), |entry| entry.1.to_owned())
    }

    /// The names of all that are read.
    pub(super) fn supported() -> String {
        ELEMENTS.map(|entry| entry.2).join(", ")
    }

    /// Elements a block.
    #[must_use]
    pub fn block(self) -> u64 {
        self.entry().3
    }

    /// Bytes a block.
    #[must_use]
    pub fn block_bytes(self) -> u64 {
        self.entry().4
    }

    fn entry(self) -> &'static (Self, u32, &'static str, u64, u64) {
        ELEMENTS.iter().find(|entry| entry.0 == self).unwrap_or(&ELEMENTS[0])
    }
}

impl fmt::Display for Element {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.entry().2)
    }
}
