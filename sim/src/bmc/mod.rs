//! A BMC that speaks IPMI 2.0 over LAN, as the standard has it and nothing more: written from its
//! text, and sharing no code with the client in `ipmi-lan/`, whose mistakes it is to find. Numbers in
//! brackets are the standard's sections.
//!
//! A [`Bmc`] is bytes and the time in, bytes out; [`Farm`] puts many of them on loopback, each on a port of
//! its own, in one thread. [`Faults`] say how it misbehaves and may change at any time; [`Counts`] is
//! what it was asked.

mod accounts;
mod chassis;
mod command;
mod console;
mod farm;
mod faults;
mod keys;
mod login;
mod network;
mod packet;
mod records;
mod session;

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

pub use self::{
    accounts::Lan,
    chassis::PowerState,
    farm::Farm,
    faults::{Counts, Faults},
    network::Network,
    records::Sensor,
};
use self::{
    chassis::Chassis,
    packet::{Body, Packet},
    records::Records,
    session::Sessions,
};

/// How a BMC is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    /// Its accounts.
    pub users: Vec<User>,
    /// Its own key; none is one that is all zeros [13.31].
    pub kg: Option<[u8; 20]>,
    /// The cipher suites that it has.
    pub suites: Vec<u8>,
    /// Sessions that it can have at the same time, those of logins among them.
    pub sessions: usize,
    /// Its serial over LAN is disabled.
    pub no_console: bool,
    /// It takes every sequence number, as some do: a request that comes twice is answered twice.
    pub sloppy: bool,
}

/// An account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its password.
    pub password: String,
    /// What it may be at most: 2 is USER, 3 OPERATOR, 4 ADMINISTRATOR.
    pub limit: u8,
}

impl Setup {
    /// One administrator, both good suites, and as many sessions as BMCs usually have.
    pub fn new(name: &str, password: &str) -> Self {
        let user = User { name: name.to_owned(), password: password.to_owned(), limit: 4 };
        Self {
            users: vec![user],
            kg: None,
            suites: vec![3, 17],
            sessions: 4,
            no_console: false,
            sloppy: false,
        }
    }
}

/// A packet on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Where it goes.
    pub to: SocketAddr,
    /// What it is.
    pub bytes: Vec<u8>,
}

/// One BMC and the machine that it switches.
#[derive(Debug)]
pub struct Bmc {
    setup: Setup,
    port: u16,
    guid: [u8; 16],
    faults: Faults,
    counts: Counts,
    chassis: Chassis,
    records: Records,
    lan: Lan,
    /// The version of its firmware.
    firmware: (u8, u8),
    sessions: Sessions,
    /// It restarts, and hears nothing until then.
    starts_at: Option<Instant>,
    /// The next answer to Activate Payload is not sent.
    loses_activation: bool,
    out: VecDeque<Sent>,
}

impl Bmc {
    /// A BMC at the UDP port `port`, whose machine is off.
    pub fn new(setup: Setup, port: u16) -> Self {
        Self {
            setup,
            port,
            guid: rand::random(),
            faults: Faults::default(),
            counts: Counts::default(),
            chassis: Chassis::default(),
            records: Records::default(),
            lan: Lan::default(),
            firmware: (1, 0),
            sessions: Sessions::default(),
            starts_at: None,
            loses_activation: false,
            out: VecDeque::new(),
        }
    }

    /// How it misbehaves from now on.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
        self.records.piece = faults.piece;
    }

    /// A sensor of the machine, to be changed.
    ///
    /// # Panics
    /// If there is none of this name.
    pub fn sensor(&mut self, name: &str) -> &mut Sensor {
        self.records.sensor_mut(name).expect("a sensor of this name")
    }

    /// What the machine draws from now on; none: the BMC speaks no DCMI.
    pub fn set_watts(&mut self, watts: Option<u16>) {
        self.records.watts = watts;
    }

    /// Writes into its log that a sensor came into a state.
    pub fn log(&mut self, sensor: &str, state: u8) {
        self.records.note(sensor, state);
    }

    /// Entries in its log.
    pub fn log_entries(&self) -> usize {
        self.records.entries()
    }

    /// How it misbehaves.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// What it was asked so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    pub(crate) fn counts_mut(&mut self) -> &mut Counts {
        &mut self.counts
    }

    /// The machine's power, whatever the BMC says of it.
    pub fn power(&mut self, now: Instant) -> PowerState {
        self.chassis.power(now)
    }

    /// Switches the machine as a person at its button does: in no log.
    pub fn set_power(&mut self, power: PowerState, now: Instant) {
        self.chassis.set(power, now);
    }

    /// Every order that the machine got, in order: `on`, `off`, `soft`, `cycle`, `reset`, `boot pxe`.
    pub fn orders(&self) -> &[String] {
        self.chassis.orders()
    }

    /// Sessions that are open now, or being opened.
    pub fn open_sessions(&mut self, now: Instant) -> usize {
        self.sessions.forget_old(now);
        self.sessions.len()
    }

    /// Whether somebody has the machine's serial console.
    pub fn has_console(&mut self) -> bool {
        self.sessions.with_console().is_some()
    }

    /// The machine prints on its serial line; lost where nobody has it.
    pub(super) fn say(&mut self, text: &str, now: Instant) {
        if let Some((_, active)) = self.sessions.with_console()
            && let Some(console) = &mut active.console
        {
            console.say(text.as_bytes(), now);
        }
    }

    /// The console is over, and who had it is not told.
    pub fn forget_console(&mut self) {
        if let Some((_, active)) = self.sessions.with_console() {
            active.console = None;
        }
    }

    /// The next answer to Activate Payload is lost, once.
    pub fn lose_next_activation(&mut self) {
        self.loses_activation = true;
    }

    /// Gives it other cipher suites, as other firmware would.
    pub fn set_suites(&mut self, suites: Vec<u8>) {
        self.setup.suites = suites;
    }

    /// Adds an account, as who is root on the machine can.
    pub fn add_user(&mut self, user: User) {
        self.setup.users.push(user);
    }

    /// Takes the last account away again.
    pub fn remove_last_user(&mut self) {
        self.setup.users.pop();
    }

    /// How it is in its network, to be changed.
    pub fn lan(&mut self) -> &mut Lan {
        &mut self.lan
    }

    /// Gives it other firmware of this version.
    pub fn set_firmware(&mut self, major: u8, minor: u8) {
        self.firmware = (major, minor);
    }

    /// Restarts the BMC, not the machine: all sessions are gone, and nothing is heard for `time`.
    pub fn reboot(&mut self, time: Duration, now: Instant) {
        self.sessions = Sessions::default();
        self.starts_at = Some(now + time);
    }

    /// Takes a packet, and answers what it sends.
    pub fn receive(&mut self, from: SocketAddr, bytes: &[u8], now: Instant) -> Vec<Sent> {
        self.counts.packets += 1;
        if self.faults.hangs || self.starts_at.is_some_and(|at| at > now) {
            return Vec::new();
        }
        self.sessions.forget_old(now);
        match packet::decode(bytes) {
            Some(Packet::Ping { tag }) => self.send(from, packet::pong(tag)),
            Some(Packet::Ipmi(body)) => self.take(from, &body, now),
            None => {}
        }
        self.out.drain(..).collect()
    }

    /// When it has something to send by itself.
    pub fn wake_at(&self) -> Option<Instant> {
        self.sessions.wake_at()
    }

    /// Sends what is due by itself.
    pub fn tick(&mut self, now: Instant) -> Vec<Sent> {
        for (to, bytes) in self.sessions.tick(now) {
            self.send(to, bytes);
        }
        self.out.drain(..).collect()
    }

    fn take(&mut self, from: SocketAddr, body: &Body<'_>, now: Instant) {
        match body {
            Body::Plain { format, kind, payload } => match kind {
                0x00 => self.answer_outside(from, *format, payload),
                0x10 => self.open_session(from, payload, now),
                0x12 => self.rakp_1(from, payload, now),
                0x14 => self.rakp_3(from, payload, now),
                _ => {}
            },
            Body::Session(packet) => self.in_session(from, packet, now),
        }
    }

    fn send(&mut self, to: SocketAddr, bytes: Vec<u8>) {
        self.out.push_back(Sent { to, bytes });
    }
}
