//! Medians, and the lines that comparisons end in.

/// The median; of an even number, the mean of the two in the middle. 0 of nothing.
pub(crate) fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        len if len % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The quartiles: how far the middle half of the figures is apart.
pub(crate) fn quartiles(figures: &[f64]) -> (f64, f64) {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    if sorted.is_empty() {
        return (0.0, 0.0);
    }
    (
        sorted[sorted.len() / 4],
        sorted[(3 * sorted.len() / 4).min(sorted.len() - 1)],
    )
}

/// What a ratio should be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Aim {
    /// At most this.
    AtMost(f64),
    /// At least this.
    AtLeast(f64),
}

/// Prints a comparison's line and says whether its aim is met. The aim is held to the ratio itself,
/// not to the rounded one that is printed.
pub(crate) fn compare(name: &str, ratio: f64, aim: Aim) -> bool {
    let (met, sign, bound) = match aim {
        Aim::AtMost(bound) => (ratio <= bound, "<=", bound),
        Aim::AtLeast(bound) => (ratio >= bound, ">=", bound),
    };
    println!(
        "{name}: ratio {ratio:.3} (aim {sign} {bound}){}",
        if met { "" } else { " missed" }
    );
    met
}

/// Prints the line of a figure that is to stay below a bound, and says whether it does.
pub(crate) fn bounded(name: &str, figure: f64, unit: &str, bound: f64) -> bool {
    let met = figure <= bound;
    println!(
        "{name}: {figure:.0} {unit} (aim <= {bound} {unit}){}",
        if met { "" } else { " missed" }
    );
    met
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quartiles_of_few_figures() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(quartiles(&[1.0, 2.0, 3.0, 4.0, 5.0]), (2.0, 4.0));
    }

    #[test]
    fn aims_are_held_to_the_ratio_itself() {
        assert!(compare("test/at-most", 1.15, Aim::AtMost(1.15)));
        assert!(!compare("test/at-most", 1.1501, Aim::AtMost(1.15)));
        assert!(compare("test/at-least", 0.5, Aim::AtLeast(0.5)));
        assert!(!compare("test/at-least", 0.4999, Aim::AtLeast(0.5)));
        assert!(bounded("test/bounded", 128.0, "MiB", 128.0));
        assert!(!bounded("test/bounded", 128.1, "MiB", 128.0));
    }
}
