//! What each sink made of each case of the contract: a table, made from what the tests report while they run.
//!
//! A line of the test harness tells a result (`test postgres::tests::contract::folds_one_key ... ok`), whose name tells
//! suite, sink and case: `SINK::tests::SUITE::CASE`, and `SINK::tests::VARIANT::SUITE::CASE` where a sink is tested in
//! several variants. That a case can't apply to a sink, its harness says, with the reason, in a file that the suite is told
//! of in [`REASONS_VARIABLE`]: what a test prints isn't shown when it passes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// The modules that hold a test of every case.
const SUITES: [&str; 2] = ["contract", "faults"];

/// Names the file to which the suite adds a line for each case that can't apply: the test's name, a tab, the reason. The same
/// name is in `sinks/src/contract/mod.rs`.
pub(crate) const REASONS_VARIABLE: &str = "COUNTERFOIL_CONTRACT_REASONS";

/// What came of a case; the worse one is the greater one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Passed,
    /// It can't apply, for this reason.
    Impossible(String),
    Failed,
}

/// Reads what tests report, as it comes, and knows what was reported of the contract.
#[derive(Default)]
pub(crate) struct Report {
    /// What is no whole line yet.
    rest: Vec<u8>,
    /// A test that was announced; its result comes in a line of its own, since it printed something meanwhile.
    announced: Option<String>,
    suites: BTreeMap<String, Suite>,
}

#[derive(Default)]
struct Suite {
    sinks: BTreeSet<String>,
    cases: BTreeMap<String, BTreeMap<String, Outcome>>,
}

impl Report {
    /// Takes what was printed since.
    pub(crate) fn take(&mut self, printed: &[u8]) {
        self.rest.extend_from_slice(printed);
        while let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            self.take_line(String::from_utf8_lossy(&line).trim_end());
        }
    }

    fn take_line(&mut self, line: &str) {
        if let Some((name, result)) = line
            .strip_prefix("test ")
            .and_then(|line| line.split_once(" ... "))
        {
            match outcome(result) {
                Some(outcome) => self.add(name, outcome),
                None => self.announced = Some(name.to_owned()),
            }
        } else if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|l| l.strip_suffix(" ..."))
        {
            self.announced = Some(name.to_owned());
        } else if let Some(outcome) = outcome(line)
            && let Some(name) = self.announced.take()
        {
            self.add(&name, outcome);
        }
    }

    /// Takes the lines of the file with reasons.
    pub(crate) fn take_reasons(&mut self, lines: &str) {
        for (name, reason) in lines.lines().filter_map(|line| line.split_once('\t')) {
            self.add(name, Outcome::Impossible(reason.to_owned()));
        }
    }

    fn add(&mut self, test: &str, outcome: Outcome) {
        let mut modules: Vec<&str> = test.split("::").collect();
        let (Some(case), Some(suite)) = (modules.pop(), modules.pop()) else {
            return;
        };
        modules.retain(|&module| module != "tests");
        if !SUITES.contains(&suite) || modules.is_empty() {
            return;
        }
        let sink = modules.join("/");
        let suite = self.suites.entry(suite.to_owned()).or_default();
        suite.sinks.insert(sink.clone());
        let outcomes = suite.cases.entry(case.to_owned()).or_default();
        // Where two say something, the worse one holds.
        let known = outcomes.entry(sink).or_insert_with(|| outcome.clone());
        if *known < outcome {
            *known = outcome;
        }
    }

    /// The table: a line for each case, a column for each sink. Nothing, where no case was run.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        let mut counts = [0; 4];
        for (name, suite) in &self.suites {
            let width = suite.cases.keys().chain([name]).map(String::len).max();
            let width = width.unwrap_or_default();
            let column = |sink: &str| sink.len().max("not run".len());
            let _ = write!(text, "{name:width$}");
            for sink in &suite.sinks {
                let _ = write!(text, "  {sink:0$}", column(sink));
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
            for (case, outcomes) in &suite.cases {
                let _ = write!(text, "{case:width$}");
                let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
                for sink in &suite.sinks {
                    let (index, word) = match outcomes.get(sink) {
                        Some(Outcome::Passed) => (0, "passed"),
                        Some(Outcome::Failed) => (1, "failed"),
                        Some(Outcome::Impossible(reason)) => {
                            reasons.entry(reason).or_default().push(sink);
                            (2, "-")
                        }
                        None => (3, "not run"),
                    };
                    counts[index] += 1;
                    let _ = write!(text, "  {word:0$}", column(sink));
                }
                text.truncate(text.trim_end().len());
                text.push('\n');
                for (reason, sinks) in reasons {
                    let _ = writeln!(text, "    - {}: {reason}", sinks.join(", "));
                }
            }
            text.push('\n');
        }
        if !text.is_empty() {
            let [passed, failed, impossible, not_run] = counts;
            let _ = writeln!(
                text,
                "cases of the contract: {passed} passed, {failed} failed, {impossible} can't apply, {not_run} not run"
            );
        }
        text
    }
}

/// What the test harness means by this, if it is a result.
fn outcome(result: &str) -> Option<Outcome> {
    // With a time behind it, where times are asked for.
    let word = result.split(" <").next().unwrap_or_default();
    match word {
        "ok" => Some(Outcome::Passed),
        "FAILED" => Some(Outcome::Failed),
        _ => {
            let reason = word.strip_prefix("ignored")?;
            let reason = reason.strip_prefix(", ").unwrap_or("it is ignored");
            Some(Outcome::Impossible(reason.to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "
running 7 tests
test contract::tests::folds_one_key ... ok
test naming::tests::names_are_readable ... ok
test postgres::tests::contract::folds_one_key ... ok
test sqlite::tests::contract::folds_one_key ... ok
test sqlite::tests::faults::survives_a_deadlock ... ok
test odbc::tests::postgres::contract::folds_one_key ... FAILED
test files::tests::contract::clears_ranges ... ignored, there is nothing to clear
test postgres::tests::faults::survives_a_deadlock ... what the test printed
more of it
ok

failures:
    odbc::tests::postgres::contract::folds_one_key

test result: FAILED. 5 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    const TABLE: &str = "\
contract       files    odbc/postgres  postgres  sqlite
clears_ranges  -        not run        not run   not run
    - files: there is nothing to clear
folds_one_key  not run  failed         passed    passed

faults               postgres  sqlite
survives_a_deadlock  passed    -
    - sqlite: only one writes at a time

cases of the contract: 3 passed, 1 failed, 2 can't apply, 4 not run
";

    #[test]
    fn results_are_read_however_they_are_cut() {
        for len in [1, 7, 4096] {
            let mut report = Report::default();
            for part in PRINTED.as_bytes().chunks(len) {
                report.take(part);
            }
            report.take_reasons(
                "sqlite::tests::faults::survives_a_deadlock\tonly one writes at a time\n",
            );
            assert_eq!(report.table(), TABLE);
        }
    }

    #[test]
    fn the_worst_of_two_results_holds() {
        for lines in [["ok", "FAILED"], ["FAILED", "ok"]] {
            let mut report = Report::default();
            for result in lines {
                report.take(format!("test x::tests::contract::a ... {result}\n").as_bytes());
            }
            report.take_reasons("x::tests::contract::a\tno means\n");
            assert!(
                report.table().contains("a         failed"),
                "{}",
                report.table()
            );
        }
    }

    #[test]
    fn without_cases_there_is_no_table() {
        let mut report = Report::default();
        report.take(b"test a::tests::b ... ok\nok\ntest contract::x ... ok\n");
        assert_eq!(report.table(), "");
    }
}
