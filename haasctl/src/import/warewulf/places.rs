//! The lines of nodes.conf in which nodes and their values stand, for messages.

use std::collections::BTreeMap;

use crate::import::draft::Problems;

/// Where nodes stand in the file; YAML values themselves do not know it.
pub(super) struct Places<'t> {
    lines: Vec<&'t str>,
    /// The lines of each node: the first, and behind the last.
    nodes: BTreeMap<String, (usize, usize)>,
    pub(super) has_duplicates: bool,
}

impl<'t> Places<'t> {
    pub(super) fn of(text: &'t str, problems: &mut Problems) -> Self {
        let lines: Vec<_> = text.lines().collect();
        let mut places = Self { lines, nodes: BTreeMap::new(), has_duplicates: false };
        let mut indent = None;
        let mut inside = false;
        let mut last: Option<String> = None;
        for (index, line) in places.lines.iter().enumerate() {
            let content = line.trim();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let depth = line.len() - line.trim_start().len();
            if depth == 0 {
                inside = content.starts_with("nodes:");
                (indent, last) = (None, None);
                continue;
            }
            if inside && depth <= *indent.get_or_insert(depth) {
                let Some((key, _)) = content.split_once(':') else { continue };
                let key = key.trim().trim_matches(['"', '\'']).to_owned();
                if let Some((first, _)) = places.nodes.get(&key) {
                    let told = format!("{key} is already the node in line {first}");
                    problems.add(index + 1, told);
                    places.has_duplicates = true;
                }
                places.nodes.insert(key.clone(), (index + 1, index + 2));
                last = Some(key);
            } else if let Some((_, end)) = last.as_ref().and_then(|key| places.nodes.get_mut(key)) {
                *end = index + 2;
            }
        }
        places
    }

    /// The line in which a node begins.
    pub(super) fn line(&self, node: &str) -> usize {
        self.nodes.get(node).map_or(1, |(first, _)| *first)
    }

    /// The line of a value: in the node, else in a profile, else the node's first.
    pub(super) fn value(&self, node: &str, value: &str) -> usize {
        let (first, end) = self.nodes.get(node).copied().unwrap_or((1, 1));
        let has = |line: &usize| self.lines.get(line - 1).is_some_and(|line| line.contains(value));
        let own = (first..end).find(has);
        own.or_else(|| (1..=self.lines.len()).find(has)).unwrap_or(first)
    }
}
