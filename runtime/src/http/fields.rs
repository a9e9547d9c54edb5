//! A JSON object read field by field: each read says what it expects, each refusal names the field and what came.
//! Duplicate names are refused anywhere in the body. Must not know what a field means.

use std::fmt;
use std::ops::RangeInclusive;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::error::Problem;

/// The fields of one object that were not read yet.
#[derive(Debug)]
pub struct Fields {
    path: String,
    map: Map<String, Value>,
}

impl Fields {
    /// Parses a body.
    ///
    /// # Errors
    /// [`Problem::InvalidJson`] and [`Problem::DuplicateField`].
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        let mut duplicate = None;
        let mut json = serde_json::Deserializer::from_slice(body);
        let seed = Unique { duplicate: &mut duplicate };
        let value = seed.deserialize(&mut json).and_then(|value| json.end().map(|()| value));
        if let Some(name) = duplicate {
            return Err(Problem::DuplicateField(name));
        }
        match value {
            Ok(Value::Object(map)) => Ok(Self { path: String::new(), map }),
            Ok(other) => {
                Err(Problem::InvalidJson(format!("expected a JSON object, got {}", describe(&other))))
            }
            Err(_) if body.is_empty() => {
                Err(Problem::InvalidJson("expected a JSON object, got nothing".to_owned()))
            }
            Err(error) => Err(Problem::InvalidJson(format!("not JSON: {error}"))),
        }
    }

    /// The object at `path` of a larger one.
    ///
    /// # Errors
    /// [`Problem::InvalidValue`] when it is not an object.
    pub fn of(path: impl Into<String>, value: Value) -> Result<Self, Problem> {
        let path = path.into();
        match value {
            Value::Object(map) => Ok(Self { path, map }),
            other => Err(expected(&path, "an object", &other)),
        }
    }

    /// A field's name as the caller knows it.
    pub(crate) fn name(&self, field: &str) -> String {
        if self.path.is_empty() { field.to_owned() } else { format!("{}.{field}", self.path) }
    }

    /// Takes a field; `null` is as good as absent.
    pub fn take(&mut self, field: &str) -> Option<Value> {
        self.map.swap_remove(field).filter(|value| !value.is_null())
    }

    /// The names that nobody has read.
    pub fn rest(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.map.iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name.as_str(), value))
    }

    /// What is left.
    #[must_use]
    pub fn into_rest(self) -> Map<String, Value> {
        self.map
    }

    /// A text.
    ///
    /// # Errors
    /// [`Problem::InvalidValue`].
    pub fn text(&mut self, field: &str) -> Result<Option<String>, Problem> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(expected(&self.name(field), "a string", &other)),
        }
    }

    /// A text that must be there and not be empty.
    ///
    /// # Errors
    /// [`Problem::MissingField`] and [`Problem::InvalidValue`].
    pub fn need_text(&mut self, field: &str) -> Result<String, Problem> {
        match self.text(field)? {
            None => Err(Problem::MissingField(self.name(field))),
            Some(text) if text.is_empty() => {
                Err(invalid(&self.name(field), "expected a string that is not empty, got \"\""))
            }
            Some(text) => Ok(text),
        }
    }

    /// A yes or no.
    ///
    /// # Errors
    /// [`Problem::InvalidValue`].
    pub fn flag(&mut self, field: &str) -> Result<Option<bool>, Problem> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(expected(&self.name(field), "true or false", &other)),
        }
    }

    /// A number in a range.
    ///
    /// # Errors
    /// [`Problem::InvalidValue`].
    pub fn number(&mut self, field: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, Problem> {
        let Some(value) = self.take(field) else { return Ok(None) };
        let wanted = || match (*range.start(), *range.end()) {
            (low, f64::INFINITY) => format!("a number of at least {low}"),
            (low, high) => format!("a number from {low} to {high}"),
        };
        match value.as_f64() {
            Some(number) if range.contains(&number) => Ok(Some(number)),
            _ => Err(expected(&self.name(field), &wanted(), &value)),
        }
    }

    /// A number above 0 and at most `high`.
    ///
    /// # Errors
    /// [`Problem::InvalidValue`].
    pub fn positive(&mut self, field: &str, high: f64) -> Result<Option<f64>, Problem> {
        let Some(value) = self.take(field) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if number > 0.0 && number <= high => Ok(Some(number)),
            _ => Err(expected(&self.name(field), &format!("a number above 0, at most {high}"), &value)),
        }
    }

    /// A whole number in a range. `3.0` is one, as JSON has no other numbers.
    ///
    /// # Errors
    /// [`Problem::InvalidValue`].
    pub fn whole(&mut self, field: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, Problem> {
        let Some(value) = self.take(field) else { return Ok(None) };
        let wanted = match (*range.start(), *range.end()) {
            (low, i64::MAX) => format!("a whole number of at least {low}"),
            (low, high) => format!("a whole number from {low} to {high}"),
        };
        match whole(&value) {
            Some(number) if range.contains(&number) => Ok(Some(number)),
            _ => Err(expected(&self.name(field), &wanted, &value)),
        }
    }

    /// As [`Self::whole`], for what fits 32 bits.
    ///
    /// # Errors
    /// [`Problem::InvalidValue`].
    pub fn count(&mut self, field: &str, range: RangeInclusive<u32>) -> Result<Option<u32>, Problem> {
        let (low, high) = (i64::from(*range.start()), i64::from(*range.end()));
        Ok(self.whole(field, low..=high)?.and_then(|number| u32::try_from(number).ok()))
    }

    /// An object.
    ///
    /// # Errors
    /// [`Problem::InvalidValue`].
    pub fn object(&mut self, field: &str) -> Result<Option<Self>, Problem> {
        self.take(field).map(|value| Self::of(self.name(field), value)).transpose()
    }

    /// A list of token ids below `vocabulary`, at most `most`.
    ///
    /// # Errors
    /// [`Problem::InvalidValue`] and [`Problem::InvalidTokenId`].
    pub fn token_ids(
        &mut self,
        field: &str,
        vocabulary: usize,
        most: usize,
    ) -> Result<Option<Vec<u32>>, Problem> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::Array(list)) if list.len() <= most => {
                token_ids(&self.name(field), &list, vocabulary).map(Some)
            }
            Some(Value::Array(list)) => Err(invalid(
                &self.name(field),
                &format!("expected at most {most} token ids, got {}", list.len()),
            )),
            Some(other) => Err(expected(&self.name(field), "a list of token ids", &other)),
        }
    }
}

/// Token ids out of a JSON list.
///
/// # Errors
/// [`Problem::InvalidTokenId`] for what is not a whole number below `vocabulary`.
pub(crate) fn token_ids(param: &str, list: &[Value], vocabulary: usize) -> Result<Vec<u32>, Problem> {
    list.iter()
        .enumerate()
        .map(|(place, value)| {
            whole(value)
                .and_then(|id| u32::try_from(id).ok())
                .filter(|id| (*id as usize) < vocabulary)
                .ok_or_else(|| Problem::InvalidTokenId {
                    param: param.to_owned(),
                    message: format!(
                        "{param}[{place}]: expected a token id from 0 to {}, got {}",
                        vocabulary.saturating_sub(1),
                        describe(value)
                    ),
                })
        })
        .collect()
}

/// The whole number that a JSON value is, if it is one.
#[expect(clippy::cast_possible_truncation, reason = "checked to be whole and well inside i64")]
fn whole(value: &Value) -> Option<i64> {
    let number: &Number = value.as_number()?;
    number.as_i64().or_else(|| {
        number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < 9e15).map(|float| float as i64)
    })
}

/// A value of another type or outside the range.
pub(crate) fn expected(param: &str, wanted: &str, got: &Value) -> Problem {
    invalid(param, &format!("expected {wanted}, got {}", describe(got)))
}

/// Any other fault of a field.
pub(crate) fn invalid(param: &str, what: &str) -> Problem {
    Problem::InvalidValue { param: param.to_owned(), message: format!("{param}: {what}") }
}

/// A value in words short enough for an error. Texts are quoted, but never at length: they may be prompts.
pub(crate) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) if text.chars().count() <= 32 => format!("\"{}\"", super::error::shorten(text)),
        Value::String(text) => format!("a string of {} characters", text.chars().count()),
        Value::Array(list) => format!("a list of {}", list.len()),
        Value::Object(_) => "an object".into(),
    }
}

/// Any JSON value in which no object has a name twice.
struct Unique<'a> {
    duplicate: &'a mut Option<String>,
}

impl<'de> DeserializeSeed<'de> for Unique<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unique<'_> {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = items.next_element_seed(Unique { duplicate: &mut *self.duplicate })? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            if map.contains_key(&name) {
                *self.duplicate = Some(super::error::shorten(&name));
                return Err(A::Error::custom("duplicate"));
            }
            let value = entries.next_value_seed(Unique { duplicate: &mut *self.duplicate })?;
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(body: &str) -> Fields {
        Fields::parse(body.as_bytes()).unwrap()
    }

    #[test]
    fn a_name_given_twice_is_refused_at_any_depth() {
        for body in [r#"{"model":"a","model":"b"}"#, r#"{"a":[{"model":1,"model":2}]}"#] {
            assert_eq!(Fields::parse(body.as_bytes()).unwrap_err(), Problem::DuplicateField("model".into()));
        }
    }

    #[test]
    fn what_is_not_one_json_object_is_refused() {
        let deep = format!("{{\"a\":{}", "[".repeat(100_000));
        let surrogate = r#"{"a":"\ud800"}"#;
        for body in
            ["", "[]", "7", "{", "{}x", "{'a':1}", "{\"a\":1e999}", &deep, surrogate, "{\"a\":\"\u{1}\"}"]
        {
            assert!(matches!(Fields::parse(body.as_bytes()), Err(Problem::InvalidJson(_))), "{body:.20}");
        }
        assert!(matches!(Fields::parse(b"{\"a\":\"\xff\"}"), Err(Problem::InvalidJson(_))));
    }

    #[test]
    fn a_whole_number_may_be_written_as_a_float_but_not_be_one() {
        assert_eq!(fields(r#"{"n":3.0}"#).whole("n", 0..=9), Ok(Some(3)));
        for body in
            [r#"{"n":3.5}"#, r#"{"n":"3"}"#, r#"{"n":-1}"#, r#"{"n":10}"#, r#"{"n":1e300}"#, r#"{"n":true}"#]
        {
            let Err(Problem::InvalidValue { param, message }) = fields(body).whole("n", 0..=9) else {
                panic!("{body}")
            };
            assert_eq!(param, "n");
            assert!(message.starts_with("n: expected a whole number from 0 to 9, got "), "{message}");
        }
    }

    #[test]
    fn null_is_as_good_as_absent() {
        assert_eq!(fields(r#"{"n":null}"#).whole("n", 0..=9), Ok(None));
        assert_eq!(fields(r#"{"n":null}"#).rest().count(), 0);
    }

    #[test]
    fn a_token_id_beyond_the_vocabulary_names_its_place() {
        let mut body = fields(r#"{"prompt":[1, 9, 10]}"#);
        let Err(Problem::InvalidTokenId { message, .. }) = body.token_ids("prompt", 10, 9) else { panic!() };
        assert_eq!(message, "prompt[2]: expected a token id from 0 to 9, got 10");
    }
}
