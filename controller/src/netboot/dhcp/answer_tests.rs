//! The answers of a DHCP server, read back as a client would.

use dhcproto::{Decodable as _, Decoder};

use super::{super::codec::tests::datagram, *};
use crate::netboot::{script, testing};

const PXE: &[u8] = b"PXEClient:Arch:00000:UNDI:002001";
const NODE: [u8; 4] = [10, 77, 0, 11];
const CONTROLLER: [u8; 4] = [10, 77, 0, 1];

fn ask(options: &[(u8, &[u8])], edit: impl FnOnce(&mut [u8])) -> Request {
    Request::parse(&datagram(options, edit)).unwrap()
}

fn booting() -> DhcpVerdict {
    testing::boot_verdict(&script::example().1)
}

fn idle() -> DhcpVerdict {
    match booting() {
        DhcpVerdict::Boot(node, _) => DhcpVerdict::Address(node),
        other => other,
    }
}

fn reply(mode: DhcpMode, request: &Request, verdict: &DhcpVerdict) -> Option<(Answer, Message)> {
    reply_at(Door::Dhcp, mode, request, verdict)
}

fn reply_at(
    door: Door,
    mode: DhcpMode,
    request: &Request,
    verdict: &DhcpVerdict,
) -> Option<(Answer, Message)> {
    let answer = answer(request, &testing::network(mode), door, verdict, 80)?;
    assert!(answer.bytes.len() >= 300, "old relays want BOOTP's 300 bytes");
    let message = Message::decode(&mut Decoder::new(&answer.bytes)).unwrap();
    assert_eq!(message.opcode(), Opcode::BootReply);
    assert_eq!(message.xid(), request.message.xid());
    assert_eq!(message.opts().msg_type(), Some(answer.kind));
    Some((answer, message))
}

fn file(message: &Message) -> String {
    let bytes = message.fname().unwrap_or_default();
    String::from_utf8(bytes.to_vec()).unwrap().trim_end_matches('\0').to_owned()
}

#[test]
fn a_discover_gets_an_offer_with_everything_that_the_network_says() {
    let request = ask(&[(53, &[1]), (60, PXE), (93, &[0, 0])], |_| ());
    let (answer, message) = reply(DhcpMode::Own, &request, &booting()).unwrap();
    assert_eq!(answer.kind, MessageType::Offer);
    assert_eq!(message.yiaddr(), Ipv4Addr::from(NODE));
    assert_eq!(message.siaddr(), Ipv4Addr::from(CONTROLLER));
    assert_eq!(file(&message), "undionly.kpxe");
    for expected in [
        DhcpOption::SubnetMask([255, 255, 255, 0].into()),
        DhcpOption::Router(vec![[10, 77, 0, 254].into()]),
        DhcpOption::DomainNameServer(vec![[10, 77, 0, 1].into()]),
        DhcpOption::Hostname("n01".into()),
        DhcpOption::DomainName("lab.example".into()),
        DhcpOption::InterfaceMtu(9000),
        DhcpOption::NtpServers(vec![[10, 77, 0, 3].into()]),
        DhcpOption::AddressLeaseTime(3600),
        DhcpOption::ServerIdentifier(CONTROLLER.into()),
        DhcpOption::TFTPServerName(b"10.77.0.1".to_vec()),
    ] {
        assert_eq!(message.opts().get((&expected).into()), Some(&expected));
    }
}

#[test]
fn each_client_gets_its_own_kind_of_boot_file() {
    let offer = |options: &[(u8, &[u8])]| {
        let request = ask(options, |_| ());
        reply(DhcpMode::Own, &request, &booting()).unwrap()
    };
    let efi = offer(&[(53, &[1]), (60, PXE), (93, &[0, 7])]);
    assert_eq!(file(&efi.1), "snponly.efi");
    let http = offer(&[(53, &[1]), (60, b"HTTPClient:Arch:00016"), (93, &[0, 16])]);
    let url = "http://10.77.0.1/ipxe/snponly.efi";
    assert_eq!(file(&http.1), url);
    let class = DhcpOption::ClassIdentifier(b"HTTPClient".to_vec());
    assert_eq!(http.1.opts().get(OptionCode::ClassIdentifier), Some(&class));
    let (answer, ipxe) = offer(&[(53, &[1]), (60, PXE), (175, &[1, 1, 1])]);
    let url = "http://10.77.0.1/boot/TOKEN/script";
    assert_eq!(file(&ipxe), url);
    let option_67 = DhcpOption::BootfileName(url.as_bytes().to_vec());
    assert_eq!(ipxe.opts().get(OptionCode::BootfileName), Some(&option_67));
    assert_eq!(
        ipxe.opts().get(OptionCode::Unknown(175)),
        Some(&encapsulated(175, vec![176, 1, 1]))
    );
    assert!(!answer.boot_file.unwrap().contains("TOKEN"), "a token must not reach the log");
    let system = offer(&[(53, &[1]), (60, b"udhcp 1.35.0")]);
    assert_eq!((file(&system.1), system.1.yiaddr()), (String::new(), NODE.into()));
    let odd = offer(&[(53, &[1]), (60, PXE), (93, &[0, 6])]);
    assert_eq!(file(&odd.1), "", "no binary for 32-bit UEFI");
}

#[test]
fn a_long_url_stands_only_in_option_67_and_a_node_may_have_its_own_binary() {
    let DhcpVerdict::Boot(node, offer) = booting() else { unreachable!() };
    let long = BootOffer { token: crate::secret::Secret::new("t".repeat(300)), ..offer.clone() };
    let request = ask(&[(53, &[1]), (77, b"iPXE")], |_| ());
    let (_, message) =
        reply(DhcpMode::Own, &request, &DhcpVerdict::Boot(node.clone(), long)).unwrap();
    assert_eq!(file(&message), "");
    let Some(DhcpOption::BootfileName(url)) = message.opts().get(OptionCode::BootfileName) else {
        panic!("no option 67")
    };
    assert_eq!(url.len(), "http://10.77.0.1/boot//script".len() + 300);
    let own = BootOffer { program: Some("ipxe.pxe".into()), ..offer };
    let request = ask(&[(53, &[1]), (60, PXE), (93, &[0, 0])], |_| ());
    let (_, message) = reply(DhcpMode::Own, &request, &DhcpVerdict::Boot(node, own)).unwrap();
    assert_eq!(file(&message), "ipxe.pxe");
}

#[test]
fn no_open_attempt_means_an_address_and_no_boot_file() {
    let request = ask(&[(53, &[1]), (60, PXE), (93, &[0, 0])], |_| ());
    let (_, message) = reply(DhcpMode::Own, &request, &idle()).unwrap();
    assert_eq!((message.yiaddr(), file(&message)), (NODE.into(), String::new()));
    assert!(reply(DhcpMode::Proxy, &request, &idle()).is_none());
}

#[test]
fn every_form_of_request_is_answered_as_rfc_2131_says() {
    let other: [u8; 4] = [10, 77, 0, 12];
    let check = |options: &[(u8, &[u8])], ciaddr: [u8; 4], expected: Option<MessageType>| {
        let request = ask(options, |b| b[12..16].copy_from_slice(&ciaddr));
        let got = reply(DhcpMode::Own, &request, &idle()).map(|(answer, _)| answer.kind);
        assert_eq!(got, expected, "{options:?} {ciaddr:?}");
    };
    let none = [0; 4];
    let (ack, nak) = (Some(MessageType::Ack), Some(MessageType::Nak));
    // SELECTING: our offer, a wrong address, another server's offer.
    check(&[(53, &[3]), (50, &NODE), (54, &CONTROLLER)], none, ack);
    check(&[(53, &[3]), (50, &other), (54, &CONTROLLER)], none, nak);
    check(&[(53, &[3]), (50, &other), (54, &other)], none, None);
    // INIT-REBOOT.
    check(&[(53, &[3]), (50, &NODE)], none, ack);
    check(&[(53, &[3]), (50, &other)], none, nak);
    // RENEWING and REBINDING.
    check(&[(53, &[3])], NODE, ack);
    check(&[(53, &[3])], other, nak);
    check(&[(53, &[3])], none, None);
    // INFORM; DECLINE, RELEASE and a server's own messages get no answer.
    check(&[(53, &[8])], NODE, ack);
    check(&[(53, &[8])], none, None);
    for kind in [2, 4, 5, 6, 7] {
        check(&[(53, &[kind]), (50, &NODE)], NODE, None);
    }
    let inform = ask(&[(53, &[8])], |b| b[12..16].copy_from_slice(&NODE));
    let (_, message) = reply(DhcpMode::Own, &inform, &idle()).unwrap();
    assert!(message.yiaddr().is_unspecified());
    assert!(!message.opts().contains(OptionCode::AddressLeaseTime));
}

#[test]
fn a_stranger_is_never_answered_and_never_refused() {
    for mode in [DhcpMode::Own, DhcpMode::Proxy, DhcpMode::Off] {
        for kind in 1..=8 {
            for wrong in [NODE, [192, 168, 1, 1]] {
                let request = ask(&[(53, &[kind]), (60, PXE), (50, &wrong)], |_| ());
                for verdict in [DhcpVerdict::Unknown, DhcpVerdict::Silent("unmanaged")] {
                    assert!(reply(mode, &request, &verdict).is_none());
                }
            }
        }
    }
    let request = ask(&[(53, &[1]), (60, PXE)], |_| ());
    assert!(reply(DhcpMode::Off, &request, &booting()).is_none());
}

#[test]
fn a_proxy_gives_a_boot_file_and_never_an_address() {
    let guid = [0u8; 17];
    let request = ask(&[(53, &[1]), (60, PXE), (93, &[0, 0]), (97, &guid)], |_| ());
    let (answer, message) = reply(DhcpMode::Proxy, &request, &booting()).unwrap();
    assert_eq!((answer.kind, answer.address), (MessageType::Offer, None));
    assert!(message.yiaddr().is_unspecified());
    assert_eq!(message.siaddr(), Ipv4Addr::from(CONTROLLER));
    assert_eq!(file(&message), "undionly.kpxe");
    for expected in [
        DhcpOption::ClassIdentifier(b"PXEClient".to_vec()),
        DhcpOption::VendorExtensions(vec![6, 1, 8, 255]),
        DhcpOption::ClientMachineIdentifier(guid.to_vec()),
    ] {
        assert_eq!(message.opts().get((&expected).into()), Some(&expected));
    }
    for absent in [OptionCode::SubnetMask, OptionCode::Router, OptionCode::AddressLeaseTime] {
        assert!(!message.opts().contains(absent), "{absent:?}");
    }
    let system = ask(&[(53, &[1]), (60, b"udhcp")], |_| ());
    assert!(reply(DhcpMode::Proxy, &system, &booting()).is_none());
    let again = ask(&[(53, &[3]), (60, PXE)], |b| b[12..16].copy_from_slice(&[10, 77, 0, 99]));
    assert!(reply(DhcpMode::Proxy, &again, &booting()).is_none(), "67 is the other server's");
    let (answer, message) = reply_at(Door::Pxe, DhcpMode::Proxy, &again, &booting()).unwrap();
    assert_eq!(answer.kind, MessageType::Ack);
    assert_eq!(message.ciaddr(), Ipv4Addr::from([10, 77, 0, 99]));
    assert_eq!(file(&message), "undionly.kpxe");
    assert!(reply_at(Door::Pxe, DhcpMode::Own, &again, &booting()).is_none());
}

#[test]
fn a_relay_gets_its_option_82_back_last_and_unchanged() {
    let relay = [1, 4, 0, 1, 2, 3, 2, 6, 9, 9, 9, 9, 9, 9, 1, 1, 5];
    let edit = |b: &mut [u8]| b[24..28].copy_from_slice(&[10, 77, 0, 253]);
    let request = ask(&[(53, &[1]), (82, &relay), (60, PXE)], edit);
    let (answer, message) = reply(DhcpMode::Own, &request, &booting()).unwrap();
    assert_eq!(message.giaddr(), Ipv4Addr::from([10, 77, 0, 253]));
    let mut expected = vec![82, u8::try_from(relay.len()).unwrap()];
    expected.extend(relay);
    expected.push(255);
    let end = answer.bytes.iter().rposition(|b| *b != 0).unwrap() + 1;
    assert!(answer.bytes[..end].ends_with(&expected));
    let request = ask(&[(53, &[3]), (50, &[1, 2, 3, 4])], edit);
    let (answer, message) = reply(DhcpMode::Own, &request, &idle()).unwrap();
    assert_eq!(answer.kind, MessageType::Nak);
    assert!(message.flags().broadcast() && message.yiaddr().is_unspecified());
}

#[test]
fn hostile_requests_never_panic_and_never_make_us_name_another_address() {
    use rand::{Rng as _, SeedableRng as _};
    let mut rng = rand::rngs::StdRng::seed_from_u64(2131);
    let good = datagram(
        &[(53, &[3]), (50, &NODE), (61, &[1, 2, 3]), (60, PXE), (82, &[1, 1, 1]), (97, &[0; 17])],
        |_| (),
    );
    let mut answered = 0;
    for _ in 0..30_000 {
        let mut bytes = good.clone();
        bytes.truncate(rng.random_range(243..=good.len()));
        for _ in 0..rng.random_range(0..8) {
            let at = rng.random_range(0..bytes.len());
            bytes[at] = rng.random();
        }
        let Some(request) = Request::parse(&bytes) else { continue };
        for mode in [DhcpMode::Own, DhcpMode::Proxy] {
            for door in [Door::Dhcp, Door::Pxe] {
                let Some(answer) = answer(&request, &testing::network(mode), door, &booting(), 80)
                else {
                    continue;
                };
                answered += 1;
                let yours = Ipv4Addr::from(<[u8; 4]>::try_from(&answer.bytes[16..20]).unwrap());
                assert!(yours.is_unspecified() || yours == Ipv4Addr::from(NODE));
            }
        }
    }
    assert!(answered > 1000, "hardly a request was answered: {answered}");
}
