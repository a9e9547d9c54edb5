//! Stop strings over a stream of text: what cannot be part of one goes out at once, the rest waits.
//!
//! Must not depend on how the text was cut into pieces: the hit is the stop string that ends first; of several that end at
//! the same place, the longest.

/// The scanner of one choice of one request.
#[derive(Clone, Debug)]
pub struct StopStrings {
    stops: Vec<Stop>,
    include: bool,
    /// The longest end of the text so far that begins a stop string.
    held: String,
}

/// A piece's outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scanned {
    /// What may be sent now.
    pub text: String,
    /// The index of the stop string that was hit: the text is at its end.
    pub hit: Option<usize>,
}

/// One stop string with its matcher (Knuth-Morris-Pratt over bytes: constant time per byte, however the string repeats itself).
#[derive(Clone, Debug)]
struct Stop {
    /// Its place in the list that was given.
    index: usize,
    pattern: Vec<u8>,
    /// `fallback[n]`: the longest proper prefix of the pattern that ends its first `n + 1` bytes.
    fallback: Vec<usize>,
    /// Bytes of the pattern that the text so far ends with.
    matched: usize,
}

impl StopStrings {
    /// Scans for `stops`; empty ones are passed over. With `include` the text ends with the stop string that was hit, else
    /// before it.
    #[must_use]
    pub fn new(stops: &[String], include: bool) -> Self {
        let stops = stops.iter().enumerate().filter(|(_, stop)| !stop.is_empty());
        Self {
            stops: stops.map(|(index, stop)| Stop::new(index, stop.as_bytes())).collect(),
            include,
            held: String::new(),
        }
    }

    /// Takes the next piece of text. After a hit, further pieces make no sense.
    pub fn push(&mut self, piece: &str) -> Scanned {
        if self.stops.is_empty() {
            return Scanned { text: piece.to_owned(), hit: None };
        }
        let mut text = std::mem::take(&mut self.held);
        let offset = text.len();
        text.push_str(piece);
        for (at, &byte) in piece.as_bytes().iter().enumerate() {
            let ended = self
                .stops
                .iter_mut()
                .filter_map(|stop| stop.step(byte).then_some((stop.pattern.len(), stop.index)));
            // The longest; of equal ones the first given.
            if let Some((length, index)) =
                ended.max_by_key(|&(length, index)| (length, std::cmp::Reverse(index)))
            {
                let end = offset + at + 1;
                text.truncate(if self.include { end } else { end - length });
                return Scanned { text, hit: Some(index) };
            }
        }
        // A matched prefix starts with a character's first byte, so the cut is between characters.
        let hold = self.stops.iter().map(|stop| stop.matched).max().unwrap_or(0);
        self.held = text.split_off(text.len() - hold);
        Scanned { text, hit: None }
    }

    /// Takes a piece in which stop strings do not count (before `min_tokens`), nor begin.
    pub fn pass(&mut self, piece: &str) -> String {
        let mut text = std::mem::take(&mut self.held);
        text.push_str(piece);
        self.stops.iter_mut().for_each(|stop| stop.matched = 0);
        text
    }

    /// The end of the text: what was held back after all belongs to it.
    #[must_use]
    pub fn finish(&mut self) -> String {
        self.pass("")
    }
}

impl Stop {
    fn new(index: usize, pattern: &[u8]) -> Self {
        let mut fallback = vec![0; pattern.len()];
        let mut length = 0;
        for at in 1..pattern.len() {
            while length > 0 && pattern[at] != pattern[length] {
                length = fallback[length - 1];
            }
            length += usize::from(pattern[at] == pattern[length]);
            fallback[at] = length;
        }
        Self { index, pattern: pattern.to_vec(), fallback, matched: 0 }
    }

    /// Whether the pattern ends at this byte.
    fn step(&mut self, byte: u8) -> bool {
        while self.matched > 0 && self.pattern[self.matched] != byte {
            self.matched = self.fallback[self.matched - 1];
        }
        self.matched += usize::from(self.pattern[self.matched] == byte);
        let ends = self.matched == self.pattern.len();
        if ends {
            self.matched = 0;
        }
        ends
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scan(stops: &[&str], include: bool, pieces: &[&str]) -> (Vec<String>, Option<usize>) {
        let stops: Vec<String> = stops.iter().map(ToString::to_string).collect();
        let mut scanner = StopStrings::new(&stops, include);
        let mut out = Vec::new();
        for piece in pieces {
            let scanned = scanner.push(piece);
            out.push(scanned.text);
            if scanned.hit.is_some() {
                return (out, scanned.hit);
            }
        }
        out.push(scanner.finish());
        (out, None)
    }

    #[test]
    fn without_stop_strings_text_passes_through() {
        assert_eq!(scan(&[], false, &["a", "bc"]), (vec!["a".into(), "bc".into(), String::new()], None));
        assert_eq!(scan(&[""], false, &["a"]).1, None);
    }

    #[test]
    fn a_stop_string_across_pieces_is_found_and_nothing_of_it_was_sent() {
        let (text, hit) = scan(&["END"], false, &["the E", "N", "D of it"]);
        assert_eq!((text.concat().as_str(), hit), ("the ", Some(0)));
        assert_eq!(text[0], "the ");
    }

    #[test]
    fn a_false_start_is_sent_as_soon_as_it_is_one() {
        let (text, hit) = scan(&["END"], false, &["an E", "N", "Emy"]);
        assert_eq!(text, ["an ", "", "ENEmy", ""]);
        assert_eq!(hit, None);
    }

    #[test]
    fn the_text_can_end_with_the_stop_string_itself() {
        let (text, hit) = scan(&["\n\n", "!"], true, &["hi", "! there"]);
        assert_eq!((text.concat().as_str(), hit), ("hi!", Some(1)));
    }

    #[test]
    fn of_two_that_end_at_the_same_place_the_longer_is_cut_off() {
        let (text, hit) = scan(&["b", "aab"], false, &["xa", "ab"]);
        assert_eq!((text.concat().as_str(), hit), ("x", Some(1)));
    }

    #[test]
    fn the_one_that_ends_first_wins_however_the_text_is_cut() {
        for pieces in [&["abcd"][..], &["ab", "cd"], &["a", "b", "c", "d"]] {
            let (text, hit) = scan(&["abcd", "bc"], false, pieces);
            assert_eq!((text.concat().as_str(), hit), ("a", Some(1)));
        }
    }

    #[test]
    fn an_unfinished_stop_string_is_text_in_the_end() {
        assert_eq!(scan(&["</s>"], false, &["a</", "s"]).0.concat(), "a</s");
    }

    #[test]
    fn before_the_least_number_of_tokens_stop_strings_do_not_count() {
        let mut scanner = StopStrings::new(&["ab".into()], false);
        assert_eq!(scanner.pass("ab a"), "ab a");
        assert_eq!(scanner.push("b").hit, None);
    }

    /// The meaning, written down without any cleverness.
    fn naive(stops: &[String], include: bool, text: &str) -> (String, Option<usize>) {
        for end in 1..=text.len() {
            let ended = stops
                .iter()
                .enumerate()
                .filter(|(_, stop)| !stop.is_empty() && text.as_bytes()[..end].ends_with(stop.as_bytes()));
            if let Some((index, stop)) =
                ended.max_by_key(|(index, stop)| (stop.len(), std::cmp::Reverse(*index)))
            {
                return (text[..if include { end } else { end - stop.len() }].to_owned(), Some(index));
            }
        }
        (text.to_owned(), None)
    }

    proptest! {
        #[test]
        fn any_cut_of_any_text_gives_what_a_naive_scan_gives(
            stops in prop::collection::vec("[abé🙂]{0,5}", 0..4),
            pieces in prop::collection::vec("[abcé🙂]{0,4}", 0..16),
            include in any::<bool>(),
        ) {
            let borrowed: Vec<&str> = stops.iter().map(String::as_str).collect();
            let cut: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (out, hit) = scan(&borrowed, include, &cut);
            prop_assert_eq!((out.concat(), hit), naive(&stops, include, &pieces.concat()));
        }

        #[test]
        fn no_more_is_held_than_may_begin_a_stop_string(
            stop in "[ab]{1,6}", pieces in prop::collection::vec("[abc]{0,4}", 0..16),
        ) {
            let mut scanner = StopStrings::new(std::slice::from_ref(&stop), false);
            let mut sent = String::new();
            let mut given = String::new();
            for piece in pieces {
                given.push_str(&piece);
                let scanned = scanner.push(&piece);
                sent.push_str(&scanned.text);
                if scanned.hit.is_some() { break }
                let held = &given[sent.len()..];
                prop_assert!(stop.starts_with(held));
                // And no less: no longer end of the text begins the stop string.
                prop_assert!((1..=given.len().min(stop.len() - 1))
                    .all(|n| n <= held.len() || !stop.starts_with(&given[given.len() - n..])));
            }
        }
    }
}
