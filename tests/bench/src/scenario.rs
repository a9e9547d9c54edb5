//! A checked scenario: what was typed became what is true. Nothing after this file can find a bad flag.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use crate::args::{Args, Speaks};
use crate::traffic::{Length, Pick, Traffic, Words};

/// What to load, with what, and for how long.
pub(crate) struct Scenario {
    /// The server, without a slash at the end.
    pub(crate) url: String,
    /// What it speaks.
    pub(crate) speaks: Speaks,
    /// The base model's name.
    pub(crate) model: String,
    /// Which requests.
    pub(crate) traffic: Traffic,
    /// When they are sent.
    pub(crate) arrivals: Arrivals,
    /// How long.
    pub(crate) until: Until,
    /// How many times each adapter is asked before.
    pub(crate) warm_up: usize,
    /// When a request is given up.
    pub(crate) timeout: Duration,
    /// The bearer token.
    pub(crate) token: Option<String>,
    /// Ask the server which adapters there are.
    pub(crate) discover: bool,
    /// Where the JSON goes.
    pub(crate) json: Option<PathBuf>,
    /// The table has the total only.
    pub(crate) total_only: bool,
}

/// When requests are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Arrivals {
    /// Each user sends its next request when it has the answer and thought for a while.
    Users {
        /// How many.
        users: usize,
        /// What each waits after an answer.
        think: Duration,
    },
    /// At random times, whatever the server does.
    Poisson {
        /// Requests a second.
        rate: f64,
    },
}

/// When to stop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Until {
    /// After this many requests.
    Requests(usize),
    /// No request starts after this time.
    Elapsed(Duration),
}

/// A flag that cannot be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScenarioError {
    /// A range that is empty or malformed.
    #[error("{flag}: expected a number or LOW-HIGH with 1 <= LOW <= HIGH, got {got}")]
    Range {
        /// Which.
        flag: &'static str,
        /// What came.
        got: String,
    },
    /// A number that must be above 0.
    #[error("{flag}: expected a number above 0, got {got}")]
    NotPositive {
        /// Which.
        flag: &'static str,
        /// What came.
        got: f64,
    },
    /// Token ids where the protocol takes text.
    #[error("--prompt-tokens: {0:?} takes text only")]
    TokensNotTaken(Speaks),
    /// The word file.
    #[error("--text: {path}: {reason}")]
    Text {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl Scenario {
    /// Checks `args`.
    pub(crate) fn of(args: Args) -> Result<Self, ScenarioError> {
        let prompt = prompt_length(&args)?;
        let output = range("--min-new-tokens, --max-new-tokens", args.min_new_tokens, args.max_new_tokens)?;
        let discover = args.adapters == ["all"];
        let adapters = if discover { Vec::new() } else { args.adapters.clone() };
        let pick = match args.zipf {
            Some(exponent) => Pick::Zipf { exponent: positive("--zipf", exponent)? },
            None => Pick::Uniform,
        };
        let words = match &args.text {
            None => Words::built_in(),
            Some(path) => {
                let failed = |reason: String| ScenarioError::Text { path: path.clone(), reason };
                let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
                Words::of(&text).ok_or_else(|| failed("holds no word".to_owned()))?
            }
        };
        let arrivals = match args.rate {
            Some(rate) => Arrivals::Poisson { rate: positive("--rate", rate)? },
            None => Arrivals::Users {
                users: positive("--users", args.users as f64).map(|_| args.users)?,
                think: Duration::from_millis(args.think_ms),
            },
        };
        let until = match (args.requests, args.duration) {
            (Some(requests), _) => Until::Requests(requests),
            (None, seconds) => {
                Until::Elapsed(Duration::from_secs_f64(positive("--duration", seconds.unwrap_or(60.0))?))
            }
        };
        Ok(Self {
            url: address(&args),
            speaks: args.protocol,
            model: args.model,
            traffic: Traffic {
                seed: args.seed,
                adapters,
                pick,
                prompt,
                output,
                ignore_eos: !args.stop_at_eos,
                words,
            },
            arrivals,
            until,
            warm_up: args.warm_up,
            timeout: Duration::from_secs_f64(positive("--timeout", args.timeout)?),
            token: args.token,
            discover,
            json: args.json,
            total_only: args.total_only,
        })
    }
}

/// The server: the flag, else the k6 script's gateway, else the default of `make run`.
fn address(args: &Args) -> String {
    let url = match (&args.url, &args.gateway, &args.tenant) {
        (Some(url), ..) => url.clone(),
        (None, Some(gateway), Some(tenant)) => {
            format!("https://{gateway}/{tenant}/deployments/v2/llms/{}", args.model)
        }
        _ => "http://127.0.0.1:8080".to_owned(),
    };
    url.trim_end_matches('/').to_owned()
}

fn prompt_length(args: &Args) -> Result<Length, ScenarioError> {
    let Some(tokens) = &args.prompt_tokens else {
        return Ok(Length::Words(range("--min-words, --max-words", args.min_words, args.max_words)?));
    };
    if matches!(args.protocol, Speaks::Chat | Speaks::Lorax) {
        return Err(ScenarioError::TokensNotTaken(args.protocol));
    }
    let (low, high) = tokens.split_once('-').unwrap_or((tokens, tokens));
    let malformed = || ScenarioError::Range { flag: "--prompt-tokens", got: tokens.clone() };
    let low: usize = low.parse().map_err(|_| malformed())?;
    let high: usize = high.parse().map_err(|_| malformed())?;
    positive("--vocabulary", f64::from(args.vocabulary))?;
    Ok(Length::Tokens { count: range("--prompt-tokens", low, high)?, vocabulary: args.vocabulary })
}

/// `low..=high`, where both are at least 1.
fn range<T: Copy + Ord + From<u8> + std::fmt::Display>(
    flag: &'static str,
    low: T,
    high: T,
) -> Result<RangeInclusive<T>, ScenarioError> {
    if low < T::from(1) || high < low {
        return Err(ScenarioError::Range { flag, got: format!("{low}-{high}") });
    }
    Ok(low..=high)
}

fn positive(flag: &'static str, got: f64) -> Result<f64, ScenarioError> {
    if got > 0.0 && got.is_finite() { Ok(got) } else { Err(ScenarioError::NotPositive { flag, got }) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn scenario(flags: &[&str]) -> Result<Scenario, ScenarioError> {
        Scenario::of(Args::parse_from([&["lorikeet-bench"], flags].concat()))
    }

    #[test]
    fn the_k6_scripts_gateway_gives_the_address() {
        let flags = ["--gateway", "serving.example", "--tenant", "t1", "--model", "mistral-7b"];
        let url = scenario(&flags).unwrap().url;
        assert_eq!(url, "https://serving.example/t1/deployments/v2/llms/mistral-7b");
    }

    #[test]
    fn a_range_that_is_empty_is_refused_by_name() {
        let refused = |flags: &[&str]| scenario(flags).err().unwrap().to_string();
        assert!(refused(&["--min-words", "5", "--max-words", "4"]).starts_with("--min-words, --max-words: "));
        assert!(refused(&["--prompt-tokens", "9-3"]).contains("got 9-3"));
        assert!(refused(&["--prompt-tokens", "many"]).contains("got many"));
        assert!(refused(&["--min-new-tokens", "0"]).contains("got 0-110"));
        assert!(refused(&["--rate=-1"]).starts_with("--rate: "));
        assert!(refused(&["--protocol", "chat", "--prompt-tokens", "3"]).contains("takes text only"));
    }

    #[test]
    fn the_default_is_one_user_for_a_minute() {
        let scenario = scenario(&[]).unwrap();
        assert_eq!(scenario.arrivals, Arrivals::Users { users: 1, think: Duration::ZERO });
        assert_eq!(scenario.until, Until::Elapsed(Duration::from_secs(60)));
    }
}
