//! Finds nodes in cells for all parts of a claim at once, exactly, or says that there are not enough.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use crate::{RackId, cells::Cells, needs::Part};

/// So many nodes of a cell, for a part.
pub(crate) type Share = (usize, u32);

/// For each part, how many nodes of which cells; `available` says how many a cell has. None if not all
/// parts can be met at once. For parts that must stand in one rack each, all racks are tried, the
/// fullest fit first; for those that may stand in several, only the largest racks.
pub(crate) fn matching(
    parts: &[Part],
    cells: &Cells,
    mut available: impl FnMut(usize) -> u32,
) -> Option<Vec<Vec<Share>>> {
    if let [part] = parts
        && part.racks.is_none()
    {
        return one(part, available).map(|shares| vec![shares]);
    }
    let mut left: HashMap<usize, u32> = HashMap::new();
    for cell in parts.iter().flat_map(|part| part.cells.iter()) {
        let cell = *cell as usize;
        left.entry(cell).or_insert_with(|| available(cell));
    }
    let mut chosen = Vec::with_capacity(parts.len());
    in_racks(parts, cells, &left, &mut chosen)
}

/// Chooses racks for the parts behind those that are chosen, then matches all.
fn in_racks(
    parts: &[Part],
    cells: &Cells,
    left: &HashMap<usize, u32>,
    chosen: &mut Vec<Rc<[u32]>>,
) -> Option<Vec<Vec<Share>>> {
    let next = chosen.len();
    let Some(part) = parts.get(next) else {
        return flow(parts, chosen, left.clone());
    };
    // The parts of a request stand side by side.
    let same = parts[next..].iter().take_while(|other| other.request == part.request).count();
    let of_request = &parts[next..next + same];
    let choices = match part.racks {
        None => vec![None],
        Some(racks) => rack_choices(of_request, racks, cells, left).into_iter().map(Some).collect(),
    };
    for racks in choices {
        chosen.extend(of_request.iter().map(|part| match &racks {
            None => part.cells.clone(),
            Some(racks) => {
                let is_in = |cell: &&u32| racks.contains(&cells.all[**cell as usize].rack);
                part.cells.iter().filter(is_in).copied().collect()
            }
        }));
        let found = in_racks(parts, cells, left, chosen);
        if found.is_some() {
            return found;
        }
        chosen.truncate(next);
    }
    None
}

/// Sets of racks for a request, the fullest fit first. The homes of ranks that must meet them leave no
/// choice.
fn rack_choices(
    parts: &[Part],
    racks: u32,
    cells: &Cells,
    left: &HashMap<usize, u32>,
) -> Vec<Vec<RackId>> {
    let rack = |cell: &u32| cells.all[*cell as usize].rack;
    let at_home = parts.iter().filter(|part| part.is_home).flat_map(|part| part.cells.iter());
    let forced: BTreeSet<RackId> = at_home.map(rack).collect();
    let forced: Vec<RackId> = forced.into_iter().collect();
    let Some(more) = (racks as usize).checked_sub(forced.len()) else { return Vec::new() };
    let others = || parts.iter().filter(|part| !part.is_home);
    let count: u32 = others().map(|part| part.count).sum();
    if more == 0 || count == 0 {
        return vec![forced];
    }
    let mut by_rack: BTreeMap<RackId, u32> = BTreeMap::new();
    for cell in others().flat_map(|part| part.cells.iter()) {
        if !forced.contains(&rack(cell)) {
            *by_rack.entry(rack(cell)).or_default() += left[&(*cell as usize)];
        }
    }
    let mut by_rack: Vec<(u32, RackId)> = by_rack.into_iter().map(|(r, n)| (n, r)).collect();
    by_rack.sort_unstable();
    let with = |racks: &[RackId]| [&forced[..], racks].concat();
    let enough = by_rack.iter().filter(|(free, _)| *free >= count || !forced.is_empty());
    let mut choices: Vec<Vec<RackId>> = enough.map(|(_, rack)| with(&[*rack])).collect();
    if more > 1 {
        let largest: Vec<RackId> = by_rack.iter().rev().take(more).map(|(_, rack)| *rack).collect();
        choices.push(with(&largest));
    }
    if choices.is_empty() && !forced.is_empty() {
        choices.push(forced);
    }
    choices
}

/// Matches all parts to the cells that are chosen for each.
fn flow(
    parts: &[Part],
    chosen: &[Rc<[u32]>],
    mut left: HashMap<usize, u32>,
) -> Option<Vec<Vec<Share>>> {
    let mut shares: Vec<Vec<Share>> = vec![Vec::new(); parts.len()];
    for (index, part) in parts.iter().enumerate() {
        let missing = take(part.count, chosen[index].iter(), &mut left, &mut shares[index]);
        for _ in 0..missing {
            if !augment(chosen, index, &mut left, &mut shares) {
                return None;
            }
        }
    }
    Some(shares)
}

fn one(part: &Part, mut available: impl FnMut(usize) -> u32) -> Option<Vec<Share>> {
    let mut missing = part.count;
    let mut shares = Vec::new();
    for cell in part.cells.iter() {
        let cell = *cell as usize;
        let count = available(cell).min(missing);
        if count > 0 {
            shares.push((cell, count));
            missing -= count;
            if missing == 0 {
                return Some(shares);
            }
        }
    }
    None
}

/// Takes up to `count`, and says how many are missing.
fn take<'a>(
    count: u32,
    cells: impl Iterator<Item = &'a u32>,
    left: &mut HashMap<usize, u32>,
    shares: &mut Vec<Share>,
) -> u32 {
    let mut missing = count;
    for cell in cells {
        let cell = *cell as usize;
        let has = left.get_mut(&cell).expect("every cell of a part was looked at");
        let count = (*has).min(missing);
        if count > 0 {
            *has -= count;
            shares.push((cell, count));
            missing -= count;
        }
    }
    missing
}

/// Gives part `wanting` one node more, by moving other parts to other cells where that helps.
fn augment(
    chosen: &[Rc<[u32]>],
    wanting: usize,
    left: &mut HashMap<usize, u32>,
    shares: &mut [Vec<Share>],
) -> bool {
    // Breadth-first from part to cell to a part that has nodes there.
    let mut came_from: HashMap<usize, usize> = HashMap::new();
    let mut holder: HashMap<usize, (usize, usize)> = HashMap::new();
    let mut queue = std::collections::VecDeque::from([wanting]);
    let mut seen = vec![false; chosen.len()];
    seen[wanting] = true;
    while let Some(part) = queue.pop_front() {
        for cell in chosen[part].iter().map(|cell| *cell as usize) {
            if came_from.contains_key(&cell) {
                continue;
            }
            came_from.insert(cell, part);
            if left[&cell] > 0 {
                *left.get_mut(&cell).expect("it is there") -= 1;
                shift(cell, &came_from, &holder, wanting, shares);
                return true;
            }
            for (other, held) in shares.iter().enumerate() {
                if !seen[other] && held.iter().any(|(c, n)| *c == cell && *n > 0) {
                    seen[other] = true;
                    holder.insert(other, (cell, part));
                    queue.push_back(other);
                }
            }
        }
    }
    false
}

/// Moves one node along the chain that ends in a cell with a free node.
fn shift(
    mut cell: usize,
    came_from: &HashMap<usize, usize>,
    holder: &HashMap<usize, (usize, usize)>,
    wanting: usize,
    shares: &mut [Vec<Share>],
) {
    loop {
        let part = came_from[&cell];
        match shares[part].iter_mut().find(|(c, _)| *c == cell) {
            Some((_, count)) => *count += 1,
            None => shares[part].push((cell, 1)),
        }
        if part == wanting {
            return;
        }
        let (gives, _) = holder[&part];
        let index = shares[part].iter().position(|(c, _)| *c == gives);
        let index = index.expect("it holds a node there");
        shares[part][index].1 -= 1;
        if shares[part][index].1 == 0 {
            shares[part].swap_remove(index);
        }
        cell = gives;
    }
}
