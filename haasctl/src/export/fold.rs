//! Folds names as genders and Slurm read them: one pair of brackets, at the end of a name. Node
//! sets elsewhere in haas may have several pairs, which genders does not know.

/// A name, split before the digits at its end.
fn split(name: &str) -> (&str, &str) {
    let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count();
    name.split_at(name.len() - digits)
}

/// The number that a name ends with, the text before it, and how many digits it is padded to: 0 if
/// it is not padded.
pub(super) fn number(name: &str) -> Option<(&str, u64, usize)> {
    let (stem, digits) = split(name);
    let number = digits.parse().ok()?;
    let padded = digits.len() > 1 && digits.starts_with('0');
    Some((stem, number, if padded { digits.len() } else { 0 }))
}

/// Whether `next` can stand in one pair of brackets with `first`. `n08` and `n10` can, `n8` and
/// `n10` too; `n08` and `n8` cannot.
pub(super) fn goes_with(first: &str, next: &str) -> bool {
    let (Some((stem, _, width)), Some((other, _, _))) = (number(first), number(next)) else {
        return false;
    };
    let digits = |name: &str| split(name).1.len();
    stem == other && (width == 0 && !split(next).1.starts_with('0') || digits(next) == width)
}

/// Names that go with each other, in their order, as `n[01-03,07]`.
pub(super) fn brackets(names: &[&str]) -> String {
    let [first, .., _] = names else { return names.concat() };
    let stem = split(first).0;
    let mut ranges: Vec<(&str, &str)> = Vec::new();
    for name in names {
        let digits = split(name).1;
        let follows = |last: &str| last.parse::<u64>().ok().map(|n| n + 1) == digits.parse().ok();
        match ranges.last_mut() {
            Some((_, last)) if follows(last) => *last = digits,
            _ => ranges.push((digits, digits)),
        }
    }
    let ranges: Vec<_> = ranges
        .into_iter()
        .map(|(from, to)| if from == to { from.to_owned() } else { format!("{from}-{to}") })
        .collect();
    format!("{stem}[{}]", ranges.join(","))
}

/// Sorted names as a list of folded ones.
pub(super) fn list(names: &[&str]) -> String {
    let mut runs: Vec<Vec<&str>> = Vec::new();
    for name in names {
        match runs.last_mut() {
            Some(run) if goes_with(run[0], name) => run.push(name),
            _ => runs.push(vec![name]),
        }
    }
    runs.iter().map(|run| brackets(run)).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_number_at_the_end_is_folded() {
        for (names, folded) in [
            (&["r1n1", "r1n2", "r2n1", "r2n2"][..], "r1n[1-2],r2n[1-2]"),
            (&["n08", "n09", "n10", "n12"], "n[08-10,12]"),
            (&["n8", "n9", "n10"], "n[8-10]"),
            (&["n1", "n01"], "n1,n01"),
            (&["n099", "n100"], "n[099-100]"),
            (&["login"], "login"),
            (&["n99999999999999999999999"], "n99999999999999999999999"),
        ] {
            assert_eq!(list(names), folded);
        }
    }
}
