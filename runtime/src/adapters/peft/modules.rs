//! Which modules a configuration targets: PEFT's rules for lists, regular expressions, layers and exclusions. Pure.

use regex_automata::meta::Regex;
use serde_json::{Map, Value};

use super::{MAX_ENTRIES, PeftError};

/// The largest compiled regular expression, in bytes: a file must not make us spend memory on it.
const MAX_REGEX_BYTES: usize = 1 << 20;
/// The longest regular expression or module name.
const MAX_PATTERN_LENGTH: usize = 4096;

/// A regular expression of the configuration, matched in linear time.
#[derive(Debug)]
pub struct Pattern(Regex);

impl Pattern {
    /// Matches a path that ends in `key` at the start of a name, `key` itself being a regular expression: PEFT's rule
    /// for `rank_pattern` and `alpha_pattern`.
    pub(super) fn suffix(field: &str, key: &str) -> Result<Self, PeftError> {
        Self::compile(field, key, &format!(r"\A(?:.*\.)?(?:{key})\z"))
    }

    /// Matches a whole path.
    fn whole(field: &str, text: &str) -> Result<Self, PeftError> {
        Self::compile(field, text, &format!(r"\A(?:{text})\z"))
    }

    fn compile(field: &str, text: &str, regex: &str) -> Result<Self, PeftError> {
        let invalid = || PeftError::Invalid {
            field: field.to_owned(),
            expected: "a regular expression without look-around or back references, of moderate size",
            got: format!("{:?}", text.chars().take(60).collect::<String>()),
        };
        if text.len() > MAX_PATTERN_LENGTH {
            return Err(invalid());
        }
        let limits =
            Regex::config().nfa_size_limit(Some(MAX_REGEX_BYTES)).hybrid_cache_capacity(MAX_REGEX_BYTES);
        Regex::builder().configure(limits).build(regex).map(Self).map_err(|_| invalid())
    }

    /// Whether `path` matches.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        self.0.is_match(path)
    }
}

/// The modules that a configuration targets.
#[derive(Debug)]
pub struct Modules {
    targets: Targets,
    excluded: Names,
    layers: Option<Layers>,
}

#[derive(Debug)]
enum Targets {
    /// Every linear layer but the head.
    AllLinear,
    Named(Names),
}

/// Modules by a list of names or by one regular expression.
#[derive(Debug)]
enum Names {
    List(Vec<String>),
    Whole(Pattern),
}

impl Names {
    fn contain(&self, path: &str) -> bool {
        match self {
            Self::List(names) => names.iter().any(|name| is_suffix(path, name)),
            Self::Whole(pattern) => pattern.matches(path),
        }
    }
}

/// The layers that a configuration is limited to.
#[derive(Debug, PartialEq, Eq)]
pub struct Layers {
    numbers: Vec<u64>,
    patterns: Vec<String>,
}

impl Modules {
    pub(super) fn parse(config: &Map<String, Value>) -> Result<Self, PeftError> {
        let targets = match config.get("target_modules").unwrap_or(&Value::Null) {
            Value::String(text) if text == "all-linear" => Targets::AllLinear,
            value => Targets::Named(names("target_modules", value)?.ok_or_else(|| {
                PeftError::invalid(
                    "target_modules",
                    "a list of names, a regular expression or \"all-linear\"",
                    value,
                )
            })?),
        };
        let excluded = names("exclude_modules", config.get("exclude_modules").unwrap_or(&Value::Null))?;
        let layers = Layers::parse(config)?;
        let by_regex = matches!(targets, Targets::Named(Names::Whole(_)));
        if let (true, Some(_), Some(value)) = (by_regex, &layers, config.get("layers_to_transform")) {
            return Err(PeftError::invalid(
                "layers_to_transform",
                "null where target_modules is a regular expression",
                value,
            ));
        }
        Ok(Self { targets, excluded: excluded.unwrap_or(Names::List(Vec::new())), layers })
    }

    /// Whether the module at `path` is targeted; `is_head` for the output embedding.
    #[must_use]
    pub fn target(&self, path: &str, is_head: bool) -> bool {
        if self.excluded.contain(path) {
            return false;
        }
        match &self.targets {
            Targets::AllLinear => !is_head && !path.ends_with("embed_tokens") && self.in_layers(path),
            Targets::Named(Names::List(names)) if names.iter().any(|name| name == path) => true,
            Targets::Named(names) => names.contain(path) && self.in_layers(path),
        }
    }

    /// Names of a target list that no path of `paths` ends in: a misspelling, or another model's.
    #[must_use]
    pub fn unknown<'a>(&'a self, paths: &[&str]) -> Option<&'a str> {
        match &self.targets {
            Targets::Named(Names::List(names)) => {
                names.iter().map(String::as_str).find(|name| !paths.iter().any(|path| is_suffix(path, name)))
            }
            Targets::Named(Names::Whole(_)) | Targets::AllLinear => None,
        }
    }

    fn in_layers(&self, path: &str) -> bool {
        self.layers.as_ref().is_none_or(|layers| layers.contain(path))
    }
}

impl Layers {
    fn parse(config: &Map<String, Value>) -> Result<Option<Self>, PeftError> {
        const EXPECTED: &str = "a layer number or a list of them";
        let value = config.get("layers_to_transform").unwrap_or(&Value::Null);
        let numbers = match value {
            Value::Null => return Ok(None),
            Value::Number(number) => number.as_u64().map(|number| vec![number]),
            Value::Array(list) if list.len() <= MAX_ENTRIES => list.iter().map(Value::as_u64).collect(),
            _ => None,
        };
        let numbers = numbers.ok_or_else(|| PeftError::invalid("layers_to_transform", EXPECTED, value))?;
        // PEFT takes an empty list for none at all.
        if numbers.is_empty() {
            return Ok(None);
        }
        let value = config.get("layers_pattern").unwrap_or(&Value::Null);
        let patterns = match value {
            Value::Null => Some(Vec::new()),
            Value::String(text) if text.is_empty() => Some(Vec::new()),
            Value::String(text) => Some(vec![text.clone()]),
            Value::Array(list) => list.iter().map(|one| one.as_str().map(str::to_owned)).collect(),
            _ => None,
        };
        let is_name =
            |text: &String| text.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
        let patterns = patterns.filter(|all| all.iter().all(is_name));
        let patterns = patterns
            .ok_or_else(|| PeftError::invalid("layers_pattern", "a name or a list of names", value))?;
        Ok(Some(Self { numbers, patterns }))
    }

    /// Whether the first number after a container's name (any, or one of the patterns) is one of the layers.
    fn contain(&self, path: &str) -> bool {
        let parts: Vec<&str> = path.split('.').collect();
        // The number is between two names, and a name comes before its container.
        let number =
            |at: usize| (at >= 2 && at + 1 < parts.len()).then(|| parts[at].parse::<u64>().ok()).flatten();
        let of_container =
            |at: usize| self.patterns.is_empty() || self.patterns.iter().any(|name| name == parts[at - 1]);
        // PEFT's expressions are greedy: the last such number counts.
        (0..parts.len())
            .rev()
            .filter(|at| number(*at).is_some() && of_container(*at))
            .find_map(number)
            .is_some_and(|layer| self.numbers.contains(&layer))
    }
}

/// Whether `path` is `name` or ends in `.name`.
fn is_suffix(path: &str, name: &str) -> bool {
    path.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// A list of names or a regular expression; nothing where it is null or empty.
fn names(field: &str, value: &Value) -> Result<Option<Names>, PeftError> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) if text.is_empty() => Ok(None),
        Value::String(text) => Ok(Some(Names::Whole(Pattern::whole(field, text)?))),
        Value::Array(list) if list.is_empty() => Ok(None),
        Value::Array(list) if list.len() <= MAX_ENTRIES => {
            let one = |item: &Value| {
                item.as_str()
                    .filter(|name| !name.is_empty() && name.len() <= MAX_PATTERN_LENGTH)
                    .map(str::to_owned)
            };
            let all: Option<Vec<String>> = list.iter().map(one).collect();
            all.map(|all| Some(Names::List(all)))
                .ok_or_else(|| PeftError::invalid(field, "a list of names", value))
        }
        other => {
            Err(PeftError::invalid(field, "a list of at most 4096 names or a regular expression", other))
        }
    }
}
