//! How names go on.

use super::*;
use crate::plan::testing::repeatable;
use proptest::prelude::*;

fn learned(names: &[String], page: usize) -> Option<Guesses> {
    let mut names: Vec<Box<str>> = names.iter().map(|name| name.as_str().into()).collect();
    names.sort_unstable();
    let pages: Vec<&[Box<str>]> = names.chunks(page).collect();
    Guesses::learn(pages.into_iter())
}

fn counters(range: std::ops::Range<u64>, name: impl Fn(u64) -> String) -> Vec<String> {
    range.map(name).collect()
}

#[test]
fn a_counter_goes_on_with_a_carry() {
    let guesses = learned(&counters(96_000..99_000, |n| format!("img-{n:07}.jpg")), 1_000).expect("even");
    let next = guesses.behind("img-0098999.jpg", 1_000).expect("known");
    assert!(
        *"img-0099990" < *next && *next <= *"img-0099999.jpg",
        "{next} is little nearer"
    );
    let further = guesses.behind("img-0099990.jpg", 1_000).expect("known");
    assert!(
        *"img-0100980" < *further && *further < *"img-0100991",
        "{further}"
    );
}

#[test]
fn times_go_on_as_clocks_do() {
    let time = |n: u64| format!("{:02}:{:02}:{:02}", n / 3_600, n / 60 % 60, n % 60);
    let guesses = learned(&counters(3_000..9_000, time), 1_000).expect("even");
    let next = guesses.behind(&time(10_500), 1_000).expect("known");
    assert!(*time(11_480) < *next && *next <= *time(11_500), "{next}");
}

#[test]
fn hexadecimal_digits_are_known_before_all_were_seen() {
    let guesses = learned(&counters(0x17_000..0x19_000, |n| format!("{n:08x}")), 1_000).expect("even");
    let next = guesses.behind("00019fff", 0x1000).expect("known");
    assert!(*"0001afe0" < *next && *next < *"0001b000", "{next}");
}

#[test]
fn nothing_is_said_beyond_what_is_known() {
    let guesses = learned(&counters(6_000..9_000, |n| format!("g-{n:04}")), 1_000).expect("even");
    assert_eq!(guesses.behind("g-9999", 1_000), None, "what comes after a group");
    assert_eq!(guesses.behind("other", 1_000), None);
    assert!(learned(&[], 10).is_none());
    assert!(
        learned(&counters(0..1_000, |n| format!("{n:04}")), 500).is_none(),
        "two pages"
    );
    let uneven = |n: u64| format!("{:06}", n * n / 100);
    assert!(learned(&counters(0..900, uneven), 300).is_none());
}

#[test]
fn a_guess_is_text_without_a_slash() {
    let names = counters(0..4_000, |n| format!("{}é{:03}/", n / 1_000, n % 1_000));
    let guesses = learned(&names, 1_000).expect("even");
    for n in (0..4_000).step_by(77) {
        let from = &names[n];
        if let Some(next) = guesses.behind(from, 100) {
            assert!(*next > **from && !next.contains('/'), "{next} behind {from}");
        }
    }
}

proptest! {
    #![proptest_config(repeatable())]

    /// Whatever the names are, and from wherever it is asked.
    #[test]
    fn a_guess_lies_behind_and_can_be_asked_for(
        names in proptest::collection::btree_set("([ab]|é|𝄞|-)?[0-9a-f]{1,3}(/|ü|\\PC)?", 20..200),
        page in 3..30usize,
        from in "\\PC{0,4}",
        count in 1..1_000usize,
    ) {
        let names: Vec<String> = names.into_iter().collect();
        let Some(guesses) = learned(&names, page) else { return Ok(()) };
        for from in names.iter().chain([&from]) {
            if let Some(next) = guesses.behind(from, count) {
                prop_assert!(*next > **from && !next.contains('/'), "{} behind {}", next, from);
                prop_assert!(next.len() <= from.len().max(8) + MAX_LEVELS);
            }
        }
    }

    /// Dense counters of any kind are told to a name.
    #[test]
    fn a_dense_counter_is_told(first in 0..1_000_000_000u64, ahead in 1..8u64, base in 0..3usize) {
        let name = |n: u64| match base {
            0 => format!("a-{n:012}.txt"),
            1 => format!("{n:012x}"),
            _ => format!("{n:012X}.é"),
        };
        let guesses = learned(&counters(first..first + 4_000, name), 500).expect("even");
        let from = first + 3_999;
        let next = guesses.behind(&name(from), 500 * ahead as usize).expect("known");
        let (least, most) = (name(from + 500 * ahead - 3 * ahead - 2), name(from + 500 * ahead));
        prop_assert!(least <= next && next <= most, "{} <= {} <= {}", least, next, most);
    }
}
