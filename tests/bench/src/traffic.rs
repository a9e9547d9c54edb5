//! Which requests are sent. Pure: the same seed gives the same requests, whatever order they are sent in.

use std::ops::RangeInclusive;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Exp, Zipf};

/// The base model's name in a list of adapters.
pub(crate) const BASE: &str = "-";

/// The requests of a scenario, by their number.
#[derive(Clone, Debug)]
pub(crate) struct Traffic {
    /// Of everything that is drawn.
    pub(crate) seed: u64,
    /// Names; [`BASE`] among them is the base model. Empty: base model only.
    pub(crate) adapters: Vec<String>,
    /// How one is chosen.
    pub(crate) pick: Pick,
    /// How long a prompt is.
    pub(crate) prompt: Length,
    /// How many tokens an answer has.
    pub(crate) output: RangeInclusive<u32>,
    /// Answers go on to their length.
    pub(crate) ignore_eos: bool,
    /// What prompts are made of.
    pub(crate) words: Words,
}

/// How an adapter is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pick {
    /// All alike.
    Uniform,
    /// The n-th with a weight of n^-exponent.
    Zipf {
        /// The steeper the fewer are hot.
        exponent: f64,
    },
}

/// How long a prompt is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Length {
    /// Text of so many words.
    Words(RangeInclusive<usize>),
    /// So many random ids below `vocabulary`.
    Tokens {
        /// How many.
        count: RangeInclusive<usize>,
        /// The ids are below it.
        vocabulary: u32,
    },
}

/// One request to send.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ask {
    /// The adapter's place in the scenario's list; `None` is the base model.
    pub(crate) adapter: Option<usize>,
    /// The prompt.
    pub(crate) prompt: Prompt,
    /// How many tokens to answer with.
    pub(crate) new_tokens: u32,
    /// Go on past the end token.
    pub(crate) ignore_eos: bool,
}

/// A prompt.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Prompt {
    /// As text.
    Text(String),
    /// As token ids.
    Ids(Vec<u32>),
}

/// Words to make prompts of.
#[derive(Clone, Debug)]
pub(crate) struct Words(Vec<String>);

impl Words {
    /// Everyday English.
    pub(crate) fn built_in() -> Self {
        Self(include_str!("words.txt").split_whitespace().map(str::to_owned).collect())
    }

    /// The words of a text; `None` when it has none.
    pub(crate) fn of(text: &str) -> Option<Self> {
        let words: Vec<_> = text.split_whitespace().map(str::to_owned).collect();
        (!words.is_empty()).then_some(Self(words))
    }
}

impl Traffic {
    /// The request with this number.
    pub(crate) fn ask(&self, number: usize) -> Ask {
        let mut random = StdRng::seed_from_u64(mix(self.seed, number as u64));
        let place = self.place(&mut random);
        let prompt = match &self.prompt {
            Length::Words(count) => {
                let count = random.random_range(count.clone());
                let words = &self.words.0;
                let drawn: Vec<_> =
                    (0..count).map(|_| words[random.random_range(0..words.len())].as_str()).collect();
                Prompt::Text(drawn.join(" "))
            }
            Length::Tokens { count, vocabulary } => {
                let count = random.random_range(count.clone());
                Prompt::Ids((0..count).map(|_| random.random_range(0..*vocabulary)).collect())
            }
        };
        let adapter = place.filter(|&place| self.adapters[place] != BASE);
        Ask {
            adapter,
            prompt,
            new_tokens: random.random_range(self.output.clone()),
            ignore_eos: self.ignore_eos,
        }
    }

    /// A one-token request for each adapter, or for the base model where there is none.
    pub(crate) fn warm_up(&self) -> Vec<Ask> {
        let places: Vec<_> = if self.adapters.is_empty() {
            vec![None]
        } else {
            (0..self.adapters.len())
                .map(|place| Some(place).filter(|&place| self.adapters[place] != BASE))
                .collect()
        };
        let first = self.ask(usize::MAX);
        places.into_iter().map(|adapter| Ask { adapter, new_tokens: 1, ..first.clone() }).collect()
    }

    /// The name of an adapter for people.
    pub(crate) fn name(&self, adapter: Option<usize>) -> &str {
        adapter.map_or("base", |place| &self.adapters[place])
    }

    /// The seconds between arrivals of a Poisson process of `rate`, one after the other.
    pub(crate) fn gaps(&self, rate: f64) -> impl Iterator<Item = f64> + use<> {
        let mut random = StdRng::seed_from_u64(mix(self.seed, u64::MAX));
        let gap = Exp::new(rate).expect("the scenario checked that the rate is above 0");
        std::iter::repeat_with(move || gap.sample(&mut random))
    }

    fn place(&self, random: &mut StdRng) -> Option<usize> {
        let count = self.adapters.len();
        match self.pick {
            _ if count == 0 => None,
            Pick::Uniform => Some(random.random_range(0..count)),
            Pick::Zipf { exponent } => {
                let law = Zipf::new(count as f64, exponent).expect("the scenario checked the exponent");
                let drawn: f64 = law.sample(random);
                Some((drawn as usize).clamp(1, count) - 1)
            }
        }
    }
}

/// Two numbers made one, so that neighbours have nothing in common (SplitMix64).
fn mix(seed: u64, number: u64) -> u64 {
    let mut z = seed.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(adapters: usize, pick: Pick) -> Traffic {
        Traffic {
            seed: 7,
            adapters: (0..adapters).map(|n| format!("a{n}")).collect(),
            pick,
            prompt: Length::Words(20..=60),
            output: 1..=64,
            ignore_eos: true,
            words: Words::built_in(),
        }
    }

    fn counts(traffic: &Traffic, requests: usize) -> Vec<usize> {
        let mut counts = vec![0; traffic.adapters.len()];
        (0..requests).filter_map(|number| traffic.ask(number).adapter).for_each(|place| counts[place] += 1);
        counts
    }

    #[test]
    fn the_same_seed_gives_the_same_requests() {
        let (one, two) = (traffic(25, Pick::Uniform), traffic(25, Pick::Uniform));
        assert!((0..50).all(|number| one.ask(number) == two.ask(number)));
        let other = Traffic { seed: 8, ..one.clone() };
        assert!((0..50).any(|number| one.ask(number) != other.ask(number)));
    }

    #[test]
    fn lengths_stay_in_their_range_and_reach_both_ends() {
        let traffic = traffic(3, Pick::Uniform);
        let asks: Vec<_> = (0..4000).map(|number| traffic.ask(number)).collect();
        let words = asks.iter().map(|ask| match &ask.prompt {
            Prompt::Text(text) => text.split(' ').count(),
            Prompt::Ids(ids) => ids.len(),
        });
        let words: Vec<_> = words.collect();
        assert_eq!((words.iter().min(), words.iter().max()), (Some(&20), Some(&60)));
        let tokens = asks.iter().map(|ask| ask.new_tokens);
        assert_eq!((tokens.clone().min(), tokens.max()), (Some(1), Some(64)));
    }

    #[test]
    fn token_prompts_stay_below_the_vocabulary() {
        let prompt = Length::Tokens { count: 30..=30, vocabulary: 5 };
        let Prompt::Ids(ids) = (Traffic { prompt, ..traffic(0, Pick::Uniform) }).ask(3).prompt else {
            panic!("ids")
        };
        assert_eq!(ids.len(), 30);
        assert!(ids.iter().all(|&id| id < 5));
    }

    #[test]
    fn uniform_choice_is_even() {
        let counts = counts(&traffic(25, Pick::Uniform), 25_000);
        assert!(counts.iter().all(|&count| (850..1150).contains(&count)), "{counts:?}");
    }

    #[test]
    fn zipf_choice_follows_its_law() {
        let counts = counts(&traffic(10, Pick::Zipf { exponent: 1.0 }), 29_290);
        for (place, &count) in counts.iter().enumerate() {
            let expected = 10_000.0 / (place + 1) as f64;
            assert!(
                (count as f64 / expected - 1.0).abs() < 0.1,
                "place {place}: {count}, expected {expected}"
            );
        }
    }

    #[test]
    fn gaps_have_the_mean_and_the_spread_of_an_exponential() {
        let gaps: Vec<f64> = traffic(1, Pick::Uniform).gaps(4.0).take(20_000).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean - 0.25).abs() < 0.01, "{mean}");
        assert!((variance.sqrt() - 0.25).abs() < 0.01, "{}", variance.sqrt());
    }

    #[test]
    fn a_dash_among_the_adapters_is_the_base_model() {
        let mut traffic = traffic(2, Pick::Uniform);
        traffic.adapters[0] = BASE.to_owned();
        let adapters: Vec<_> = (0..100).map(|number| traffic.ask(number).adapter).collect();
        assert!(adapters.contains(&None) && adapters.contains(&Some(1)) && !adapters.contains(&Some(0)));
        assert_eq!(traffic.warm_up().iter().map(|ask| ask.adapter).collect::<Vec<_>>(), [None, Some(1)]);
    }
}
