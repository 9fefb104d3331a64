//! How one budget is divided between those who read ahead.

/// The most that each may have so that all together have at most `total`: who wants less leaves the rest to the others, who
/// get equal shares of it. `u64::MAX` where there is enough for all.
#[must_use]
pub fn level(wants: impl IntoIterator<Item = u64>, total: u64) -> u64 {
    let mut wants: Vec<u64> = wants.into_iter().collect();
    wants.sort_unstable();
    let mut left = total;
    for (index, want) in wants.iter().enumerate() {
        let share = left / (wants.len() - index) as u64;
        if *want > share {
            return share;
        }
        left -= want;
    }
    u64::MAX
}

#[cfg(test)]
mod tests {
    use super::super::tests::repeatable;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn who_wants_little_leaves_the_rest_to_the_others() {
        assert_eq!(level([], 100), u64::MAX);
        assert_eq!(level([60, 40], 100), u64::MAX);
        assert_eq!(level([60, 60], 100), 50);
        assert_eq!(level([10, 60, 60], 100), 45);
        assert_eq!(level([10, 200], 100), 90);
        assert_eq!(level([5; 1000], 100), 0);
    }

    proptest! {
        #![proptest_config(repeatable())]

        #[test]
        fn nobody_gets_more_than_there_is_and_nothing_is_left_that_is_wanted(
            wants in prop::collection::vec(0..1_000_000u64, 0..50),
            total in 0..10_000_000u64,
        ) {
            let level = level(wants.iter().copied(), total);
            let given: u64 = wants.iter().map(|want| (*want).min(level)).sum();
            prop_assert!(given <= total);
            let all: u64 = wants.iter().sum();
            prop_assert!(given == all || given + wants.len() as u64 > total, "{given} of {total}");
        }
    }
}
