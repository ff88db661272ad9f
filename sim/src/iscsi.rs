//! A minimal iSCSI initiator: log in, ask the disk who it is, keep the session (RFC 7143).

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use haas_api::agent::{Chap, RootPlan};
use md5::{Digest, Md5};
use socket2::{Domain, Protocol, Socket, Type};

const LOGIN: u8 = 0x03;
const SCSI: u8 = 0x01;
const LOGIN_RESPONSE: u8 = 0x23;
const SCSI_RESPONSE: u8 = 0x21;
const DATA_IN: u8 = 0x25;
const IMMEDIATE: u8 = 0x40;

/// A session in its full feature phase. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Session {
    stream: TcpStream,
    cmd_sn: u32,
    exp_stat_sn: u32,
}

struct Pdu {
    header: [u8; 48],
    data: Vec<u8>,
}

impl Session {
    /// Logs in to the plan's target without digests. With secrets in the plan both sides prove
    /// themselves.
    pub(crate) fn login(root: &RootPlan) -> Result<Self> {
        Self::login_from(Ipv4Addr::UNSPECIFIED, root)
    }

    /// The same from this address, of several that the machine has.
    pub(crate) fn login_from(source: Ipv4Addr, root: &RootPlan) -> Result<Self> {
        let portal = SocketAddr::new(root.portal, root.port);
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.bind(&SocketAddr::from((source, 0)).into())?;
        socket
            .connect_timeout(&portal.into(), Duration::from_secs(5))
            .with_context(|| format!("no TCP to the portal {portal}"))?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.set_nodelay(true)?;
        let mut session = Self { stream, cmd_sn: 1, exp_stat_sn: 0 };
        let names = format!(
            "InitiatorName={}\0SessionType=Normal\0TargetName={}\0",
            root.initiator, root.target
        );
        // Security negotiation to operational negotiation, then to the full feature phase.
        match (&root.chap, &root.target_chap) {
            (None, None) => {
                session.login_step(0x81, &format!("{names}AuthMethod=None\0"))?;
            }
            (Some(own), Some(target)) => session.prove(&names, own, target)?,
            _ => bail!("the plan has a secret for one side only"),
        }
        session.login_step(
            0x87,
            "HeaderDigest=None\0DataDigest=None\0MaxRecvDataSegmentLength=65536\0\
             MaxBurstLength=65536\0ErrorRecoveryLevel=0\0MaxConnections=1\0",
        )?;
        Ok(session)
    }

    /// The security stage with mutual CHAP.
    fn prove(&mut self, names: &str, own: &Chap, target: &Chap) -> Result<()> {
        let method = self.login_step(0x00, &format!("{names}AuthMethod=CHAP\0"))?;
        ensure!(value(&method, "AuthMethod")? == "CHAP", "the target wants no proof");
        let asked = self.login_step(0x00, "CHAP_A=5\0")?;
        let id = value(&asked, "CHAP_I")?.parse()?;
        let answer = answer(id, own, value(&asked, "CHAP_C")?)?;
        let challenge = format!("0x{}", hex::encode(rand::random::<[u8; 16]>()));
        let proved = self.login_step(
            0x81,
            &format!("CHAP_N={}\0CHAP_R={answer}\0CHAP_I=1\0CHAP_C={challenge}\0", own.user),
        )?;
        let expected = self::answer(1, target, &challenge)?;
        let is_right = value(&proved, "CHAP_R")?.eq_ignore_ascii_case(&expected);
        ensure!(is_right && value(&proved, "CHAP_N")? == target.user, "a false target answers");
        Ok(())
    }

    /// Sends a login request, and gives the text of the answer, which must move as the request does.
    fn login_step(&mut self, flags: u8, text: &str) -> Result<String> {
        let mut header = [0; 48];
        header[0] = LOGIN | IMMEDIATE;
        header[1] = flags;
        // ISID: random type, our own qualifier.
        header[8..14].copy_from_slice(&[0x80, 0x51, 0x4d, 0, 0, 1]);
        header[24..28].copy_from_slice(&self.cmd_sn.to_be_bytes());
        header[28..32].copy_from_slice(&self.exp_stat_sn.to_be_bytes());
        self.send(header, text.as_bytes())?;
        let answer = self.receive()?;
        ensure!(answer.header[0] == LOGIN_RESPONSE, "not a login response");
        let (class, detail) = (answer.header[36], answer.header[37]);
        if class != 0 {
            bail!("the login was refused with status {class:02x}{detail:02x}");
        }
        ensure!(answer.header[1] == flags, "the target wants another step in its login");
        Ok(String::from_utf8(answer.data)?)
    }

    /// The identity in VPD page 83 as Linux shows it: `naa.` and the digits.
    pub(crate) fn wwid(&mut self) -> Result<String> {
        let page = self.scsi_read(&[0x12, 0x01, 0x83, 0, 255, 0], 255)?;
        let mut rest = page.get(4..).context("page 83 is cut short")?;
        while let [_, kind, _, length, ..] = *rest {
            let end = 4 + usize::from(length);
            let id = rest.get(4..end).context("a designator is cut short")?;
            // Of the logical unit, in the NAA format.
            if kind & 0x3f == 3 {
                return Ok(format!("naa.{}", hex::encode(id)));
            }
            rest = &rest[end..];
        }
        bail!("page 83 has no NAA designator")
    }

    /// Reads `blocks` blocks from the beginning of the disk: READ(10).
    pub(crate) fn read(&mut self, blocks: u16) -> Result<Vec<u8>> {
        let [high, low] = blocks.to_be_bytes();
        self.scsi_read(&[0x28, 0, 0, 0, 0, 0, 0, high, low, 0], u32::from(blocks) * 512)
    }

    fn scsi_read(&mut self, cdb: &[u8], most: u32) -> Result<Vec<u8>> {
        let mut header = [0; 48];
        header[0] = SCSI;
        // Final, read, simple queue.
        header[1] = 0x80 | 0x40 | 0x01;
        header[16..20].copy_from_slice(&self.cmd_sn.to_be_bytes());
        header[20..24].copy_from_slice(&most.to_be_bytes());
        header[24..28].copy_from_slice(&self.cmd_sn.to_be_bytes());
        header[28..32].copy_from_slice(&self.exp_stat_sn.to_be_bytes());
        header[32..32 + cdb.len()].copy_from_slice(cdb);
        self.cmd_sn += 1;
        self.send(header, &[])?;
        let mut data = Vec::new();
        loop {
            let answer = self.receive()?;
            match answer.header[0] {
                DATA_IN => {
                    data.extend(answer.data);
                    // The status may come with the last data.
                    if answer.header[1] & 1 == 1 {
                        ensure!(answer.header[3] == 0, "SCSI status {}", answer.header[3]);
                        return Ok(data);
                    }
                }
                SCSI_RESPONSE => {
                    ensure!(answer.header[3] == 0, "SCSI status {}", answer.header[3]);
                    return Ok(data);
                }
                // A NOP-In that wants no answer, or news of the target.
                _ => {}
            }
        }
    }

    fn send(&mut self, mut header: [u8; 48], data: &[u8]) -> Result<()> {
        let length = u32::try_from(data.len())?.to_be_bytes();
        header[5..8].copy_from_slice(&length[1..]);
        let mut bytes = header.to_vec();
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        Ok(self.stream.write_all(&bytes)?)
    }

    fn receive(&mut self) -> Result<Pdu> {
        let mut header = [0; 48];
        self.stream.read_exact(&mut header).context("the target said nothing")?;
        let length = u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize;
        let mut data = vec![0; usize::from(header[4]) * 4 + length.next_multiple_of(4)];
        self.stream.read_exact(&mut data)?;
        data.truncate(usize::from(header[4]) * 4 + length);
        data.drain(..usize::from(header[4]) * 4);
        let has_status = header[0] != DATA_IN || header[1] & 1 == 1;
        if has_status {
            let stat_sn = u32::from_be_bytes([header[24], header[25], header[26], header[27]]);
            self.exp_stat_sn = stat_sn.wrapping_add(1);
        }
        Ok(Pdu { header, data })
    }
}

/// The value of a key in the text of a login.
fn value<'text>(text: &'text str, key: &str) -> Result<&'text str> {
    let pair = text.split('\0').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
    pair.with_context(|| format!("the target's answer has no {key}"))
}

/// What proves that one knows the secret (RFC 1994).
fn answer(id: u8, chap: &Chap, challenge: &str) -> Result<String> {
    let bytes = hex::decode(challenge.strip_prefix("0x").context("a challenge is hexadecimal")?)?;
    let digest = Md5::new().chain_update([id]).chain_update(&chap.secret).chain_update(bytes);
    Ok(format!("0x{}", hex::encode(digest.finalize())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_the_md5_of_id_secret_and_challenge() {
        // RFC 1321 appendix A.5: the MD5 of "abc".
        let chap = Chap { user: String::new(), secret: "b".into() };
        let answer = answer(b'a', &chap, "0x63").expect("a challenge");
        assert_eq!(answer, "0x900150983cd24fb0d6963f7d28e17f72");
        let text = "CHAP_A=5\0CHAP_I=7\0";
        assert_eq!(value(text, "CHAP_I").ok(), Some("7"));
        assert!(value(text, "CHAP").is_err());
    }
}
