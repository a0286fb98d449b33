//! What each sink made of each case of the contract: a table, made from what the tests report while they run.
//!
//! The test harness's lines tell results (`test postgres::tests::contract::folds_one_key ... ok`); the suite tells which tests are
//! cases, and why a case can't apply to a sink, in a file that it finds by [`CASES_VARIABLE`], since what a test prints isn't
//! shown when it passes. A sink's name is that of the modules that its tests are in.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// Names the file to which the suite adds lines: a test's name, a tab, and the reason why it can't apply, if it can't. The same
/// name is in `sinks/src/contract/mod.rs`.
pub(crate) const CASES_VARIABLE: &str = "COUNTERFOIL_CONTRACT_CASES";

/// Modules that say nothing of the sink.
const NO_SINKS: [&str; 5] = ["tests", "contract", "faults", "plans", "sealed"];

/// What came of a case; the worse one is the greater one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Passed,
    /// It can't apply, for this reason.
    Impossible(String),
    Failed,
}

/// Reads what tests report, as it comes.
#[derive(Default)]
pub(crate) struct Report {
    /// What is no whole line yet.
    rest: Vec<u8>,
    /// A test that was announced; its result comes in a line of its own, since it printed something meanwhile.
    announced: Option<String>,
    /// The worst result of each test, case or not.
    results: BTreeMap<String, Outcome>,
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

    fn add(&mut self, test: &str, outcome: Outcome) {
        let known = self.results.entry(test.to_owned());
        let known = known.or_insert_with(|| outcome.clone());
        if *known < outcome {
            *known = outcome;
        }
    }

    /// The table, of the tests that the suite told of: a line for each case, a column for each sink. Nothing, where no case
    /// was run.
    pub(crate) fn table(&self, told: &str) -> String {
        let mut cases: BTreeMap<&str, BTreeMap<String, Outcome>> = BTreeMap::new();
        let mut sinks = BTreeSet::new();
        for (test, reason) in told.lines().filter_map(|line| line.split_once('\t')) {
            let Some((modules, case)) = test.rsplit_once("::") else {
                continue;
            };
            let modules: Vec<&str> = modules
                .split("::")
                .filter(|module| !NO_SINKS.contains(module))
                .collect();
            // The model of all sinks is in the suite's own modules.
            let sink = if modules.is_empty() {
                "model".to_owned()
            } else {
                modules.join("/")
            };
            sinks.insert(sink.clone());
            // One that began and has no result broke off.
            let mut outcome = self.results.get(test).cloned().unwrap_or(Outcome::Failed);
            if !reason.is_empty() {
                outcome = outcome.max(Outcome::Impossible(reason.to_owned()));
            }
            let known = cases.entry(case).or_default().entry(sink);
            let known = known.or_insert_with(|| outcome.clone());
            if *known < outcome {
                *known = outcome;
            }
        }
        if cases.is_empty() {
            return String::new();
        }
        let mut counts = [0; 4];
        let width = cases.keys().map(|case| case.len()).max();
        let width = width.unwrap_or_default().max("case".len());
        let column = |sink: &str| sink.len().max("not run".len());
        let mut text = format!("{:width$}", "case");
        for sink in &sinks {
            let _ = write!(text, "  {sink:0$}", column(sink));
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
        for (case, outcomes) in &cases {
            let _ = write!(text, "{case:width$}");
            let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            for sink in &sinks {
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
        let [passed, failed, impossible, not_run] = counts;
        let _ = writeln!(
            text,
            "{} cases, {} sinks: {passed} passed, {failed} failed, {impossible} can't apply, {not_run} not run",
            cases.len(),
            sinks.len()
        );
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
test odbc::tests::through_psqlodbc::folds_one_key ... FAILED
test files::tests::contract::clears_ranges ... ignored, there is nothing to clear
test postgres::tests::faults::survives_a_deadlock ... what the test printed
more of it
ok

failures:
    odbc::tests::through_psqlodbc::folds_one_key

test result: FAILED. 5 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    const TOLD: &str = "\
contract::tests::folds_one_key\t
postgres::tests::contract::folds_one_key\t
sqlite::tests::contract::folds_one_key\t
sqlite::tests::faults::survives_a_deadlock\t
sqlite::tests::faults::survives_a_deadlock\tonly one writes at a time
odbc::tests::through_psqlodbc::folds_one_key\t
files::tests::contract::clears_ranges\t
postgres::tests::faults::survives_a_deadlock\t
postgres::tests::faults::breaks_off\t
";

    const TABLE: &str = "\
case                 files    model    odbc/through_psqlodbc  postgres  sqlite
breaks_off           not run  not run  not run                failed    not run
clears_ranges        -        not run  not run                not run   not run
    - files: there is nothing to clear
folds_one_key        not run  passed   failed                 passed    passed
survives_a_deadlock  not run  not run  not run                passed    -
    - sqlite: only one writes at a time
4 cases, 5 sinks: 4 passed, 2 failed, 2 can't apply, 12 not run
";

    #[test]
    fn results_are_read_however_they_are_cut() {
        for len in [1, 7, 4096] {
            let mut report = Report::default();
            for part in PRINTED.as_bytes().chunks(len) {
                report.take(part);
            }
            assert_eq!(report.table(TOLD), TABLE);
        }
    }

    #[test]
    fn the_worst_of_two_results_holds() {
        for results in [["ok", "FAILED"], ["FAILED", "ok"]] {
            let mut report = Report::default();
            for result in results {
                report.take(format!("test x::tests::contract::a ... {result}\n").as_bytes());
            }
            let table = report.table("x::tests::contract::a\tno means\n");
            assert!(table.contains("a     failed"), "{table}");
        }
    }

    #[test]
    fn without_cases_there_is_no_table() {
        let mut report = Report::default();
        report.take(b"test a::tests::b ... ok\nok\ntest contract::x ... ok\n");
        assert_eq!(report.table(""), "");
    }
}
