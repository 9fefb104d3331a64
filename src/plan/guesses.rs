//! Where the next thousands of a directory's names lie, from how the last ones go on.
//!
//! Difficulties, and what solves each:
//! 1. *Which part of a name changes, and how*: a counter, hexadecimal, a date. Nobody says, so it is learned. Names are taken
//!    as the leaves of a tree with one level for each byte. Below the level on which several nodes were seen wholly
//!    ([`COMPLETE_NODES`]), each byte has the shares that it had in them ([`Shares`]); above, the names go on as numbers do,
//!    with a carry ([`Places`]).
//! 2. *What is random is not even*: where the shares of bytes differ no more than chance makes them, they are the same
//!    ([`Shares::new`]).
//! 3. *How dense names are* is how far the last pages went on, each by itself. How much that differs is how wrong a guess will
//!    be: it is made so much nearer, and not at all where it differs much ([`Pace`]).
//! 4. *A guess must be a name that a request can carry*: text, and without a slash, behind which a listing would show the same
//!    directory again.

use std::collections::BTreeMap;

/// Nodes of the tree that must have been seen wholly on the level whose nodes are counted.
const COMPLETE_NODES: usize = 4;
/// Pages that must have been seen.
const FEWEST_PAGES: usize = 3;
/// Bytes of a name that matter below that level.
const MAX_LEVELS: usize = 24;
/// Bytes are learned until they tell names apart that are this share of a name away.
const FINEST: f64 = 0.1;
/// How much nearer than expected a guess is made, as a share of a page: at least, and in how many times of what pages differ by.
const LEAST_SLACK: f64 = 1.0 / 256.0;
const SLACK_OF_SPREAD: f64 = 3.0;
const MOST_SLACK: f64 = 0.1;
/// Pages that differ by more tell nothing.
const MOST_SPREAD: f64 = 0.15;
/// Nobody needs to know what is further away, in nodes.
const FURTHEST: f64 = 1e12;
/// Bytes below that level in which it is looked for what digits there are.
const NEIGHBOURS: usize = 8;
/// Letters that count as digits must be so many where they are no hexadecimal ones.
const FEWEST_LETTERS: usize = 4;

/// How names go on.
pub struct Guesses {
    places: Places,
    levels: Vec<Shares>,
    pace: Pace,
}

impl Guesses {
    /// From consecutive pages of names, in the order of their bytes. `None` where they tell nothing.
    #[must_use]
    pub fn learn<'a>(pages: impl Iterator<Item = &'a [Box<str>]> + Clone) -> Option<Self> {
        let names: Vec<&[u8]> = pages
            .clone()
            .flat_map(|page| page.iter().map(|name| name.as_bytes()))
            .collect();
        let common: Vec<usize> = names
            .windows(2)
            .map(|pair| common_len(pair[0], pair[1]))
            .collect();
        let mut least = common.clone();
        let (_, depth, _) =
            (least.len() > COMPLETE_NODES).then(|| least.select_nth_unstable(COMPLETE_NODES))?;
        let depth = *depth + 1;
        let places = Places::learn(&names, &common, depth)?;
        let begins = common.iter().position(|len| *len < depth)? + 1;
        let ends = common.iter().rposition(|len| *len < depth)? + 1;
        let levels = levels_of(&names[begins..ends], depth, ends - begins);
        let mut guesses = Self {
            places,
            levels,
            pace: Pace::default(),
        };
        guesses.pace = guesses.pace_of(pages)?;
        Some(guesses)
    }

    /// The name that is expected about `names` names behind `from`, rather too near than too far; `None` where nobody knows.
    #[must_use]
    pub fn behind(&self, from: &str, names: usize) -> Option<String> {
        let bytes = from.as_bytes();
        let nodes = names as f64 * (1.0 - self.pace.slack) * self.pace.nodes_per_name;
        let to = self.within(bytes) + nodes;
        let whole = to.floor();
        if whole >= FURTHEST {
            return None;
        }
        let mut name = self.places.behind(bytes, whole as u64)?;
        self.go_down(&mut name, to - whole);
        let text = match String::from_utf8(name) {
            Ok(text) => text,
            Err(error) => {
                let valid = error.utf8_error().valid_up_to();
                let mut name = error.into_bytes();
                name.truncate(valid);
                String::from_utf8(name).ok()?
            }
        };
        (*text > *from && !text.contains('/')).then_some(text)
    }

    /// Which share of the names below its node lies before the name.
    fn within(&self, name: &[u8]) -> f64 {
        let (mut before, mut size) = (0.0, 1.0);
        for (level, shares) in self.levels.iter().enumerate() {
            let at = self.places.depth() + level;
            if at > name.len() {
                break;
            }
            let (less, own) = shares.of(symbol(name, at));
            before += size * less;
            size *= own;
            if size == 0.0 {
                break;
            }
        }
        before
    }

    /// Adds the bytes that lead to this share of the names below a node.
    fn go_down(&self, name: &mut Vec<u8>, mut share: f64) {
        let mut names = 1.0 / self.pace.nodes_per_name;
        for shares in &self.levels {
            let Some((symbol, less, own)) = shares.at(share) else {
                return;
            };
            let byte = symbol.and_then(|byte| (byte != b'/').then_some(byte));
            let Some(byte) = byte else { return };
            name.push(byte);
            share = ((share - less) / own).clamp(0.0, 1.0);
            names *= own;
            if names < FINEST {
                return;
            }
        }
    }

    fn pace_of<'a>(&self, pages: impl Iterator<Item = &'a [Box<str>]>) -> Option<Pace> {
        let mut densities = Vec::new();
        let mut last: Option<&str> = None;
        for page in pages {
            let Some(end) = page.last() else { continue };
            if let Some(last) = last {
                let (from, to) = (last.as_bytes(), end.as_bytes());
                let nodes = self.places.between(from, to) + self.within(to) - self.within(from);
                densities.push(nodes / page.len() as f64);
            }
            last = Some(end);
        }
        Pace::of(densities)
    }
}

/// How far names go on.
#[derive(Default)]
struct Pace {
    nodes_per_name: f64,
    /// A guess is nearer by this share.
    slack: f64,
}

impl Pace {
    fn of(mut densities: Vec<f64>) -> Option<Self> {
        if densities.len() + 1 < FEWEST_PAGES
            || densities
                .iter()
                .any(|density| !density.is_finite() || *density <= 0.0)
        {
            return None;
        }
        densities.sort_unstable_by(f64::total_cmp);
        let median = densities[densities.len() / 2];
        let differences = densities.iter().map(|density| (density - median).abs());
        let spread = differences.sum::<f64>() / median / densities.len() as f64;
        (spread <= MOST_SPREAD).then(|| Self {
            nodes_per_name: median,
            slack: (spread * SLACK_OF_SPREAD).clamp(LEAST_SLACK, MOST_SLACK),
        })
    }
}

/// What a name has at a level: a byte, or its end, which comes before all bytes.
fn symbol(name: &[u8], at: usize) -> Option<u8> {
    name.get(at).copied()
}

fn common_len(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(a, b)| a == b).count()
}

/// Which share of the names below a node goes on with each byte.
struct Shares {
    /// What it goes on with, the share of all less ones, and its own.
    of: Vec<(Option<u8>, f64, f64)>,
}

impl Shares {
    fn new(counts: &BTreeMap<Option<u8>, usize>) -> Self {
        let total = counts.values().sum::<usize>() as f64;
        let kinds = counts.len() as f64;
        let expected = total / kinds;
        let deviation = |count: usize| (count as f64 - expected).powi(2) / expected;
        // Pearson's test: what it has for equal shares, and three times what that differs by.
        let is_even = counts.values().map(|count| deviation(*count)).sum::<f64>()
            <= kinds - 1.0 + 3.0 * (2.0 * (kinds - 1.0)).sqrt();
        let mut less = 0.0;
        let mut of = Vec::with_capacity(counts.len());
        for (symbol, count) in counts {
            let own = if is_even {
                1.0 / kinds
            } else {
                *count as f64 / total
            };
            of.push((*symbol, less, own));
            less += own;
        }
        Self { of }
    }

    /// The share of what is less, and that of the symbol itself: nothing if it was not seen.
    fn of(&self, symbol: Option<u8>) -> (f64, f64) {
        let at = self.of.partition_point(|(other, ..)| *other < symbol);
        match self.of.get(at) {
            Some((other, less, own)) if *other == symbol => (*less, *own),
            Some((_, less, _)) => (*less, 0.0),
            None => (1.0, 0.0),
        }
    }

    /// What lies at this share, the share of what is less, and its own.
    fn at(&self, share: f64) -> Option<(Option<u8>, f64, f64)> {
        let behind = self.of.partition_point(|(_, less, _)| *less <= share);
        self.of.get(behind.saturating_sub(1)).copied()
    }
}

/// Names that are all below whole nodes, level by level, until they can be told apart.
fn levels_of(names: &[&[u8]], depth: usize, count: usize) -> Vec<Shares> {
    let mut levels = Vec::new();
    // How many names would be taken for one.
    let mut alike = count as f64;
    for at in depth..depth + MAX_LEVELS {
        let mut counts = BTreeMap::new();
        let mut by_byte = [0usize; 256];
        let mut ended = 0;
        for name in names.iter().filter(|name| name.len() >= at) {
            match symbol(name, at) {
                Some(byte) => by_byte[usize::from(byte)] += 1,
                None => ended += 1,
            }
        }
        counts.extend((ended > 0).then_some((None, ended)));
        let seen = (0u8..=255).zip(by_byte).filter(|(_, count)| *count > 0);
        counts.extend(seen.map(|(byte, count)| (Some(byte), count)));
        if counts.keys().all(Option::is_none) {
            break;
        }
        let shares = Shares::new(&counts);
        alike *= shares.of.iter().map(|(_, _, own)| own * own).sum::<f64>();
        levels.push(shares);
        if alike < FINEST {
            break;
        }
    }
    levels
}

/// The bytes of a name down to the level whose nodes are counted, as the digits of a number.
struct Places {
    /// What may stand at each, in its order. Of what is no digit there is one.
    digits: Vec<Vec<u8>>,
}

impl Places {
    /// `common`: how many bytes each name has in common with the next one.
    fn learn(names: &[&[u8]], common: &[usize], depth: usize) -> Option<Self> {
        let last = names.last()?.get(..depth)?;
        let whole = names.last()?;
        let changing = common.iter().copied().min()?;
        let mut seen = vec![[false; 256]; whole.len().min(depth + NEIGHBOURS)];
        for name in names {
            for (at, byte) in name.iter().enumerate().take(seen.len()).skip(changing) {
                seen[at][usize::from(*byte)] = true;
            }
        }
        let mut digits: Vec<Vec<u8>> = Vec::with_capacity(depth);
        let mut at = 0;
        while at < depth {
            let is_digit = |byte: &u8| byte.is_ascii_alphanumeric();
            let len = whole[at..].iter().take_while(|byte| is_digit(byte)).count();
            let run = at..(at + len.max(1)).min(seen.len());
            let union: Vec<u8> = (0u8..=255)
                .filter(u8::is_ascii_alphanumeric)
                .filter(|byte| run.clone().any(|at| seen[at][usize::from(*byte)]))
                .collect();
            let end = (at + len.max(1)).min(depth);
            digits.extend(last[at..end].iter().map(|byte| digits_like(*byte, &union)));
            at = end;
        }
        let mut places = Self { digits };
        places.narrow(names, common, &seen);
        Some(places)
    }

    /// Where a place was seen to begin anew, it is known with what it begins and ends: minutes with 00 and 59.
    fn narrow(&mut self, names: &[&[u8]], common: &[usize], seen: &[[bool; 256]]) {
        let depth = self.depth();
        let mut ends: Vec<Option<(u8, u8)>> = vec![None; depth];
        for (at, len) in common.iter().enumerate().filter(|(_, len)| **len < depth) {
            let (ended, begun) = (names[at], names[at + 1]);
            for place in len + 1..depth.min(ended.len()).min(begun.len()) {
                let known = ends[place].get_or_insert((begun[place], ended[place]));
                *known = (known.0.min(begun[place]), known.1.max(ended[place]));
            }
        }
        for ((digits, ends), seen) in self.digits.iter_mut().zip(ends).zip(seen) {
            let Some((least, greatest)) = ends else { continue };
            let is_within = |digit: &u8| (least..=greatest).contains(digit);
            if digits
                .iter()
                .all(|digit| is_within(digit) || !seen[usize::from(*digit)])
            {
                digits.retain(is_within);
            }
        }
    }

    fn depth(&self) -> usize {
        self.digits.len()
    }

    /// The node that is so many nodes behind that of the name; `None` where no number goes so far.
    fn behind(&self, name: &[u8], mut nodes: u64) -> Option<Vec<u8>> {
        let digit_at = |at: usize, digits: &Vec<u8>| name.get(at).copied().or(digits.first().copied());
        let digits = self.digits.iter().enumerate();
        let mut node: Vec<u8> = digits
            .map(|(at, digits)| digit_at(at, digits))
            .collect::<Option<_>>()?;
        for (byte, digits) in node.iter_mut().zip(&self.digits).rev() {
            if nodes == 0 {
                break;
            }
            let digit = digits.iter().position(|digit| digit == byte)? as u64;
            let sum = digit + nodes;
            *byte = digits[(sum % digits.len() as u64) as usize];
            nodes = sum / digits.len() as u64;
        }
        (nodes == 0).then_some(node)
    }

    /// How many nodes lie between those of two names.
    fn between(&self, from: &[u8], to: &[u8]) -> f64 {
        let (mut nodes, mut weight) = (0.0, 1.0);
        for (at, digits) in self.digits.iter().enumerate().rev() {
            let digit = |name: &[u8]| {
                let byte = name.get(at).copied().unwrap_or_default();
                digits.partition_point(|digit| *digit < byte) as f64
            };
            let difference = digit(to) - digit(from);
            if difference != 0.0 {
                nodes += difference * weight;
            }
            weight *= digits.len() as f64;
        }
        nodes
    }
}

/// The digits of a number that has `byte` at one place, and `seen` where it changes.
fn digits_like(byte: u8, seen: &[u8]) -> Vec<u8> {
    let all = |is: fn(&u8) -> bool| seen.iter().all(is) && is(&byte);
    let is_letter = u8::is_ascii_alphabetic as fn(&u8) -> bool;
    let alone = vec![byte];
    if !byte.is_ascii_alphanumeric() {
        return alone;
    }
    if all(u8::is_ascii_digit) {
        return (b'0'..=b'9').collect();
    }
    if !seen.iter().any(is_letter) {
        // A letter before a counter.
        return alone;
    }
    let has_digits = seen.iter().any(u8::is_ascii_digit);
    if has_digits && all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte)) {
        return (b'0'..=b'9').chain(b'a'..=b'f').collect();
    }
    if has_digits && all(|byte| byte.is_ascii_digit() || (b'A'..=b'F').contains(byte)) {
        return (b'0'..=b'9').chain(b'A'..=b'F').collect();
    }
    let mut digits = seen.to_vec();
    if let Err(at) = digits.binary_search(&byte) {
        digits.insert(at, byte);
    }
    if digits.len() < FEWEST_LETTERS {
        alone
    } else {
        digits
    }
}

#[cfg(test)]
mod tests;
