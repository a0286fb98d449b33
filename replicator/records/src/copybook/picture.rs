//! PICTURE strings: what kind of item they describe, and how long it is.

use crate::RECORD_SIZE_MAX;
use crate::schema::{DIGITS_MAX, Decimal};

/// What a PICTURE describes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Picture {
    pub(super) kind: PictureKind,
    /// Characters, counted as USAGE DISPLAY does: without V, P, and an S that has no byte of its own.
    pub(super) chars: u32,
    /// Written out, upper case: `ZZ9.99`.
    pub(super) symbols: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PictureKind {
    /// X and A, and 9 among them.
    Text,
    /// Text with insertions (B, 0, /).
    TextEdited,
    /// 9, S, V, P.
    Number { number: Decimal, signed: bool },
    /// Z, *, signs, points, currency.
    NumberEdited,
    /// N.
    National,
    /// G.
    Dbcs,
}

/// Longest symbols that are written out; PICTUREs of text may be longer.
const SYMBOLS_MAX: usize = 1000;

/// Reads a PICTURE string. An error says what is wrong with it.
pub(super) fn parse(
    text: &str,
    decimal_comma: bool,
    currency: char,
    constant: &dyn Fn(&str) -> Option<u64>,
) -> Result<Picture, String> {
    let runs = runs(text, currency, constant)?;
    let total = runs
        .iter()
        .fold(0u64, |sum, (_, times)| sum.saturating_add(*times));
    if total > RECORD_SIZE_MAX {
        return Err(format!(
            "the PICTURE {text} describes more than {RECORD_SIZE_MAX} characters"
        ));
    }
    let point = if decimal_comma { ',' } else { '.' };
    let count = |symbol: char| -> u64 {
        runs.iter()
            .filter(|(found, _)| *found == symbol)
            .map(|(_, times)| *times)
            .sum()
    };
    let has = |symbols: &str| runs.iter().any(|(symbol, _)| symbols.contains(*symbol));
    let only = |symbols: &str| runs.iter().all(|(symbol, _)| symbols.contains(*symbol));
    let symbols: String = if total as usize <= SYMBOLS_MAX {
        runs.iter()
            .flat_map(|(symbol, times)| std::iter::repeat_n(*symbol, *times as usize))
            .map(|symbol| if symbol == currency { '$' } else { symbol })
            .collect::<String>()
            .replace('R', "CR")
            .replace('D', "DB")
    } else {
        String::new()
    };
    let picture = |kind, chars: u64| {
        Ok(Picture {
            kind,
            chars: u32::try_from(chars).unwrap_or(u32::MAX),
            symbols: symbols.clone(),
        })
    };
    if runs.is_empty() {
        return Err("a PICTURE has at least one symbol".to_owned());
    }
    if only("9SVP") {
        let number = number(text, &runs)?;
        return picture(
            PictureKind::Number {
                number,
                signed: count('S') > 0,
            },
            number.digits.into(),
        );
    }
    if has("NG") {
        if only("N") {
            return picture(PictureKind::National, total);
        }
        if only("G") {
            return picture(PictureKind::Dbcs, total);
        }
        return Err(format!(
            "in the PICTURE {text}, N and G don't go together with other symbols here"
        ));
    }
    if has("XA") {
        if only("XA9") {
            return picture(PictureKind::Text, total);
        }
        if only("XA9B0/") {
            return if total as usize <= SYMBOLS_MAX {
                picture(PictureKind::TextEdited, total)
            } else {
                picture(PictureKind::Text, total)
            };
        }
        let odd = runs.iter().find(|(symbol, _)| !"XA9B0/".contains(*symbol));
        return Err(format!(
            "in the PICTURE {text}, {} doesn't go together with X or A",
            odd.map_or('?', |(symbol, _)| *symbol)
        ));
    }
    if has("1") {
        return Err(format!(
            "the PICTURE {text} describes bits, which aren't understood"
        ));
    }
    if count('S') > 0 {
        return Err(format!(
            "in the PICTURE {text}, S doesn't go together with editing symbols"
        ));
    }
    if count('V') + count(point) > 1 {
        return Err(format!(
            "the PICTURE {text} has more than one decimal point"
        ));
    }
    if count('R') + count('D') > 1 {
        return Err(format!("the PICTURE {text} has more than one CR or DB"));
    }
    if !has("9Z*+-") && count(currency) < 2 {
        return Err(format!(
            "the PICTURE {text} has no place for a digit (9, Z, *, or a run of +, - or {currency})"
        ));
    }
    if total as usize > SYMBOLS_MAX {
        return Err(format!(
            "the PICTURE {text} describes a number of more than {SYMBOLS_MAX} characters"
        ));
    }
    let digits = count('9') + count('Z') + count('*');
    if digits > DIGITS_MAX.into() {
        return Err(format!(
            "the PICTURE {text} has {digits} digits; there are at most {DIGITS_MAX}"
        ));
    }
    let chars = total + count('R') + count('D') - count('V') - count('P');
    picture(PictureKind::NumberEdited, chars)
}

/// Symbols and how often each comes in a row. CR and DB are `R` and `D`.
fn runs(
    text: &str,
    currency: char,
    constant: &dyn Fn(&str) -> Option<u64>,
) -> Result<Vec<(char, u64)>, String> {
    let mut runs: Vec<(char, u64)> = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        let mut symbol = char.to_ascii_uppercase();
        if char == currency {
            symbol = currency;
        } else if symbol == 'C' || symbol == 'D' {
            let (second, both) = if symbol == 'C' {
                ('R', 'R')
            } else {
                ('B', 'D')
            };
            match chars.next() {
                Some(next) if next.eq_ignore_ascii_case(&second) => symbol = both,
                _ => {
                    return Err(format!(
                        "in the PICTURE {text}, {symbol} has to be followed by {second}"
                    ));
                }
            }
        } else if !"AX9SVPZ*+-B0/.,NG1E".contains(symbol) {
            return Err(format!("{char:?} isn't a symbol of a PICTURE ({text})"));
        }
        let mut times = 1;
        if chars.peek() == Some(&'(') {
            chars.next();
            let mut inside = String::new();
            loop {
                match chars.next() {
                    Some(')') => break,
                    Some(next) => inside.push(next),
                    None => {
                        return Err(format!("the PICTURE {text} lacks a closing parenthesis"));
                    }
                }
            }
            let inside = inside.trim();
            let number = match inside.bytes().all(|byte| byte.is_ascii_digit()) {
                true => inside.parse().ok(),
                false => constant(inside),
            };
            times = number.filter(|times| *times > 0).ok_or_else(|| {
                format!("in the PICTURE {text}, {inside:?} isn't how often a symbol comes")
            })?;
        }
        match runs.last_mut() {
            Some((last, count)) if *last == symbol => *count = count.saturating_add(times),
            _ => runs.push((symbol, times)),
        }
    }
    Ok(runs)
}

/// Digits and scale of a PICTURE that has only 9, S, V and P.
fn number(text: &str, runs: &[(char, u64)]) -> Result<Decimal, String> {
    let refused = |reason: &str| Err(format!("in the PICTURE {text}, {reason}"));
    let mut rest = runs;
    if let Some((('S', times), behind)) = rest.split_first() {
        if *times > 1 {
            return refused("S comes once");
        }
        rest = behind;
    }
    if rest.iter().any(|(symbol, _)| *symbol == 'S') {
        return refused("S comes first");
    }
    let shape: String = rest.iter().map(|(symbol, _)| *symbol).collect();
    let points = rest.iter().filter(|(symbol, _)| *symbol == 'V');
    if points.map(|(_, times)| *times).sum::<u64>() > 1 {
        return refused("V comes once");
    }
    let times = |at: usize| rest.get(at).map_or(0, |(_, times)| *times);
    // Digits, digits behind the point, zeros right of the digits, zeros left of them (behind the point).
    let (digits, scale) = match shape.as_str() {
        "9" | "9V" => (times(0), 0),
        "V9" => (times(1), times(1) as i64),
        "9V9" => (times(0) + times(2), times(2) as i64),
        "9P" | "9PV" => (times(0), -(times(1) as i64)),
        "P9" => (times(1), (times(0) + times(1)) as i64),
        "VP9" => (times(2), (times(1) + times(2)) as i64),
        "PV9" => return refused("V comes before P here"),
        _ => {
            return refused(
                "digits are 9s with at most one V among them, and P stands right or left of all",
            );
        }
    };
    if digits == 0 || digits > DIGITS_MAX.into() || scale.unsigned_abs() > 1000 {
        return Err(format!(
            "the PICTURE {text} has {digits} digits; there are 1 to {DIGITS_MAX}"
        ));
    }
    Ok(Decimal {
        digits: digits as u16,
        scale: scale as i16,
    })
}
