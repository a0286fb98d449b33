//! Bisection: finds what is refused among many things that are only taken or refused together.
//!
//! Things are tried in groups, each beside all that was taken so far, and a group that is refused is halved. So what is
//! refused because of another is found where it comes after it, and what is taken only because of an earlier one is taken.
//! Of `n` things of which `k` are refused, no more than `2k (log2(n) + 2) + 1` groups are tried. What is told as refused was
//! tried by itself beside what was taken, whatever else was concluded.

/// What is to be done after one was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The others are to be found too.
    GoOn,
    /// It is enough to know of this one.
    Enough,
}

/// One that is refused.
#[derive(Debug)]
pub(super) struct Found<'a> {
    /// Its number.
    pub(super) item: usize,
    /// Why.
    pub(super) reason: String,
    /// What was tried: this one, and what was taken before.
    pub(super) tried: &'a [bool],
    /// Those that needn't be tried any more and aren't wanted, even if they were taken before. More may be added.
    pub(super) left_out: &'a mut [bool],
}

/// Tries some of the things, and gives the reason if they are refused.
pub(super) type Trial<'t, E> = dyn FnMut(&[bool]) -> Result<Option<String>, E> + 't;

/// Finds those of `count` things that are refused, all of which together are refused. `found` is told of each that is. Gives
/// those that are taken together; if it was enough to know of some, only what was taken until then.
///
/// # Errors
/// The first that `trial` has.
pub(super) fn isolate<E>(
    count: usize,
    trial: &mut Trial<'_, E>,
    found: &mut dyn FnMut(Found<'_>) -> Next,
) -> Result<Vec<bool>, E> {
    let mut taken = vec![false; count];
    let mut left_out = vec![false; count];
    let mut refusals = 0_usize;
    // Groups to be tried, the next one last, each with the number of refusals as of which it is known to be refused beside
    // what was taken, if it is.
    let mut groups = vec![(0..count, Some(0))];
    while let Some((group, refused_as_of)) = groups.pop() {
        let mut tried = taken.clone();
        let mut size = 0;
        for item in group.clone() {
            tried[item] = !left_out[item];
            size += usize::from(!left_out[item]);
        }
        if size == 0 {
            continue;
        }
        let is_known = group.len() > 1 && refused_as_of == Some(refusals);
        if !is_known {
            let Some(reason) = trial(&tried)? else {
                taken = tried;
                continue;
            };
            if group.len() == 1 {
                refusals += 1;
                let next = found(Found {
                    item: group.start,
                    reason,
                    tried: &tried,
                    left_out: &mut left_out,
                });
                for (taken, left_out) in taken.iter_mut().zip(&left_out) {
                    *taken &= !left_out;
                }
                if next == Next::Enough {
                    break;
                }
                continue;
            }
        }
        // Both halves are refused together: if all of the first is taken, the second is refused.
        let middle = group.start + group.len() / 2;
        groups.push((middle..group.end, Some(refusals)));
        groups.push((group.start..middle, None));
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Refuses some by themselves, some of which only one is taken, and some without which others aren't.
    #[derive(Clone, Debug)]
    struct Model {
        count: usize,
        refused: BTreeSet<usize>,
        rivals: Vec<(usize, usize)>,
        /// The first is taken only beside the second.
        dependants: Vec<(usize, usize)>,
    }

    impl Model {
        fn refuses(&self, tried: &[bool]) -> bool {
            self.refused.iter().any(|&item| tried[item])
                || self.rivals.iter().any(|&(a, b)| tried[a] && tried[b])
                || self.dependants.iter().any(|&(a, b)| tried[a] && !tried[b])
        }

        /// What is taken if all come one after the other.
        fn one_by_one(&self) -> Vec<bool> {
            let mut taken = vec![false; self.count];
            for item in 0..self.count {
                taken[item] = true;
                taken[item] = !self.refuses(&taken);
            }
            taken
        }
    }

    fn model() -> impl Strategy<Value = Model> {
        (1..400_usize).prop_flat_map(|count| {
            let pairs = || proptest::collection::vec((0..count, 0..count), 0..4);
            let refused = proptest::collection::btree_set(0..count, 0..6);
            (refused, pairs(), pairs()).prop_map(move |(refused, rivals, dependants)| Model {
                count,
                refused,
                rivals: rivals.into_iter().filter(|(a, b)| a != b).collect(),
                // On an earlier one, as a row on the one it refers to.
                dependants: dependants.into_iter().filter(|(a, b)| a > b).collect(),
            })
        })
    }

    proptest! {
        /// The same as if all were tried one by one, in far fewer trials.
        #[test]
        fn what_is_refused_is_found_and_everything_else_is_taken(model in model()) {
            let mut trials = 0_usize;
            let mut refused = BTreeSet::new();
            let all_refused = model.refuses(&vec![true; model.count]);
            prop_assume!(all_refused);
            let taken = isolate::<()>(
                model.count,
                &mut |tried| {
                    trials += 1;
                    Ok(model.refuses(tried).then(|| "no".to_owned()))
                },
                &mut |found| {
                    assert!(model.refuses(found.tried) && found.tried[found.item]);
                    refused.insert(found.item);
                    Next::GoOn
                },
            ).expect("the model has no errors");
            prop_assert_eq!(&taken, &model.one_by_one());
            prop_assert!(!model.refuses(&taken));
            let rest: BTreeSet<usize> = (0..model.count).filter(|&item| !taken[item]).collect();
            prop_assert_eq!(&rest, &refused);
            let depth = model.count.ilog2() as usize + 2;
            prop_assert!(trials <= 2 * refused.len() * depth + 1, "{} trials for {:?}", trials, refused);
        }
    }

    fn isolated(count: usize, refuses: impl Fn(&[bool]) -> bool) -> (Vec<usize>, Vec<bool>) {
        let mut refused = Vec::new();
        let taken = isolate::<()>(
            count,
            &mut |tried| Ok(refuses(tried).then(String::new)),
            &mut |found| {
                refused.push(found.item);
                Next::GoOn
            },
        );
        (refused, taken.expect("there are no errors"))
    }

    #[test]
    fn the_later_of_two_that_exclude_each_other_is_refused() {
        let (refused, taken) = isolated(1000, |tried| tried[3] && tried[900]);
        assert_eq!(refused, [900]);
        assert_eq!(taken.iter().filter(|&&taken| taken).count(), 999);
    }

    #[test]
    fn who_mended_it_meanwhile_gets_nothing_refused() {
        let (refused, taken) = isolated(10, |_| false);
        assert_eq!((refused, taken), (vec![], vec![true; 10]));
    }

    #[test]
    fn what_is_left_out_is_neither_tried_nor_taken() {
        let mut found_of = Vec::new();
        let taken = isolate::<()>(
            100,
            &mut |tried| Ok(tried[10..20].contains(&true).then(String::new)),
            &mut |found| {
                found_of.push(found.item);
                found.left_out[5..20].fill(true);
                Next::GoOn
            },
        );
        let expected: Vec<bool> = (0..100).map(|item| !(5..20).contains(&item)).collect();
        assert_eq!((found_of, taken), (vec![10], Ok(expected)));
    }

    #[test]
    fn one_is_enough_for_who_waits_and_an_error_ends_it() {
        let mut trials = 0;
        let mut found_of = Vec::new();
        let taken = isolate::<()>(
            4096,
            &mut |tried| {
                trials += 1;
                Ok(tried[77..].contains(&true).then(String::new))
            },
            &mut |found| {
                found_of.push(found.item);
                Next::Enough
            },
        );
        assert_eq!(found_of, [77]);
        assert!(trials <= 14, "{trials} trials for one");
        assert_eq!(taken.map(|taken| taken.len()), Ok(4096));
        assert_eq!(
            isolate(8, &mut |_| Err("gone"), &mut |_| Next::GoOn),
            Err("gone")
        );
    }
}
