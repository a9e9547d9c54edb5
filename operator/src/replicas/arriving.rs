//! A report as it arrives: each adapter is read once all of it is there. So the text of ten thousand is never in memory as a
//! whole, and no thread waits for a replica that stops in the middle. Pure: it is handed the pieces.

use serde_json::Error;

use crate::fleet::{Report, Said};

/// The list that is taken apart, as the report's JSON names it.
const LIST: &[u8] = b"\"adapters\"";
/// Brackets around an adapter of the list: the report's own and the list's.
const WITHIN: usize = 2;

/// A report of which a part has arrived.
#[derive(Default)]
pub(super) struct Arriving {
    /// The report with an empty list.
    rest: Vec<u8>,
    adapters: Vec<Said>,
    /// The beginning of an adapter whose end is in a later piece.
    adapter: Vec<u8>,
    /// Brackets that are open.
    depth: usize,
    within_list: bool,
    within_string: bool,
    /// The next byte of the string is taken as it is.
    is_escaped: bool,
}

impl Arriving {
    /// Takes the next piece of the text, cut anywhere.
    ///
    /// # Errors
    /// It is no list of adapters.
    pub(super) fn take(&mut self, piece: &[u8]) -> Result<(), Error> {
        // What of the piece has no place yet begins there.
        let mut from = 0;
        for (at, byte) in piece.iter().enumerate() {
            if self.within_string {
                match byte {
                    _ if self.is_escaped => self.is_escaped = false,
                    b'\\' => self.is_escaped = true,
                    b'"' => self.within_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.within_string = true,
                b'[' if self.depth == 1 && !self.within_list => {
                    self.rest.extend_from_slice(&piece[from..at]);
                    from = at;
                    self.depth += 1;
                    if is_list(&self.rest) {
                        self.rest.push(b'[');
                        self.within_list = true;
                        from += 1;
                    }
                }
                b',' if self.within_list && self.depth == WITHIN => {
                    self.adapter(&piece[from..at])?;
                    from = at + 1;
                }
                b']' if self.within_list && self.depth == WITHIN => {
                    let is_empty = self.adapters.is_empty() && is_blank(&self.adapter, &piece[from..at]);
                    if !is_empty {
                        self.adapter(&piece[from..at])?;
                    }
                    self.adapter.clear();
                    self.within_list = false;
                    self.depth -= 1;
                    from = at;
                }
                b'[' | b'{' => self.depth += 1,
                b']' | b'}' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
        let waits = if self.within_list { &mut self.adapter } else { &mut self.rest };
        waits.extend_from_slice(&piece[from..]);
        Ok(())
    }

    /// The report, all of which has arrived.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn end(self) -> Result<Report, Error> {
        let mut report: Report = serde_json::from_slice(&self.rest)?;
        report.adapters.extend(self.adapters);
        Ok(report)
    }

    /// An adapter, of which `end` is the end.
    fn adapter(&mut self, end: &[u8]) -> Result<(), Error> {
        let said = if self.adapter.is_empty() {
            serde_json::from_slice(end)?
        } else {
            self.adapter.extend_from_slice(end);
            serde_json::from_slice(&self.adapter)?
        };
        self.adapter.clear();
        self.adapters.push(said);
        Ok(())
    }
}

/// Whether what follows `text` is the value of the list's key.
fn is_list(text: &[u8]) -> bool {
    let key = text.trim_ascii_end().strip_suffix(b":");
    key.is_some_and(|key| key.trim_ascii_end().ends_with(LIST))
}

fn is_blank(begin: &[u8], end: &[u8]) -> bool {
    begin.trim_ascii().is_empty() && end.trim_ascii().is_empty()
}

#[cfg(test)]
mod tests {
    use lorikeet_api::{AdapterReport, BaseModel};

    use super::*;
    use crate::replicas::poll::tests::{report, said};

    /// `text` as it is read where it arrives in pieces of `size` bytes.
    fn arrived(text: &[u8], size: usize) -> Result<Report, Error> {
        let mut arriving = Arriving::default();
        text.chunks(size).try_for_each(|piece| arriving.take(piece))?;
        arriving.end()
    }

    #[test]
    fn wherever_it_is_cut_it_is_the_report() {
        let odd = ["", "a,]}", "\"", "\\", "\\\"[{", "\u{e9}\u{1f99c}", "\"adapters\":["];
        let all: Vec<Said> = odd.iter().map(|name| said(name, 1)).collect();
        for adapters in [vec![], all[..1].to_vec(), all] {
            let base = BaseModel { name: "\"adapters\": [1, ".to_owned(), ..BaseModel::default() };
            let expected = Report { base, ..report(adapters, &["gone", "]"]) };
            let (dense, wide) = (serde_json::to_vec(&expected), serde_json::to_vec_pretty(&expected));
            for text in [dense.unwrap(), wide.unwrap()] {
                for size in [1, 2, 3, 7, 64, text.len()] {
                    assert_eq!(arrived(&text, size).unwrap(), expected, "{size}");
                }
            }
        }
    }

    #[test]
    fn fields_come_in_any_order_and_unknown_ones_are_left_out() {
        let mut fields = serde_json::to_value(report(vec![said("a", 1), said("b", 2)], &[])).unwrap();
        let escaped = serde_json::to_string(&fields).unwrap().replace("\"adapters\"", "\"\\u0061dapters\"");
        assert_eq!(arrived(escaped.as_bytes(), 5).unwrap().adapters.len(), 2);
        fields["more"] = serde_json::json!({"adapters": [{"name": 1}], "x": [[1, 2], []]});
        let fields: Vec<_> = fields.as_object().unwrap().iter().collect();
        for turn in 0..fields.len() {
            let field = |(name, value): &(&String, &serde_json::Value)| format!(" {name:?} : {value} ");
            let turned: Vec<_> = fields[turn..].iter().chain(&fields[..turn]).map(field).collect();
            let text = format!("{{{}}}", turned.join(","));
            let expected: lorikeet_api::ReportedSet<AdapterReport> = serde_json::from_str(&text).unwrap();
            let names: Vec<_> = expected.adapters.iter().map(|one| one.name.as_str()).collect();
            assert_eq!(names, ["a", "b"]);
            let read = arrived(text.as_bytes(), 5).unwrap();
            assert!(read.adapters.iter().map(|one| &**one).eq(&expected.adapters), "{text}");
            assert_eq!(read.report, expected.report);
        }
    }

    #[test]
    fn what_is_no_report_is_refused_as_ever() {
        let whole = serde_json::to_string(&report(vec![said("a", 1), said("b", 2)], &["c"])).unwrap();
        let cut = (1..whole.len()).map(|at| whole[..at].to_owned());
        let list = |list: &str| format!("{{\"adapters\":{list}}}");
        let odd = ["[,]", "[1]", "[{},]", "[null]", "{}", "null", "[[]]", "[", "]"].map(list);
        let others = ["", "[]", "{}", "}}}}", "[[[[", "\"", "\"\\"].map(str::to_owned);
        for text in cut.chain(odd).chain(others).chain([format!("{whole}x"), format!("{whole}{whole}")]) {
            assert!(serde_json::from_str::<Report>(&text).is_err(), "{text}");
            for size in [1, 3, text.len().max(1)] {
                assert!(arrived(text.as_bytes(), size).is_err(), "{text}");
            }
        }
    }
}
