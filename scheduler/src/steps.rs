//! How many of a set of like nodes are free over time, as steps. Nodes that are alike need no more than
//! this: if the counts fit at every moment, nodes can be found by going through the starts in order.

use crate::Time;

/// A number over time: each entry holds from its time until that of the next, the last for ever.
#[derive(Debug, Clone)]
pub(crate) struct Steps {
    at: Vec<(Time, i32)>,
    /// Something is taken later than it begins: without that the number only rises.
    dips: bool,
}

impl Steps {
    /// Begins at `now` with `free`, and rises at each of `ends` by one or more.
    pub(crate) fn new(now: Time, free: i32, ends: &mut [(Time, i32)]) -> Steps {
        ends.sort_unstable();
        let mut at = Vec::with_capacity(ends.len() + 4);
        at.push((now, free));
        for (end, count) in ends {
            let (last, level) = at[at.len() - 1];
            if *end <= last {
                at.last_mut().expect("it has the first entry").1 += *count;
            } else {
                at.push((*end, level + *count));
            }
        }
        Steps { at, dips: false }
    }

    /// The entry that holds at `time`.
    fn index(&self, time: Time) -> usize {
        if self.at.get(1).is_none_or(|(next, _)| time < *next) {
            return 0;
        }
        self.at.partition_point(|(from, _)| *from <= time).saturating_sub(1)
    }

    /// The number at a time; less than none is none. There is less where nodes are in use though they
    /// should be worked on.
    pub(crate) fn get(&self, time: Time) -> i32 {
        self.at[self.index(time)].1.max(0)
    }

    /// The least number from `from` until `until`.
    pub(crate) fn low(&self, from: Time, until: Time) -> i32 {
        let first = self.index(from);
        if !self.dips {
            return self.at[first].1;
        }
        let inside = self.at[first..].iter().take_while(|(time, _)| *time < until);
        let later = inside.skip(1).map(|(_, count)| *count).min();
        later.unwrap_or(i32::MAX).min(self.at[first].1)
    }

    /// Adds `change` from `from` until `until`.
    pub(crate) fn add(&mut self, from: Time, until: Time, change: i32) {
        let from = from.max(self.at[0].0);
        if until <= from || change == 0 {
            return;
        }
        let first = self.split(from);
        let last = self.split(until);
        for (_, count) in &mut self.at[first..last] {
            *count += change;
        }
        // What is taken from the first moment on leaves a number that only rises.
        if change > 0 || first > 0 {
            self.dips = true;
        }
    }

    /// Makes an entry begin at `time`.
    fn split(&mut self, time: Time) -> usize {
        let index = self.index(time);
        let (from, count) = self.at[index];
        if from == time {
            return index;
        }
        self.at.insert(index + 1, (time, count));
        index + 1
    }

    /// Adds each change after `time`; less than none is none.
    pub(crate) fn changes(&self, time: Time, to: &mut Vec<(Time, i32)>) {
        let from = self.index(time);
        let pairs = self.at[from..].windows(2).filter(|pair| pair[1].0 > time);
        to.extend(pairs.map(|pair| (pair[1].0, pair[1].1.max(0) - pair[0].1.max(0))));
    }

    /// The first time from `from` on at which fewer than `count` are free.
    pub(crate) fn first_below(&self, count: i32, from: Time) -> Time {
        let first = self.index(from);
        let mut below = self.at[first..].iter().filter(|(_, free)| *free < count);
        below.next().map_or(Time::MAX, |(time, _)| (*time).max(from))
    }

    /// The first time from `from` on at which `count` are free for `length`.
    pub(crate) fn first(&self, count: i32, length: Time, from: Time) -> Time {
        let mut index = self.index(from);
        let mut start = from.max(self.at[0].0);
        let mut scan = index;
        loop {
            match self.at.get(scan) {
                None => return start,
                Some((time, _)) if scan > index && *time >= start.saturating_add(length) => {
                    return start;
                }
                Some((_, free)) if *free < count => {
                    // Nothing that begins before the next entry can last.
                    index = scan + 1;
                    start = match self.at.get(index) {
                        Some((time, _)) => *time,
                        None => return Time::MAX,
                    };
                    scan = index;
                }
                Some(_) => scan += 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_missing_for_its_time_only() {
        let mut steps = Steps::new(0, 2, &mut [(10, 3), (5, 1)]);
        assert_eq!([0, 4, 5, 9, 10].map(|t| steps.get(t)), [2, 2, 3, 3, 6]);
        steps.add(7, 20, -3);
        assert_eq!([5, 7, 10, 19, 20].map(|t| steps.get(t)), [3, 0, 3, 3, 6]);
        assert_eq!(steps.low(0, 7), 2);
        assert_eq!(steps.low(0, 8), 0);
        let mut changes = Vec::new();
        steps.changes(0, &mut changes);
        assert_eq!(changes, [(5, 1), (7, -3), (10, 3), (20, 3)]);
    }

    #[test]
    fn the_first_time_lasts_as_long_as_asked() {
        let mut steps = Steps::new(0, 2, &mut [(10, 3)]);
        steps.add(20, 30, -5);
        assert_eq!(steps.first(2, 20, 0), 0);
        assert_eq!(steps.first(2, 21, 0), 30);
        assert_eq!(steps.first(3, 10, 0), 10);
        assert_eq!(steps.first(3, 11, 0), 30);
        assert_eq!(steps.first(6, 1, 0), Time::MAX);
    }
}
