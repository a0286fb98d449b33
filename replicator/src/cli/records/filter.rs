//! Which records are wanted: `--where` and `--record`.

use super::kept::{Kept, columns_called};
use anyhow::{Context as _, Result, bail};
use counterfoil_records::schema::RecordSchema;
use counterfoil_records::value::{Number, Value};
use std::cmp::Ordering;
use std::str::FromStr;

/// A condition on a field: `amount>=100.00`, `name~smith`, `closed=`.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Condition {
    field: String,
    operator: Operator,
    operand: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Equal,
    Unequal,
    AtMost,
    AtLeast,
    Below,
    Above,
    Contains,
}

/// Longer ones first, since some begin like others.
const OPERATORS: [(&str, Operator); 7] = [
    ("!=", Operator::Unequal),
    ("<=", Operator::AtMost),
    (">=", Operator::AtLeast),
    ("=", Operator::Equal),
    ("<", Operator::Below),
    (">", Operator::Above),
    ("~", Operator::Contains),
];

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Condition, String> {
        let at = text.find(['=', '!', '<', '>', '~']);
        let found = at.and_then(|at| {
            let (sign, operator) = OPERATORS
                .iter()
                .find(|(sign, _)| text[at..].starts_with(sign))?;
            Some((at, at + sign.len(), *operator))
        });
        match found {
            Some((end, begin, operator)) if end > 0 => Ok(Condition {
                field: text[..end].trim().to_owned(),
                operator,
                operand: text[begin..].trim().to_owned(),
            }),
            _ => Err(format!(
                "{text:?} isn't of the form FIELD=VALUE (or !=, <, <=, >, >=, or ~ for text that contains it)"
            )),
        }
    }
}

/// Conditions on columns that exist.
pub(in crate::cli) struct Filter {
    conditions: Vec<(Vec<usize>, Condition)>,
    table: usize,
}

impl Filter {
    /// `table` is the one whose columns are meant, if the record's own has none of the name.
    pub(in crate::cli) fn new(
        conditions: &[Condition],
        schema: &RecordSchema,
        table: usize,
    ) -> Result<Filter> {
        let conditions = conditions
            .iter()
            .map(|condition| {
                let columns = columns_called(schema, table, &condition.field).context("--where")?;
                let numbers = columns
                    .iter()
                    .all(|&at| schema.tables()[table].columns[at].field.decimal().is_some());
                if numbers
                    && condition.operator != Operator::Contains
                    && !condition.operand.is_empty()
                    && condition.operand.parse::<Number>().is_err()
                {
                    bail!(
                        "--where: {} is a number, and {:?} isn't one",
                        condition.field,
                        condition.operand
                    );
                }
                Ok((columns, condition.clone()))
            })
            .collect::<Result<_>>()?;
        Ok(Filter { conditions, table })
    }

    /// Whether a row of the table is wanted. A field that occurs several times fits if one of them does.
    pub(in crate::cli) fn wants(&self, kept: &Kept, row: &[u32]) -> bool {
        self.conditions.iter().all(|(columns, condition)| {
            columns.iter().any(|&column| {
                let at = kept.find(self.table, row, column);
                let value = at.map_or(Ok(Value::Null), |at| kept.value(at));
                condition.holds(value.unwrap_or(Value::Null))
            })
        })
    }
}

impl Condition {
    fn holds(&self, value: Value<'_>) -> bool {
        let text = value.to_string();
        if self.operator == Operator::Contains {
            return text.to_lowercase().contains(&self.operand.to_lowercase());
        }
        if matches!(value, Value::Null) || self.operand.is_empty() {
            // NULL is neither below nor above anything.
            let same = text.is_empty() && self.operand.is_empty();
            return match self.operator {
                Operator::Equal => same,
                Operator::Unequal => !same,
                _ => false,
            };
        }
        let order = match (value, self.operand.parse::<Number>()) {
            (Value::Number(number), Ok(operand)) => Some(number.compare(operand)),
            (Value::Float32(number), _) => {
                let operand: Option<f64> = self.operand.parse().ok();
                operand.and_then(|operand| f64::from(number).partial_cmp(&operand))
            }
            (Value::Float64(number), _) => {
                let operand: Option<f64> = self.operand.parse().ok();
                operand.and_then(|operand| number.partial_cmp(&operand))
            }
            // ISO 8601 sorts as text.
            _ => Some(text.as_str().cmp(&self.operand)),
        };
        match self.operator {
            Operator::Equal => order == Some(Ordering::Equal),
            Operator::Unequal => order != Some(Ordering::Equal),
            Operator::AtMost => order.is_some_and(Ordering::is_le),
            Operator::AtLeast => order.is_some_and(Ordering::is_ge),
            Operator::Below => order == Some(Ordering::Less),
            Operator::Above => order == Some(Ordering::Greater),
            Operator::Contains => false,
        }
    }
}

/// Numbers of records: `7`, `100-200`, `100-`.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Range {
    first: u64,
    last: u64,
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Range, String> {
        let help = || format!("{text:?} is neither a number nor a range as 100-200 or 100-");
        let number = |text: &str| text.trim().parse::<u64>().map_err(|_| help());
        let (first, last) = match text.split_once('-') {
            None => (number(text)?, number(text)?),
            Some((first, "")) => (number(first)?, u64::MAX),
            Some((first, last)) => (number(first)?, number(last)?),
        };
        if first > last {
            return Err(help());
        }
        Ok(Range { first, last })
    }
}

impl Range {
    pub(in crate::cli) fn contains(&self, id: u64) -> bool {
        (self.first..=self.last).contains(&id)
    }

    pub(in crate::cli) fn first(&self) -> u64 {
        self.first
    }

    pub(in crate::cli) fn last(&self) -> u64 {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(condition: &str, value: Value<'_>) -> bool {
        condition
            .parse::<Condition>()
            .expect("a condition")
            .holds(value)
    }

    #[test]
    fn conditions_compare_what_values_are() {
        let number = |text: &str| Value::Number(text.parse().expect("a number"));
        assert!(holds("amount=12.5", number("12.50")));
        assert!(holds("amount>9", number("12.50")));
        assert!(holds("amount<=-1", number("-1")));
        assert!(!holds("amount<0.01", number("0.01")));
        assert!(holds(
            "amount>1",
            number("99999999999999999999999999999999999999")
        ));
        assert!(holds(
            "amount<1.00000000000000000000000000000000001",
            number("-99999999999999999999")
        ));
        assert!(holds("name=Ann", Value::Text("Ann")));
        assert!(holds("name ~ NN", Value::Text("Ann")));
        assert!(holds("name!=", Value::Text("Ann")));
        assert!(holds("name=", Value::Null));
        assert!(!holds("name!=", Value::Null));
        assert!(!holds("amount<5", Value::Null));
        assert!(holds("x>=1.5", Value::Float64(1.5)));
        assert!("name".parse::<Condition>().is_err());
        assert!("=1".parse::<Condition>().is_err());
    }

    #[test]
    fn ranges_have_one_end_at_least() {
        let range: Range = "100-".parse().expect("a range");
        assert!(range.contains(u64::MAX) && !range.contains(99));
        assert!(
            "7".parse::<Range>()
                .is_ok_and(|it| it.contains(7) && !it.contains(8))
        );
        assert!("9-7".parse::<Range>().is_err());
        assert!("-7".parse::<Range>().is_err());
    }
}
