//! The proof: what a node runs is compared with what it should run.

use haas_api::agent::Proof;

use super::*;

fn expected() -> Expected {
    Expected {
        generation: 7,
        wwid: "naa.1".into(),
        target: "iqn.x:image".into(),
        overlay_id: Some("alice-dev".into()),
        rank: 2,
        hostname: "n01".parse().unwrap(),
        address: Some([10, 0, 0, 7].into()),
    }
}

fn proof() -> Proof {
    Proof {
        says_ready: true,
        generation: 7,
        wwid: "naa.1".into(),
        target: "iqn.x:image".into(),
        read_only: true,
        overlay_id: Some("alice-dev".into()),
        rank: 2,
        hostname: "n01".into(),
        addresses: vec!["10.0.0.7/24".parse().unwrap(), "fe80::1/64".parse().unwrap()],
        machine_id: "0".repeat(32),
        kernel: "6.1.0".into(),
    }
}

#[test]
fn a_right_proof_is_right() {
    assert_eq!(check_proof(&proof(), &expected()), Ok(()));
    let nowhere = Expected { address: None, ..expected() };
    assert_eq!(check_proof(&Proof { addresses: Vec::new(), ..proof() }, &nowhere), Ok(()));
}

#[test]
fn each_thing_that_differs_is_named_with_what_it_is_and_should_be() {
    type Change = fn(&mut Proof);
    let cases: [(Change, &str); 9] = [
        (|p| p.generation = 6, "generation is 6, not 7"),
        (|p| p.wwid = "naa.2".into(), "image is naa.2, not naa.1"),
        (|p| p.target = "iqn.y".into(), "target is iqn.y, not iqn.x:image"),
        (|p| p.overlay_id = None, "overlay is in RAM, not alice-dev"),
        (|p| p.overlay_id = Some("bob".into()), "overlay is bob, not alice-dev"),
        (|p| p.rank = 0, "rank is 0, not 2"),
        (|p| p.hostname = "n02".into(), "host name is n02, not n01"),
        (|p| p.read_only = false, "the image's disk is writable"),
        (|p| p.addresses.clear(), "no boot NIC has 10.0.0.7"),
    ];
    for (change, difference) in cases {
        let mut proof = proof();
        change(&mut proof);
        assert_eq!(check_proof(&proof, &expected()), Err(vec![difference.to_owned()]));
    }
}

#[test]
fn every_difference_is_told_at_once() {
    let wrong = Proof { rank: 9, read_only: false, wwid: String::new(), ..proof() };
    assert_eq!(check_proof(&wrong, &expected()).unwrap_err().len(), 3);
}
