//! Finds nodes in cells for all parts of a claim at once, exactly, or says that there are not enough.

use std::collections::HashMap;

use crate::{RackId, cells::Cells, needs::Part};

/// So many nodes of a cell, for a part.
pub(crate) type Share = (usize, u32);

/// For each part, how many nodes of which cells; `available` says how many a cell has. None if not all
/// parts can be met. Parts that must stand in few racks choose first, each the fullest fit; the others are
/// matched exactly.
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
    let mut shares: Vec<Vec<Share>> = vec![Vec::new(); parts.len()];
    for (index, part) in parts.iter().enumerate() {
        if let Some(racks) = part.racks {
            let chosen = in_racks(part, racks, cells, &left)?;
            let in_them = |cell: &&u32| chosen.contains(&cells.all[**cell as usize].rack);
            take(part.count, part.cells.iter().filter(in_them), &mut left, &mut shares[index]);
        }
    }
    for (index, part) in parts.iter().enumerate().filter(|(_, part)| part.racks.is_none()) {
        let missing = take(part.count, part.cells.iter(), &mut left, &mut shares[index]);
        for _ in 0..missing {
            if !augment(parts, index, &mut left, &mut shares) {
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

/// The racks for a part: few, with enough nodes, and as little over as can be.
fn in_racks(
    part: &Part,
    racks: u32,
    cells: &Cells,
    left: &HashMap<usize, u32>,
) -> Option<Vec<RackId>> {
    let mut by_rack: HashMap<RackId, u32> = HashMap::new();
    for cell in part.cells.iter() {
        let cell = *cell as usize;
        *by_rack.entry(cells.all[cell].rack).or_default() += left[&cell];
    }
    let mut by_rack: Vec<(u32, RackId)> = by_rack.into_iter().map(|(r, n)| (n, r)).collect();
    by_rack.sort_unstable_by_key(|(count, rack)| (std::cmp::Reverse(*count), *rack));
    let mut chosen = Vec::new();
    let mut missing = part.count;
    for _ in 0..racks {
        // The smallest that is enough, or else the largest.
        let enough = by_rack.iter().rposition(|(count, _)| *count >= missing);
        let (count, rack) =
            if by_rack.is_empty() { break } else { by_rack.remove(enough.unwrap_or(0)) };
        chosen.push(rack);
        missing = missing.saturating_sub(count);
        if missing == 0 {
            return Some(chosen);
        }
    }
    None
}

/// Gives part `wanting` one node more, by moving other parts to other cells where that helps.
fn augment(
    parts: &[Part],
    wanting: usize,
    left: &mut HashMap<usize, u32>,
    shares: &mut [Vec<Share>],
) -> bool {
    // Breadth-first from part to cell to a part that has nodes there.
    let mut came_from: HashMap<usize, usize> = HashMap::new();
    let mut holder: HashMap<usize, (usize, usize)> = HashMap::new();
    let mut queue = std::collections::VecDeque::from([wanting]);
    let mut seen = vec![false; parts.len()];
    seen[wanting] = true;
    while let Some(part) = queue.pop_front() {
        for cell in parts[part].cells.iter().map(|cell| *cell as usize) {
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
                let moves = parts[other].racks.is_none() && !seen[other];
                if moves && held.iter().any(|(c, n)| *c == cell && *n > 0) {
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
