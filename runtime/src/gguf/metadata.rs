//! The metadata of a GGUF file: typed values by key, and accessors whose errors name key, expectation and find.

use std::collections::BTreeMap;

use super::GgufError;

/// Keys and values, checked to be well-formed and unique.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    values: BTreeMap<String, Value>,
}

/// One value. Whole numbers of every width are one variant a sign.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    Array(Array),
}

/// One array. Whole numbers of every width are widened to one variant; floats stay as they are.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Array {
    Integers(Vec<i64>),
    Floats(Vec<f32>),
    Bools(Vec<bool>),
    Texts(Vec<String>),
}

impl Value {
    fn kind(&self) -> String {
        match self {
            Self::Unsigned(value) => format!("the number {value}"),
            Self::Signed(value) => format!("the number {value}"),
            Self::Float(value) => format!("the number {value:?}"),
            Self::Bool(value) => format!("{value}"),
            Self::Text(text) => format!("the text {:?}", text.chars().take(40).collect::<String>()),
            Self::Array(Array::Integers(all)) => format!("an array of {} whole numbers", all.len()),
            Self::Array(Array::Floats(all)) => format!("an array of {} floats", all.len()),
            Self::Array(Array::Bools(all)) => format!("an array of {} bools", all.len()),
            Self::Array(Array::Texts(all)) => format!("an array of {} texts", all.len()),
        }
    }
}

impl Metadata {
    /// Adds a value. Used by the reader, and by tests that need metadata without a file.
    ///
    /// # Errors
    /// When the key is already there.
    pub fn insert(&mut self, key: String, value: Value) -> Result<(), GgufError> {
        if self.values.contains_key(&key) {
            return Err(GgufError::DuplicateKey(key));
        }
        self.values.insert(key, value);
        Ok(())
    }

    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// All keys, ordered.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// `value` of `key`, which must be there: for the accessors below.
    ///
    /// # Errors
    /// [`GgufError::MissingKey`].
    pub fn require<T>(key: &str, value: Option<T>) -> Result<T, GgufError> {
        value.ok_or_else(|| GgufError::MissingKey(key.to_owned()))
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        let wrong = || GgufError::WrongType { key: key.to_owned(), expected, got: value.kind() };
        read(value).map(Some).ok_or_else(wrong)
    }

    /// A text, if the key is there.
    ///
    /// # Errors
    /// [`GgufError::WrongType`] when it is something else.
    pub fn get_str(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.typed(key, "a text", |value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// A whole number of any width that fits, if the key is there.
    ///
    /// # Errors
    /// [`GgufError::WrongType`] when it is something else.
    pub fn get_u32(&self, key: &str) -> Result<Option<u32>, GgufError> {
        self.typed(key, "a whole number below 2^32", |value| match value {
            Value::Unsigned(number) => u32::try_from(*number).ok(),
            Value::Signed(number) => u32::try_from(*number).ok(),
            _ => None,
        })
    }

    /// A finite number, if the key is there.
    ///
    /// # Errors
    /// [`GgufError::WrongType`] when it is something else.
    pub fn get_f32(&self, key: &str) -> Result<Option<f32>, GgufError> {
        self.typed(key, "a finite number", |value| match value {
            Value::Float(number) => Some(*number as f32).filter(|number| number.is_finite()),
            _ => None,
        })
    }

    /// A bool, if the key is there.
    ///
    /// # Errors
    /// [`GgufError::WrongType`] when it is something else.
    pub fn get_bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "a bool", |value| match value {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        })
    }

    /// An array of texts, if the key is there.
    ///
    /// # Errors
    /// [`GgufError::WrongType`] when it is something else.
    pub fn get_strings(&self, key: &str) -> Result<Option<&[String]>, GgufError> {
        self.typed(key, "an array of texts", |value| match value {
            Value::Array(Array::Texts(all)) => Some(all.as_slice()),
            _ => None,
        })
    }

    /// An array of floats, if the key is there.
    ///
    /// # Errors
    /// [`GgufError::WrongType`] when it is something else.
    pub fn get_floats(&self, key: &str) -> Result<Option<&[f32]>, GgufError> {
        self.typed(key, "an array of floats", |value| match value {
            Value::Array(Array::Floats(all)) => Some(all.as_slice()),
            _ => None,
        })
    }

    /// An array of whole numbers of any width, if the key is there.
    ///
    /// # Errors
    /// [`GgufError::WrongType`] when it is something else.
    pub fn get_integers(&self, key: &str) -> Result<Option<&[i64]>, GgufError> {
        self.typed(key, "an array of whole numbers", |value| match value {
            Value::Array(Array::Integers(all)) => Some(all.as_slice()),
            _ => None,
        })
    }
}
