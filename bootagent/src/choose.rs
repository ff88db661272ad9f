//! Which disk holds the overlay store: a decision on what was seen, without a look at any disk.
//!
//! Nothing is to be written but to a disk that is blank, ours, accepted, or was claimed by its
//! serial number; where more than one could be meant, a person decides.

use haas_api::agent::{BootPlan, DiskName, DiskSelector, DiskState, OverlayPlan, StoreElsewhere};

use crate::{
    disk::Candidate,
    fault::Fault,
    store::{self, Owner, Seen},
};

/// What haasd says of the store that this node is to open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// Which disks may be looked at.
    pub disk: &'a DiskSelector,
    /// Those that are the users' own.
    pub scratch: &'a [DiskName],
    /// Nor are these.
    pub detached: &'a [DiskName],
    /// The store that the node had.
    pub known: Option<&'a str>,
    /// The same, if an admin has accepted it here though its disk says otherwise.
    pub accepted: Option<&'a str>,
    /// The disk that an admin has given up with what is on it.
    pub claim: Option<Claim<'a>>,
    /// Stores of other nodes.
    pub elsewhere: &'a [StoreElsewhere],
}

impl<'a> Wanted<'a> {
    /// What the plan says; none for an overlay in RAM.
    pub(crate) fn of(plan: &'a BootPlan) -> Option<Self> {
        let OverlayPlan::Disk { disk, store_id, accepted, wipe_serial, wipe_store, .. } =
            &plan.overlay
        else {
            return None;
        };
        let claim =
            wipe_serial.as_deref().map(|serial| Claim { serial, store: wipe_store.as_deref() });
        Some(Self {
            disk,
            scratch: &plan.scratch,
            detached: &plan.detached,
            known: store_id.as_deref(),
            accepted: store_id.as_deref().filter(|_| *accepted),
            claim,
            elsewhere: &plan.elsewhere,
        })
    }

    /// Whether the inventory has another use for this disk.
    fn is_for_others(&self, disk: &Candidate) -> bool {
        self.scratch.iter().chain(self.detached).any(|name| disk.is(name))
    }

    /// The other node that has this store now.
    fn has_it(&self, store_id: &str) -> Option<&'a StoreElsewhere> {
        self.elsewhere
            .iter()
            .find(|other| other.store_id == store_id && self.accepted != Some(store_id))
    }
}

/// A disk that an admin has given up with what is on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claim<'a> {
    /// Its serial number.
    pub serial: &'a str,
    /// The store of ours that goes with it.
    pub store: Option<&'a str>,
}

/// What to do with which disk.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Choice<'a> {
    /// Open the store.
    Ours(&'a Candidate),
    /// An admin has accepted the store on it: mark it as this node's, then open it.
    Accepted(&'a Candidate),
    /// It is blank: make a store.
    Make(&'a Candidate),
    /// It was claimed: make a store, whatever was there.
    Claimed(&'a Candidate),
}

impl<'a> Choice<'a> {
    /// The disk.
    pub(crate) fn candidate(self) -> &'a Candidate {
        match self {
            Self::Ours(disk) | Self::Accepted(disk) | Self::Make(disk) | Self::Claimed(disk) => {
                disk
            }
        }
    }
}

/// Chooses the disk, or says why none can be chosen and what a person can do.
pub(crate) fn choose<'a>(
    survey: &'a [Seen],
    wanted: Wanted<'_>,
    owner: Owner<'_>,
) -> Result<Choice<'a>, Fault> {
    let selected: Vec<&Seen> = survey
        .iter()
        .filter(|(disk, _)| match wanted.disk {
            DiskSelector::Auto => true,
            DiskSelector::One(name) => disk.is(name),
        })
        .filter(|(disk, _)| !wanted.is_for_others(disk))
        .collect();
    let rules = [claimed, accepted, ours, copied, foreign_for_a_lost_one, blank, foreign, other];
    for rule in rules {
        if let Some(decided) = rule(&selected, wanted, owner) {
            return decided;
        }
    }
    Err(missing(survey, wanted, owner))
}

/// What one rule decides; none leaves it to the next.
type Decided<'a> = Option<Result<Choice<'a>, Fault>>;

const SAY_WHICH: &str = "say which one in nodes.toml: overlay_disk = { serial = \"...\" }";

fn claimed<'a>(selected: &[&'a Seen], wanted: Wanted<'_>, _: Owner<'_>) -> Decided<'a> {
    let claim = wanted.claim?;
    let (disk, _) = selected.iter().find(|(disk, state)| {
        disk.serial.as_deref() == Some(claim.serial)
            && match state {
                DiskState::Foreign { .. } | DiskState::Other { .. } | DiskState::Blank => true,
                // Any other store of ours there was made by this very claim.
                DiskState::Ours { store_id } => claim.store == Some(store_id),
                DiskState::Unusable { .. } => false,
            }
    })?;
    Some(Ok(Choice::Claimed(disk)))
}

fn accepted<'a>(selected: &[&'a Seen], wanted: Wanted<'_>, _: Owner<'_>) -> Decided<'a> {
    let accepted = wanted.accepted?;
    let (disk, _) = match with(selected, |state| store_of(state) == Some(accepted))[..] {
        [] => return None,
        [one] => one,
        ref several => return Some(Err(twice(several, accepted))),
    };
    Some(Ok(Choice::Accepted(disk)))
}

fn ours<'a>(selected: &[&'a Seen], wanted: Wanted<'_>, owner: Owner<'_>) -> Decided<'a> {
    let is_ours = |state: &DiskState| matches!(state, DiskState::Ours { store_id } if wanted.has_it(store_id).is_none());
    let all = with(selected, is_ours);
    let known = with(selected, |state| {
        is_ours(state) && wanted.known.is_some() && store_of(state) == wanted.known
    });
    match (&known[..], &all[..]) {
        // A store that the node had before the one that it has now is no reason to ask.
        ([(disk, _)], _) => Some(Ok(Choice::Ours(disk))),
        ([], []) => None,
        ([], [(disk, state)]) => Some(match (store_of(state), wanted.known) {
            (Some(found), Some(known)) if !found.is_empty() => {
                Err(store::another(disk, found, known, owner))
            }
            _ => Ok(Choice::Ours(disk)),
        }),
        ([], several) => {
            let cause =
                format!("{} hold a store of this node each: {SAY_WHICH}", told_all(several));
            Some(Err(Fault::hold("disk-ambiguous", cause)))
        }
        (several, _) => Some(Err(twice(several, wanted.known.unwrap_or_default()))),
    }
}

/// The disk bears this node's mark, and haasd knows the store on it as another node's by now.
fn copied<'a>(selected: &[&'a Seen], wanted: Wanted<'_>, owner: Owner<'_>) -> Decided<'a> {
    selected.iter().find_map(|(disk, state)| {
        let DiskState::Ours { store_id } = state else { return None };
        let other = &wanted.has_it(store_id)?.node;
        let cause = format!(
            "{} holds the store {store_id}, which node {other} has by now: this is a copy of it, or the \
             disk was moved back; take it out, or wipe it: {}; or, if this is the one to keep and \
             {other} is off: {}",
            disk.told(),
            owner.wipe(disk),
            owner.accept()
        );
        Some(Err(Fault::hold("store-copied", cause)))
    })
}

/// A node that has lost its store and finds another's is told of that one before a blank disk.
fn foreign_for_a_lost_one<'a>(
    selected: &[&'a Seen],
    wanted: Wanted<'_>,
    owner: Owner<'_>,
) -> Decided<'a> {
    wanted.known.and_then(|_| foreign(selected, wanted, owner))
}

fn blank<'a>(selected: &[&'a Seen], wanted: Wanted<'_>, owner: Owner<'_>) -> Decided<'a> {
    match (&with(selected, |state| matches!(state, DiskState::Blank))[..], wanted.known) {
        ([], _) => None,
        ([(disk, _)], None) => Some(Ok(Choice::Make(disk))),
        ([(disk, _)], Some(known)) => Some(Err(Fault::hold(
            "store-missing",
            format!(
                "the overlay store {known} of this node is gone, there is only the blank disk {}: put \
                 the old disk back, or accept that loss: {}",
                disk.told(),
                owner.wipe(disk)
            ),
        ))),
        (several, _) => {
            let cause = format!("{} are blank: {SAY_WHICH}", told_all(several));
            Some(Err(Fault::hold("disk-ambiguous", cause)))
        }
    }
}

fn foreign<'a>(selected: &[&'a Seen], _: Wanted<'_>, owner: Owner<'_>) -> Decided<'a> {
    selected.iter().find_map(|(disk, state)| {
        let DiskState::Foreign { owner: whose, store_id } = state else { return None };
        let accept = match store_id {
            Some(_) => format!("let this node go on with them: {}; or ", owner.accept()),
            None => String::new(),
        };
        let cause = format!(
            "{} holds the overlays of {whose}: {accept}{}",
            disk.told(),
            owner.how_to_claim(disk)
        );
        Some(Err(Fault::hold("disk-foreign", cause)))
    })
}

fn other<'a>(selected: &[&'a Seen], _: Wanted<'_>, owner: Owner<'_>) -> Decided<'a> {
    let others: Vec<_> = selected
        .iter()
        .filter_map(|(disk, state)| match state {
            DiskState::Other { looks_like } => Some((disk, looks_like)),
            DiskState::Blank
            | DiskState::Ours { .. }
            | DiskState::Foreign { .. }
            | DiskState::Unusable { .. } => None,
        })
        .collect();
    let (first, _) = others.first()?;
    let what = |(disk, looks_like): &(&Candidate, &String)| {
        format!("{} is not blank ({looks_like})", disk.told())
    };
    let all = others.iter().map(|(disk, looks_like)| what(&(disk, looks_like)));
    let which = if others.len() > 1 { "put in a blank one, or " } else { "" };
    let cause =
        format!("{}: {which}{}", all.collect::<Vec<_>>().join(", "), owner.how_to_claim(first));
    Some(Err(Fault::hold("disk-not-blank", cause)))
}

fn missing(survey: &[Seen], wanted: Wanted<'_>, owner: Owner<'_>) -> Fault {
    let found: Vec<_> = survey
        .iter()
        .map(|(disk, state)| match state {
            _ if wanted.scratch.iter().any(|name| disk.is(name)) => {
                format!("{} is a scratch disk", disk.told())
            }
            _ if wanted.detached.iter().any(|name| disk.is(name)) => {
                format!("{} is to be detached", disk.told())
            }
            DiskState::Unusable { reason } => format!("{} is {reason}", disk.told()),
            _ => disk.told(),
        })
        .collect();
    let found = if found.is_empty() { "no disk at all".to_owned() } else { found.join(", ") };
    let what = match wanted.disk {
        DiskSelector::Auto => "no disk for the overlay store".to_owned(),
        DiskSelector::One(DiskName::Serial(serial)) => {
            format!("no usable disk with the serial {serial}")
        }
        DiskSelector::One(DiskName::Path(path)) => format!("no usable disk at {path}"),
    };
    // A controller that is slow to show its disks is the reason for trying again.
    let cause = format!(
        "{what}; the node has {found}: put it in, mend overlay_disk in nodes.toml, or go without: \
         haasctl switch {} --overlay none",
        owner.name
    );
    Fault::retry("disk-missing", cause)
}

fn twice(disks: &[&Seen], store_id: &str) -> Fault {
    let cause = format!(
        "{} hold the same store {store_id}: one is a copy of the other, or they are two ways to one \
         disk; take the copy out, or {SAY_WHICH}",
        told_all(disks)
    );
    Fault::hold("store-copied", cause)
}

fn with<'a>(selected: &[&'a Seen], is: impl Fn(&DiskState) -> bool) -> Vec<&'a Seen> {
    selected.iter().copied().filter(|(_, state)| is(state)).collect()
}

fn store_of(state: &DiskState) -> Option<&str> {
    match state {
        DiskState::Ours { store_id } => Some(store_id),
        DiskState::Foreign { store_id, .. } => store_id.as_deref(),
        DiskState::Blank | DiskState::Other { .. } | DiskState::Unusable { .. } => None,
    }
}

fn told_all(disks: &[&Seen]) -> String {
    disks.iter().map(|(disk, _)| disk.told()).collect::<Vec<_>>().join(" and ")
}

#[cfg(test)]
mod tests {

    use super::*;

    const OWNER: Owner<'static> = Owner { cluster: "c1", node: "n1", name: "n01" };
    const AUTO: Wanted<'static> = Wanted {
        disk: &DiskSelector::Auto,
        scratch: &[],
        detached: &[],
        known: None,
        accepted: None,
        claim: None,
        elsewhere: &[],
    };

    fn other() -> DiskState {
        DiskState::Other { looks_like: "xfs".into() }
    }

    fn ours(store_id: &str) -> DiskState {
        DiskState::Ours { store_id: store_id.into() }
    }

    fn foreign(store_id: &str) -> DiskState {
        DiskState::Foreign { owner: "node n09".into(), store_id: Some(store_id.into()) }
    }

    fn refused(survey: &[Seen], wanted: Wanted<'_>) -> Fault {
        choose(survey, wanted, OWNER).expect_err("a fault")
    }

    fn code(survey: &[Seen], wanted: Wanted<'_>) -> &'static str {
        refused(survey, wanted).code
    }

    #[test]
    fn our_store_is_taken_before_a_blank_disk() {
        let survey = [
            (Candidate::fake("vda", "A"), DiskState::Blank),
            (Candidate::fake("vdb", "B"), ours("s")),
        ];
        let choice = choose(&survey, AUTO, OWNER).expect("a disk");
        assert!(matches!(choice, Choice::Ours(d) if d.name == "vdb"));
    }

    #[test]
    fn nothing_is_written_to_a_disk_that_is_not_blank_or_not_clear() {
        assert_eq!(code(&[], AUTO), "disk-missing");
        assert_eq!(code(&[(Candidate::fake("vda", "A"), other())], AUTO), "disk-not-blank");
        assert_eq!(code(&[(Candidate::fake("vda", "A"), foreign("s"))], AUTO), "disk-foreign");
        let two = [
            (Candidate::fake("vda", "A"), DiskState::Blank),
            (Candidate::fake("vdb", "B"), DiskState::Blank),
        ];
        assert_eq!(code(&two, AUTO), "disk-ambiguous");
        let named = DiskSelector::One(DiskName::Serial("B".into()));
        let by_serial = choose(&two, Wanted { disk: &named, ..AUTO }, OWNER).expect("named");
        assert!(matches!(by_serial, Choice::Make(d) if d.name == "vdb"));
    }

    #[test]
    fn every_disk_that_is_not_blank_is_told() {
        let survey =
            [(Candidate::fake("sda", "A"), other()), (Candidate::fake("nvme0n1", "B"), other())];
        let cause = refused(&survey, AUTO).cause;
        for word in ["sda (serial A)", "nvme0n1 (serial B)", "xfs", "disk claim n01"] {
            assert!(cause.contains(word), "{cause}");
        }
    }

    #[test]
    fn a_scratch_disk_is_never_taken() {
        let survey = [
            (Candidate::fake("vda", "A"), DiskState::Blank),
            (Candidate::fake("vdb", "B"), DiskState::Blank),
        ];
        let scratch = [DiskName::Serial("A".into())];
        let wanted = Wanted { scratch: &scratch, ..AUTO };
        let choice = choose(&survey, wanted, OWNER).expect("the other");
        assert!(matches!(choice, Choice::Make(d) if d.name == "vdb"));
        let fault = refused(&survey[..1], wanted);
        assert_eq!(fault.code, "disk-missing");
        assert!(fault.cause.contains("vda (serial A) is a scratch disk"), "{fault}");
    }

    #[test]
    fn only_the_claimed_serial_is_wiped() {
        let claimed = |survey: &[Seen], serial, store| {
            let wanted = Wanted { claim: Some(Claim { serial, store }), ..AUTO };
            match choose(survey, wanted, OWNER) {
                Ok(choice) => matches!(choice, Choice::Claimed(d) if d.name == "vda"),
                Err(fault) => {
                    assert_eq!(fault.code, "disk-not-blank");
                    false
                }
            }
        };
        let survey = [(Candidate::fake("vda", "A"), other())];
        assert!(!claimed(&survey, "B", None) && claimed(&survey, "A", None));
        let mine = [(Candidate::fake("vda", "A"), ours("s"))];
        assert!(!claimed(&mine, "A", None), "a claim that was carried out does not wipe again");
        assert!(claimed(&mine, "A", Some("s")), "a store that was given up by its id");
        assert!(!claimed(&mine, "A", Some("older")), "another store than the one given up");
    }

    #[test]
    fn another_nodes_store_is_taken_only_when_it_was_accepted() {
        let survey = [
            (Candidate::fake("vda", "A"), foreign("s")),
            (Candidate::fake("vdb", "B"), DiskState::Blank),
        ];
        let lost = Wanted { known: Some("mine"), ..AUTO };
        let fault = refused(&survey, lost);
        assert_eq!(fault.code, "disk-foreign");
        for word in ["vda (serial A)", "node n09", "disk accept n01", "disk claim n01"] {
            assert!(fault.cause.contains(word), "{fault}");
        }
        // haasd expects it here since the other node has accepted this one's: still nobody has
        // said that it is here.
        assert_eq!(code(&survey, Wanted { known: Some("s"), ..AUTO }), "disk-foreign");
        let accepted = Wanted { known: Some("s"), accepted: Some("s"), ..AUTO };
        let choice = choose(&survey, accepted, OWNER).expect("accepted");
        assert!(matches!(choice, Choice::Accepted(d) if d.name == "vda"));
        let another = Wanted { known: Some("t"), accepted: Some("t"), ..AUTO };
        assert_eq!(code(&survey, another), "disk-foreign");
        let elsewhere =
            DiskState::Foreign { owner: "node n09 of cluster c2".into(), store_id: None };
        let fault = refused(&[(Candidate::fake("vda", "A"), elsewhere)], AUTO);
        assert!(!fault.cause.contains("accept"), "{fault}");
    }

    #[test]
    fn a_store_that_another_node_has_is_a_copy() {
        let survey = [
            (Candidate::fake("vda", "A"), ours("s")),
            (Candidate::fake("vdb", "B"), DiskState::Blank),
        ];
        let node = "n07".parse().expect("a name");
        let others = [StoreElsewhere { store_id: "s".into(), node }];
        let fault = refused(&survey, Wanted { elsewhere: &others, ..AUTO });
        assert_eq!(fault.code, "store-copied");
        for word in ["vda (serial A)", "node n07", "disk accept n01", "disk claim n01"] {
            assert!(fault.cause.contains(word), "{fault}");
        }
        let back = Wanted { elsewhere: &others, known: Some("s"), accepted: Some("s"), ..AUTO };
        let choice = choose(&survey, back, OWNER).expect("accepted back");
        assert!(matches!(choice, Choice::Accepted(d) if d.name == "vda"));
    }

    #[test]
    fn of_two_stores_the_known_one_is_taken_and_never_one_of_two_copies() {
        let survey =
            [(Candidate::fake("sda", "A"), ours("old")), (Candidate::fake("sdb", "B"), ours("s"))];
        assert_eq!(code(&survey, AUTO), "disk-ambiguous");
        let known = Wanted { known: Some("s"), ..AUTO };
        let choice = choose(&survey, known, OWNER).expect("the known one");
        assert!(matches!(choice, Choice::Ours(d) if d.name == "sdb"));
        assert_eq!(code(&survey[..1], known), "store-other");
        let copies =
            [(Candidate::fake("sda", "A"), ours("s")), (Candidate::fake("sdb", "B"), ours("s"))];
        let fault = refused(&copies, known);
        assert_eq!(fault.code, "store-copied");
        assert!(fault.cause.contains("sda (serial A) and sdb (serial B)"), "{fault}");
        let named = DiskSelector::One(DiskName::Serial("A".into()));
        let choice = choose(&copies, Wanted { disk: &named, ..known }, OWNER).expect("named");
        assert!(matches!(choice, Choice::Ours(d) if d.name == "sda"));
    }

    #[test]
    fn a_lost_store_is_never_replaced_silently() {
        let survey = [(Candidate::fake("vda", "A"), DiskState::Blank)];
        let fault = refused(&survey, Wanted { known: Some("s"), ..AUTO });
        assert_eq!(fault.code, "store-missing");
        assert!(fault.cause.contains("disk claim n01 --serial A --wipe"), "{fault}");
    }
}
